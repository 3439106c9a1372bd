"""Tiles made smaller or larger exactly as Pillow does, on any device.

Published transforms work on Pillow's images, whose resampling is fixed-point: the filter's weights
are rounded to 22 bits, and each of two passes rounds to whole grey levels. torch's antialiased
interpolation differs from it by a level in one pixel of 200 on uint8 and in one of five on floats.
Two matrix products in float64 hold every partial sum exactly, so that they give Pillow's own bytes
where Pillow itself cannot run, on a GPU.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from wsi_pipeline.errors import EncoderError

PRECISION_BITS: Final = 22
PARCEL: Final = 32  # tiles resized at once on a GPU: 50 MB of float64 for 256 px
PILLOW: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def pillow_resize(tiles: torch.Tensor, side: int, interpolation: str) -> torch.Tensor:
    """Resize as ``Image.resize`` does.

    Args:
        tiles: (B, H, W, 3) uint8 on any device.
        side: Of the result, pixels.
        interpolation: ``bilinear``, ``bicubic`` or ``lanczos``.

    Returns:
        (B, side, side, 3) uint8 on the same device.
    """
    if tiles.device.type == "cuda":
        return torch.cat([exact(part, side, interpolation) for part in torch.split(tiles, PARCEL)])
    how = PILLOW[interpolation]
    resized = np.empty((len(tiles), side, side, 3), np.uint8)
    for index, tile in enumerate(tiles.cpu().numpy()):
        resized[index] = np.asarray(Image.fromarray(tile).resize((side, side), how))
    return torch.from_numpy(resized).to(tiles.device)


def tensor_resize(tiles: torch.Tensor, side: int, interpolation: str) -> torch.Tensor:
    """Resize as torchvision does with uint8 tensors, for recipes that begin with ``ToImage``.

    Takes and returns the same as :func:`pillow_resize`; ``lanczos`` is not to be had.
    """
    planes = tiles.permute(0, 3, 1, 2)
    size = (side, side)
    if tiles.device.type == "cpu":
        resized = functional.interpolate(planes, size, mode=interpolation, antialias=True)
    else:  # there is no such kernel for bytes
        resized = functional.interpolate(planes.float(), size, mode=interpolation, antialias=True)
        resized = resized.clamp_(0, 255).round_().to(torch.uint8)
    return resized.permute(0, 2, 3, 1)


def exact(tiles: torch.Tensor, side: int, interpolation: str) -> torch.Tensor:
    """Do :func:`pillow_resize` by matrix products: first along rows, then along columns."""
    height, width = tiles.shape[1:3]
    across = _weights(width, side, interpolation).to(tiles.device)
    down = _weights(height, side, interpolation).to(tiles.device)
    planes = tiles.permute(0, 3, 1, 2).double()
    planes = _whole(planes @ across.T) if width != side else planes
    planes = _whole(down @ planes) if height != side else planes
    return planes.to(torch.uint8).permute(0, 2, 3, 1)


def _whole(sums: torch.Tensor) -> torch.Tensor:
    """Fixed-point sums → grey levels, as an arithmetic shift rounds them."""
    half = 1 << (PRECISION_BITS - 1)
    return sums.add_(half).div_(1 << PRECISION_BITS).floor_().clamp_(0, 255)


@lru_cache(maxsize=32)
def _weights(size: int, side: int, interpolation: str) -> torch.Tensor:
    """Return the (side, size) fixed-point weights of one pass, as whole numbers in float64."""
    if interpolation not in FILTERS:
        raise EncoderError(f"interpolation {interpolation!r}: known are {', '.join(FILTERS)}")
    kernel, reach = FILTERS[interpolation]
    scale = size / side
    stretch = max(scale, 1.0)
    support = reach * stretch
    weights = torch.zeros((side, size), dtype=torch.float64)
    for row in range(side):
        centre = (row + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        stop = min(int(centre + support + 0.5), size)
        taps = [kernel((at - centre + 0.5) * (1.0 / stretch)) for at in range(first, stop)]
        total = sum(taps)
        for at, tap in zip(range(first, stop), taps, strict=True):
            share = tap * (1.0 / total) * (1 << PRECISION_BITS)
            weights[row, at] = math.trunc(share + (0.5 if share >= 0 else -0.5))
    return weights


def _triangle(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _keys(x: float) -> float:
    """Return the cubic convolution kernel with a = −½ (Keys, 1981)."""
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


FILTERS: Final[dict[str, tuple[Callable[[float], float], float]]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_keys, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""Interpolation → kernel and its reach in source pixels."""
