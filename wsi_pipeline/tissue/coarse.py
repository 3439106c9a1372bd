"""Tiles at about 2 µm/px, on which everything broad is looked for: ink, folds, blood."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import RgbImage, RgbTiles

COARSE_MPP: Final = 2.0
UNKNOWN_MPP: Final = 0.5  # what tiles of unknown resolution are taken for
TISSUE_DENSITY: Final = 0.03  # mean optical density below which a pixel is glass
LEAST_TRANSMITTED: Final = 0.01
HANDFUL_PX: Final = 32_768  # of 8 coarse tiles, where tiles have 256 px at 0.5 µm/px

Levels = NDArray[np.uint8]
_Entry = TypeVar("_Entry", np.uint8, np.float32)


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

    @cached_property
    def planes(self) -> tuple[Levels, Levels, Levels]:
        """Red, green and blue apart, (N, h, w) uint8 each: arithmetic is fastest along such."""
        count, height, width, _ = self.rgb.shape
        if not count:
            empty = np.empty((0, height, width), np.uint8)
            return empty, empty, empty
        red, green, blue = (
            np.asarray(plane, np.uint8).reshape(count, height, width)
            for plane in cv2.split(as_picture(self.rgb))
        )
        return red, green, blue

    def at(self, places: NDArray[np.integer[Any]]) -> "CoarseTiles":
        """Return those at (n,) places, ascending; the very tiles, if those are all."""
        if len(places) == len(self.rgb):
            return self
        return CoarseTiles(rgb=self.rgb[places], um_per_px=self.um_per_px)

    @cached_property
    def handfuls(self) -> tuple["CoarseTiles", ...]:
        """A few tiles at a time, see :func:`handfuls`; what they keep serves every rule."""
        return tuple(self.handfuls_of(HANDFUL_PX))

    def handfuls_of(self, px: int) -> Iterator["CoarseTiles"]:
        """Yield so many tiles at a time as have about so many pixels."""
        for few in handfuls(self.rgb, px):
            yield CoarseTiles(rgb=few, um_per_px=self.um_per_px)


def handfuls(tiles: RgbTiles, px: int = HANDFUL_PX) -> Iterator[RgbTiles]:
    """Yield tiles a few at a time and at least once.

    What is computed of a handful stays in the cache, and is small enough for the memory of the last
    one to serve the next: arrays for a whole block would be fetched from the system every time.

    Args:
        tiles: (N, h, w, 3).
        px: About how many pixels make a handful.
    """
    few = max(1, px // (tiles.shape[1] * tiles.shape[2]))
    for start in range(0, max(len(tiles), 1), few):
        yield tiles[start : start + few]


def look_up(
    levels: Levels, table: NDArray[_Entry], out: NDArray[_Entry] | None = None
) -> NDArray[_Entry]:
    """Replace each grey level by its entry; several times as fast as indexing.

    Args:
        levels: (..., W) uint8.
        table: (256,) of uint8 or float32.
        out: Where to write, the shape of ``levels`` and the type of ``table``; contiguous.

    Returns:
        ``out``, or a new array like it.
    """
    if out is None:
        out = np.empty(levels.shape, table.dtype)
    if levels.size:
        width = levels.shape[-1]
        cv2.LUT(levels.reshape(-1, width), table, dst=out.reshape(-1, width))
    return out


def light_levels(glass: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (3, 256) float32: the share of light, in [0.01, 1], that each grey level stands for.

    Args:
        glass: (3,) uint8, the colour of empty glass.
    """
    return np.asarray(_light(glass), dtype=np.float32)


