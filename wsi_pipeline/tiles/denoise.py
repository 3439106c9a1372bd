"""Noise filters for tiles."""

import cv2
import numpy as np

from wsi_pipeline.tiles.settings import Denoise
from wsi_pipeline.types import RgbTiles


def denoise_tiles(tiles: RgbTiles, method: Denoise, radius_px: int = 1) -> RgbTiles:
    """Filter each tile by itself, its border pixels repeated outwards.

    So a tile's pixels depend on nothing beyond it, and neighbours differ a little along their seam.

    Args:
        tiles: (N, H, W, 3) uint8.
        method: ``median`` takes out single bright and dark pixels and keeps edges; ``gaussian``
            (standard deviation half the radius) evens out grain and softens edges; ``none``
            returns ``tiles`` itself.
        radius_px: Of the window, which is 2 radius + 1 pixels wide.

    Returns:
        (N, H, W, 3) uint8.
    """
    if method == "none":
        return tiles
    side = 2 * radius_px + 1
    out = np.empty_like(tiles)
    for index, tile in enumerate(tiles):
        if method == "median":
            out[index] = cv2.medianBlur(np.ascontiguousarray(tile), side)
        else:
            out[index] = cv2.GaussianBlur(
                tile, (side, side), radius_px / 2, borderType=cv2.BORDER_REPLICATE
            )
    return out
