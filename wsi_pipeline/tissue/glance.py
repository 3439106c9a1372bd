"""One look at each tile, while it is in the processor's cache: its focus and its coarse copy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tissue.coarse import CoarseTiles, Reducer, coarse_size
from wsi_pipeline.tissue.qc import Sharpness
from wsi_pipeline.types import RgbTiles


def glance(
    tiles: RgbTiles, places: NDArray[np.integer[Any]], mpp: float | None
) -> tuple[NDArray[np.float32], CoarseTiles]:
    """Return what ``focus`` and ``coarse_tiles`` return of the tiles at ``places``.

    Args:
        tiles: (N, H, W, 3) uint8.
        places: (n,) indices of tiles, which need not be copied together.
        mpp: The tiles' resolution, µm/px; None is taken for 0.5.

    Returns:
        (n,) float32 focus, and n coarse tiles.

    Raises:
        ConfigError: ``mpp`` is not positive.
    """
    side = (tiles.shape[2], tiles.shape[1])
    size, um_per_px = coarse_size(side, mpp)
    sharpness, reducer = Sharpness(side), Reducer(side, size)
    focus = np.empty(len(places), np.float32)
    rgb = np.empty((len(places), size[1], size[0], 3), np.uint8)
    for index, place in enumerate(places):
        focus[index] = sharpness(tiles[place])
        reducer.reduce(tiles[place], rgb[index])
    return focus, CoarseTiles(rgb=rgb, um_per_px=um_per_px)
