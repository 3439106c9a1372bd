"""The stain map on tensors, for any device: inside extraction the GPU does it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from wsi_pipeline.errors import StainFitError
from wsi_pipeline.stain.stains import REFERENCE, Stains, density_map


def torch_normalise(
    tiles: torch.Tensor,
    source: Stains | Sequence[Stains | None] | None,
    target: Stains = REFERENCE,
    channels: Literal["last", "first"] = "last",
) -> torch.Tensor:
    """Map tiles to the reference stains; within 1 grey level of :func:`normalise`.

    Autocast has no effect here: the arithmetic is element-wise in float32.

    Args:
        tiles: uint8, (N, H, W, 3) or with ``channels="first"`` (N, 3, H, W).
        source: stains of the slide, or one entry a tile where a batch crosses slides. None leaves
            its tiles as they are.
        target: reference stains.
        channels: where the RGB axis is.

    Returns:
        uint8 tensor of the same shape, memory format and device.

    Raises:
        StainFitError: the tensor is not uint8 RGB tiles, or the number of sources is not N.
    """
    axis = -1 if channels == "last" else 1
    if tiles.dtype != torch.uint8 or tiles.ndim != 4 or tiles.shape[axis] != 3:
        raise StainFitError(
            f"Tiles must be uint8 with 3 channels {channels}, not {tuple(tiles.shape)} "
            f"{tiles.dtype}."
        )
    if source is None:
        return tiles
    per_tile = isinstance(source, Sequence)
    sources = list(source) if isinstance(source, Sequence) else [source]
    if per_tile and len(sources) != len(tiles):
        raise StainFitError(f"{len(tiles)} tiles came with {len(sources)} stain sources.")
    maps = np.stack([np.eye(3) if s is None else density_map(s, target) for s in sources])
    matrix = torch.as_tensor(-maps, dtype=torch.float32, device=tiles.device)
    mapped = _map_density(tiles, matrix, axis)
    if per_tile and any(s is None for s in sources):
        keep = torch.tensor([s is None for s in sources], device=tiles.device)
        mapped = torch.where(keep[:, None, None, None], tiles, mapped)
    return mapped


def _map_density(tiles: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """Apply (1 or N, 3, 3) negated density maps along ``axis``."""
    density = [-(c.clamp_min(1).float() / 255.0).log() for c in tiles.unbind(axis)]  # (N, H, W)
    mapped = torch.empty_like(tiles)
    for channel, result in enumerate(mapped.unbind(axis)):
        weights = matrix[:, channel, :, None, None]  # (1 or N, 3, 1, 1)
        level = weights[:, 0] * density[0]
        level += weights[:, 1] * density[1]
        level += weights[:, 2] * density[2]
        result.copy_(level.exp_().mul_(255.0).round_().clamp_(0, 255))
    return mapped