def density_levels(glass: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (3, 256) float32: the optical density, the negative decimal log of that light."""
    return np.asarray(-np.log10(_light(glass)), dtype=np.float32)


def _light(glass: NDArray[np.uint8]) -> NDArray[np.float64]:
    levels = np.arange(256) / np.maximum(glass, 1)[:, None]
    return np.asarray(np.clip(levels, LEAST_TRANSMITTED, 1), dtype=np.float64)


def coarse_tiles(tiles: RgbTiles, mpp: float | None = UNKNOWN_MPP) -> CoarseTiles:
    """Reduce tiles by a whole factor to about 2 µm/px; coarser ones stay as they are.

    Args:
        tiles: (N, H, W, 3) uint8.
        mpp: Their resolution, µm/px; None is taken for 0.5.

    Raises:
        ValueError: ``tiles`` has another shape or type, or ``mpp`` is not positive.
    """
    check_tiles(tiles)
    size, um_per_px = coarse_size((tiles.shape[2], tiles.shape[1]), mpp)
    return CoarseTiles(rgb=reduce_tiles(tiles, size), um_per_px=um_per_px)


def coarse_size(side: tuple[int, int], mpp: float | None) -> tuple[tuple[int, int], float]:
    """Return the (width, height) that tiles of a (width, height) are reduced to, and its µm/px.

    Raises:
        ValueError: ``mpp`` is not positive.
    """
    mpp = UNKNOWN_MPP if mpp is None else mpp
    if not mpp > 0:
        raise ValueError(f"The tiles' mpp must be positive; got {mpp}.")
    factor = max(1, round(COARSE_MPP / mpp))
    size = (max(side[0] // factor, 1), max(side[1] // factor, 1))
    return size, mpp * side[0] / size[0]


def reduce_tiles(tiles: RgbTiles, size: tuple[int, int]) -> RgbTiles:
    """Average tiles down to ``size`` (width, height); see :class:`Reducer`.

    Args:
        tiles: (N, H, W, 3) uint8.
        size: At most the tiles' own.

    Returns:
        (N, height, width, 3) uint8.
    """
    small = np.empty((len(tiles), size[1], size[0], 3), np.uint8)
    reducer = Reducer((tiles.shape[2], tiles.shape[1]), size)
    for tile, out in zip(tiles, small, strict=True):
        reducer.reduce(tile, out)
    return small


class Reducer:
    """Averages tiles of one size down to another, in memory that it uses again.

    Halving is several times as fast as any other factor, so as much as possible is done by halves;
    that rounds more than once, to within a grey level.

    Args:
        side: (width, height) of the tiles.
        size: (width, height) to reach, at most that.
    """

    def __init__(self, side: tuple[int, int], size: tuple[int, int]) -> None:
        self.size = size
        self._halves = [
            np.empty((height, width, 3), np.uint8) for width, height in _halvings(side, size)
        ]

    def reduce(self, tile: RgbImage, out: RgbImage) -> None:
        """Fill ``out``, (height, width, 3), from a tile."""
        for half in self._halves:
            cv2.resize(tile, half.shape[1::-1], dst=half, interpolation=cv2.INTER_AREA)
            tile = half
        cv2.resize(tile, self.size, dst=out, interpolation=cv2.INTER_AREA)


def _halvings(side: tuple[int, int], size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield what halving ``side`` gives on the way to ``size``, while sides are even."""
    width, height = side
    while height % 2 == width % 2 == 0 and width >= 2 * size[0] and height >= 2 * size[1]:
        width, height = width // 2, height // 2
        if (width, height) != size:
            yield width, height


def as_picture(tiles: RgbTiles) -> RgbImage:
    """Return (N, H, W, 3) tiles as one tall picture: one call for it costs less than N for them."""
    count, height, width, channels = tiles.shape
    return tiles.reshape(count * height, width, channels)


def shares(masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (N,) float32: which share of each of the (N, h, w) masks is not 0."""
    counts = np.array([cv2.countNonZero(mask) for mask in masks])
    return np.asarray(counts / (masks.shape[1] * masks.shape[2]), np.float32)


def check_tiles(tiles: RgbTiles) -> None:
    """Refuse what is not a stack of RGB tiles.

    Raises:
        ValueError: As said.
    """
    if tiles.ndim != 4 or tiles.shape[3] != 3 or tiles.dtype != np.uint8 or 0 in tiles.shape[1:]:
        raise ValueError(f"Expected tiles (N, H, W, 3) uint8; got {tiles.shape} {tiles.dtype}.")
