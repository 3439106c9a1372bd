"""Tiles turned, shifted, sheared, zoomed, mirrored and stained anew, a batch at a time.

Everything happens on the device the batch is on, from one generator, so that a step's pictures
follow from its seed.
"""

from math import pi

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsi_pipeline.learn.settings import AugmentSettings
from wsi_pipeline.stain import REFERENCE


def augment(tiles: Tensor, asked: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Change each tile of a batch in its own way.

    Args:
        tiles: (B, 3, H, W) float32, grey levels 0–255; square.
        asked: How far.
        generator: Drawn from, on the CPU whatever the device.

    Returns:
        (B, 3, H, W) float32 in 0–255. What comes in over an edge repeats the edge.
    """
    if asked.quarter_turns:
        turns = torch.randint(4, (len(tiles),), generator=generator)
        tiles = torch.stack(
            [torch.rot90(tile, int(k), (1, 2)) for tile, k in zip(tiles, turns, strict=True)]
        )
    if asked.flip:
        for axis in (3, 2):
            mirrored = _draw(len(tiles), 1.0, generator) > 0
            tiles = torch.where(
                mirrored.to(tiles.device)[:, None, None, None], tiles.flip(axis), tiles
            )
    if asked.moves:
        tiles = _moved(tiles, asked, generator)
    if asked.stain:
        tiles = _stained(tiles, asked.stain, generator)
    if asked.brightness:
        scale = 1 + _draw(len(tiles), asked.brightness, generator)
        tiles = tiles * scale.to(tiles.device)[:, None, None, None]
    return tiles.clamp(0, 255)


def _draw(count: int, reach: float, generator: torch.Generator) -> Tensor:
    """(count,) float32, uniform in ±``reach``."""
    return (torch.rand(count, generator=generator) * 2 - 1) * reach


def _moved(tiles: Tensor, asked: AugmentSettings, generator: torch.Generator) -> Tensor:
    """One affine map a tile, bilinear, from output to input coordinates in [-1, 1]."""
    count = len(tiles)
    angle = _draw(count, asked.rotate_deg * pi / 180, generator)
    shear = _draw(count, asked.shear, generator)
    zoom_x, zoom_y = (1 + _draw(count, asked.zoom, generator) for _ in "xy")
    shift = torch.stack([2 * _draw(count, asked.shift, generator) for _ in "xy"], dim=1)
    cosine, sine = angle.cos(), angle.sin()
    maps = torch.stack(
        [
            torch.stack([cosine * zoom_x, (shear * cosine - sine) * zoom_y, shift[:, 0]], dim=1),
            torch.stack([sine * zoom_x, (shear * sine + cosine) * zoom_y, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    size = [int(side) for side in tiles.shape]
    grid = functional.affine_grid(maps.to(tiles.device, tiles.dtype), size, align_corners=False)
    return functional.grid_sample(tiles, grid, padding_mode="border", align_corners=False)


def _stained(tiles: Tensor, reach: float, generator: torch.Generator) -> Tensor:
    """Scale and shift the amounts of haematoxylin and eosin; what is neither stays.

    Source: Tellez et al., IEEE Transactions on Medical Imaging 37, 2018.
    """
    basis = np.vstack([REFERENCE.matrix, np.cross(*REFERENCE.matrix)])
    to_density = torch.as_tensor(basis, dtype=torch.float32, device=tiles.device)
    to_stains = torch.as_tensor(np.linalg.inv(basis), dtype=torch.float32, device=tiles.device)
    density = -(tiles.clamp_min(1) / 255).log()
    amounts = torch.einsum("bchw,cs->bshw", density, to_stains)
    scale, shift = torch.ones(len(tiles), 3), torch.zeros(len(tiles), 3)
    for stain in (0, 1):
        scale[:, stain] += _draw(len(tiles), reach, generator)
        shift[:, stain] += _draw(len(tiles), reach / 5, generator)
    amounts = amounts * scale.to(tiles.device)[..., None, None]
    tissue = density.mean(1, keepdim=True) > 0.1  # empty glass stays white
    amounts = amounts + shift.to(tiles.device)[..., None, None] * tissue
    return 255 * (-torch.einsum("bshw,sc->bchw", amounts, to_density)).exp()
