"""How much of each tile is tissue."""

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import Coords, Mask


def tissue_fractions(
    mask: Mask,
    coords: Coords,
    tile_px_level0: float,
    downsample: float,
    origin: tuple[float, float] = (0, 0),
) -> NDArray[np.float32]:
    """Share of each tile that the mask covers, exact to fractions of a mask pixel.

    A mask pixel counts by the area it shares with the tile. What lies outside the mask is not
    tissue.

    Args:
        mask: (H, W) bool.
        coords: (N, 2) int64 level-0 (x, y) of each tile's top-left corner.
        tile_px_level0: Side of a tile in level-0 pixels.
        downsample: Level-0 pixels per mask pixel.
        origin: Level-0 (x, y) of the mask's top-left corner.

    Returns:
        (N,) float32 in [0, 1].

    Raises:
        ValueError: A side or downsample that is not positive, or arrays of another shape.
    """
    if mask.ndim != 2 or coords.ndim != 2 or coords.shape[1] != 2:
        raise ValueError(
            f"Expected mask (H, W) and coords (N, 2); got {mask.shape} and {coords.shape}."
        )
    if not (tile_px_level0 > 0 and downsample > 0):
        raise ValueError(
            "tile_px_level0 and downsample must be positive; "
            f"got {tile_px_level0} and {downsample}."
        )
    integral = np.asarray(cv2.integral(mask.astype(np.uint8), sdepth=cv2.CV_64F), dtype=np.float64)
    start = (coords.astype(np.float64) - np.asarray(origin, dtype=np.float64)) / downsample
    side = tile_px_level0 / downsample
    x0, y0 = start[:, 0], start[:, 1]
    covered = _area_before(integral, x0 + side, y0 + side) + _area_before(integral, x0, y0)
    covered -= _area_before(integral, x0 + side, y0) + _area_before(integral, x0, y0 + side)
    return np.clip(covered / side**2, 0, 1).astype(np.float32)


def _area_before(
    integral: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mask area left of ``x`` and above ``y``; the integral image is bilinear inside a pixel."""
    height, width = integral.shape[0] - 1, integral.shape[1] - 1
    x, y = np.clip(x, 0, width), np.clip(y, 0, height)
    left = np.minimum(x.astype(np.int64), max(width - 1, 0))
    top = np.minimum(y.astype(np.int64), max(height - 1, 0))
    u, v = x - left, y - top
    upper = integral[top, left] * (1 - u) + integral[top, left + 1] * u
    lower = integral[top + 1, left] * (1 - u) + integral[top + 1, left + 1] * u
    return np.asarray(upper * (1 - v) + lower * v, dtype=np.float64)
