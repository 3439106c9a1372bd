"""Quality of tiles, measured; what to do about it is decided elsewhere.

Each function takes (N, H, W, 3) uint8 and returns one number a tile. Tiles are visited one by one,
so that each stays in the processor's cache while OpenCV works on it.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tissue.ink import RULES, ink_masks
from wsi_pipeline.types import RgbTiles

BACKGROUND_LEVEL = 220
INK_REDUCTION = 4  # ink is broad: it is looked for at a quarter of the tile's resolution


def focus(tiles: RgbTiles) -> NDArray[np.float32]:
    """Sharpness: the variance of the Laplacian of luminance; higher is sharper.

    It also grows with the amount of detail, so compare tiles of one slide with each other and
    leave mostly empty tiles out.

    Args:
        tiles: (N, H, W, 3) uint8.

    Returns:
        (N,) float32, in squared grey levels.

    Raises:
        ConfigError: ``tiles`` has another shape or type.

    Source: Pech-Pacheco et al., ICPR 2000.
    """
    _check(tiles)
    scores = np.zeros(len(tiles), np.float32)
    for index, tile in enumerate(tiles):
        grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
        _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S, ksize=1))
        scores[index] = float(deviation[0, 0]) ** 2
    return scores


def background_fractions(tiles: RgbTiles, threshold: int = BACKGROUND_LEVEL) -> NDArray[np.float32]:
    """Share of empty pixels: those whose red, green and blue all reach ``threshold``.

    Meant for stain-normalised tiles, in which glass is near white whatever the scanner; there the
    same threshold means the same on every slide.

    Args:
        tiles: (N, H, W, 3) uint8.
        threshold: Grey level, 0 to 255.

    Returns:
        (N,) float32 in [0, 1].

    Raises:
        ConfigError: ``tiles`` has another shape or type, or the threshold is outside 0 to 255.
    """
    _check(tiles)
    if not 0 <= threshold <= 255:
        raise ConfigError(f"The background threshold must lie in 0 to 255; got {threshold}.")
    low, high = np.full(3, threshold, np.float64), np.full(3, 255, np.float64)
    counts = [cv2.countNonZero(cv2.inRange(tile, low, high)) for tile in tiles]
    return np.asarray(np.array(counts) / (tiles.shape[1] * tiles.shape[2]), dtype=np.float32)


def ink_fractions(tiles: RgbTiles) -> dict[str, NDArray[np.float32]]:
    """Share of each tile under marker ink, by colour (see ``pen_fractions``).

    Args:
        tiles: (N, H, W, 3) uint8.

    Returns:
        ``red``, ``green``, ``blue`` and ``black``, each (N,) float32 in [0, 1].

    Raises:
        ConfigError: ``tiles`` has another shape or type.
    """
    shares = _ink_shares(tiles)
    return {name: shares[:, column].copy() for column, name in enumerate(RULES)}


def pen_fractions(tiles: RgbTiles) -> NDArray[np.float32]:
    """Share of each tile under marker ink of any colour.

    Args:
        tiles: (N, H, W, 3) uint8.

    Returns:
        (N,) float32 in [0, 1].

    Raises:
        ConfigError: ``tiles`` has another shape or type.
    """
    return np.asarray(np.minimum(_ink_shares(tiles).sum(axis=1), 1), dtype=np.float32)


def _ink_shares(tiles: RgbTiles) -> NDArray[np.float32]:
    """(N, colours) float32, columns in the order of ``RULES``; a pixel counts once."""
    _check(tiles)
    shares = np.zeros((len(tiles), len(RULES)), np.float32)
    height, width = tiles.shape[1:3]
    size = (max(width // INK_REDUCTION, 1), max(height // INK_REDUCTION, 1))
    for index, tile in enumerate(tiles):
        small = np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        shares[index] = [mask.mean() for mask in ink_masks(small).values()]
    return shares


def _check(tiles: RgbTiles) -> None:
    if tiles.ndim != 4 or tiles.shape[3] != 3 or tiles.dtype != np.uint8 or 0 in tiles.shape[1:]:
        raise ConfigError(f"Expected tiles (N, H, W, 3) uint8; got {tiles.shape} {tiles.dtype}.")
