"""Tiles at about 2 µm/px, on which everything broad is looked for: ink, folds, blood."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.types import RgbImage, RgbTiles

COARSE_MPP: Final = 2.0
UNKNOWN_MPP: Final = 0.5  # what tiles of unknown resolution are taken for
TISSUE_DENSITY: Final = 0.03  # mean optical density below which a pixel is glass
LEAST_TRANSMITTED: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class CoarseTiles:
    """Reduced tiles.

    Attributes:
        rgb: (N, h, w, 3) uint8.
        um_per_px: Their resolution.
    """

    rgb: RgbTiles
    um_per_px: float

    def radius_px(self, um: float) -> int:
        """Return a length in whole pixels."""
        return round(um / self.um_per_px)

    def transmitted(self, glass: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, h, w, 3) float32: the share of light let through, in [0.01, 1].

        Args:
            glass: (3,) uint8, the colour of empty glass.
        """
        return self._looked_up(_transmitted(glass))

    def density(self, glass: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (N, h, w, 3) float32: optical density, the negative decimal log of that light."""
        return self._looked_up(-np.log10(_transmitted(glass)))

    def _looked_up(self, table: NDArray[np.float64]) -> NDArray[np.float32]:
        """Replace each grey level by its entry in the (256, 3) table."""
        count, height, width, _ = self.rgb.shape
        if not count:
            return np.empty(self.rgb.shape, np.float32)
        stack = self.rgb.reshape(count * height, width, 3)
        values = np.asarray(cv2.LUT(stack, table.astype(np.float32)[None]), np.float32)
        return values.reshape(self.rgb.shape)


def _transmitted(glass: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(256, 3): the light each grey level stands for."""
    levels = np.arange(256)[:, None] / np.maximum(glass, 1)
    return np.asarray(np.clip(levels, LEAST_TRANSMITTED, 1), dtype=np.float64)


def coarse_tiles(tiles: RgbTiles, mpp: float | None = UNKNOWN_MPP) -> CoarseTiles:
    """Reduce tiles by a whole factor to about 2 µm/px; coarser ones stay as they are.

    Args:
        tiles: (N, H, W, 3) uint8.
        mpp: Their resolution, µm/px; None is taken for 0.5.

    Raises:
        ConfigError: ``tiles`` has another shape or type, or ``mpp`` is not positive.
    """
    check_tiles(tiles)
    mpp = UNKNOWN_MPP if mpp is None else mpp
    if not mpp > 0:
        raise ConfigError(f"The tiles' mpp must be positive; got {mpp}.")
    height, width = tiles.shape[1:3]
    factor = max(1, round(COARSE_MPP / mpp))
    size = (max(width // factor, 1), max(height // factor, 1))
    return CoarseTiles(rgb=reduce_tiles(tiles, size), um_per_px=mpp * width / size[0])


def reduce_tiles(tiles: RgbTiles, size: tuple[int, int]) -> RgbTiles:
    """Average tiles down to ``size`` (width, height).

    Halving is several times as fast as any other factor, so as much as possible is done by halves;
    that rounds more than once, to within a grey level.

    Args:
        tiles: (N, H, W, 3) uint8.
        size: At most the tiles' own.

    Returns:
        (N, height, width, 3) uint8.
    """
    small = np.empty((len(tiles), size[1], size[0], 3), np.uint8)
    for index, tile in enumerate(tiles):
        cv2.resize(_halved(tile, size), size, dst=small[index], interpolation=cv2.INTER_AREA)
    return small


def _halved(tile: RgbImage, size: tuple[int, int]) -> RgbImage:
    """Halve an image while its sides are even and stay at or above ``size``."""
    height, width = tile.shape[:2]
    while height % 2 == width % 2 == 0 and width >= 2 * size[0] and height >= 2 * size[1]:
        height, width = height // 2, width // 2
        tile = cv2.resize(tile, (width, height), interpolation=cv2.INTER_AREA)
    return tile


def check_tiles(tiles: RgbTiles) -> None:
    """Refuse what is not a stack of RGB tiles.

    Raises:
        ConfigError: As said.
    """
    if tiles.ndim != 4 or tiles.shape[3] != 3 or tiles.dtype != np.uint8 or 0 in tiles.shape[1:]:
        raise ConfigError(f"Expected tiles (N, H, W, 3) uint8; got {tiles.shape} {tiles.dtype}.")
