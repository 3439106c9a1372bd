"""Where a slide's tiles are: pure geometry, no pixels.

The level read is the coarsest whose mpp is at most the target's. On that level a tile is a square
of a whole number of pixels, reduced to ``tile_px`` by area averaging; so a tile's pixels never
depend on the block it was read in, and its coordinates are exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError, MppError
from wsi_pipeline.slides import SlideInfo
from wsi_pipeline.tiles.settings import Edge
from wsi_pipeline.types import Coords, Region

MPP_TOLERANCE: Final = 0.02  # two resolutions this close count as the same
COARSER: Final = "coarser_than_target"
UNKNOWN_MPP: Final = "mpp_unknown"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Tiles in canonical order: row by row, left to right; tile ``i`` is at ``divmod(i, columns)``.

    Attributes:
        columns, rows: Tiles across and down; 0 where not even one fits.
        tile_px: Side of a finished tile.
        level: Pyramid level read.
        downsample: Ratio of that level to level 0.
        tile_px_level: Side of a tile on that level.
        stride_px_level: Step from tile to tile on that level; less than the side with overlap.
        area_level: The region tiled, in pixels of that level; white is read outside of it.
        target_mpp: What was asked; None where the slide's own is unknown.
        effective_mpp: What a finished tile has, µm/px; None where unknown.
        flags: ``coarser_than_target``, ``mpp_unknown``.
    """

    columns: int
    rows: int
    tile_px: int
    level: int
    downsample: float
    tile_px_level: int
    stride_px_level: int
    area_level: Region
    target_mpp: float | None
    effective_mpp: float | None
    flags: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.columns * self.rows

    @property
    def tile_px_level0(self) -> float:
        """Side of a tile in level-0 pixels; whole only if the downsample is."""
        return self.tile_px_level * self.downsample

    def corners(self, indices: NDArray[np.integer[Any]] | None = None) -> Coords:
        """Return (n, 2) int64: top-left (x, y) of the tiles in pixels of the level read."""
        if indices is None:
            indices = np.arange(len(self))
        rows, columns = np.divmod(indices.astype(np.int64), max(self.columns, 1))
        x = self.area_level.x + columns * self.stride_px_level
        y = self.area_level.y + rows * self.stride_px_level
        return np.stack([x, y], axis=-1)

    def coords(self, indices: NDArray[np.integer[Any]] | None = None) -> Coords:
        """Return (n, 2) int64: top-left (x, y) of the tiles in level-0 pixels."""
        return np.asarray(np.rint(self.corners(indices) * self.downsample), dtype=np.int64)


def plan_grid(  # noqa: PLR0913  each is one choice of the user
    info: SlideInfo,
    mpp: float | None,
    target_mpp: float = 0.5,
    *,
    tile_px: int = 256,
    overlap_px: int = 0,
    edge: Edge = "drop",
    region: Region | None = None,
    allow_coarser: bool = False,
) -> Grid:
    """Lay a slide out in tiles.

    Args:
        info: The slide's levels.
        mpp: Its level-0 resolution, µm/px; None ("unknown") takes level 0 as it is.
        target_mpp: Resolution of the tiles, µm/px.
        tile_px: Side of a finished tile.
        overlap_px: What neighbours share, in pixels of a finished tile.
        edge: ``drop`` leaves out what would reach over the right and bottom edge, ``pad`` keeps it.
        region: The part of the slide to tile, level-0 pixels; None takes the whole.
        allow_coarser: Take level 0 as it is where it is coarser than the target, and flag it.

    Raises:
        MppError: The slide is coarser than ``target_mpp``; tiles are never enlarged.
        ConfigError: The sizes contradict each other.
    """
    if not 0 <= overlap_px < tile_px:
        raise ConfigError(f"overlap_px must be at least 0 and less than tile_px {tile_px}, "
                          f"found {overlap_px}")  # fmt: skip
    level, side, flags = _level_and_side(info, mpp, target_mpp, tile_px, allow_coarser)
    downsample = info.level_downsamples[level]
    area = _area(info.level_dimensions[level], downsample, region)
    stride = max(1, side - round(overlap_px * side / tile_px))
    return Grid(
        columns=_count(area.width, side, stride, edge),
        rows=_count(area.height, side, stride, edge),
        tile_px=tile_px,
        level=level,
        downsample=downsample,
        tile_px_level=side,
        stride_px_level=stride,
        area_level=area,
        target_mpp=None if mpp is None else target_mpp,
        effective_mpp=None if mpp is None else mpp * downsample * side / tile_px,
        flags=flags,
    )


def _level_and_side(
    info: SlideInfo, mpp: float | None, target_mpp: float, tile_px: int, allow_coarser: bool
) -> tuple[int, int, tuple[str, ...]]:
    if mpp is None:
        return 0, tile_px, (UNKNOWN_MPP,)
    if mpp > target_mpp * (1 + MPP_TOLERANCE):
        if allow_coarser:
            return 0, tile_px, (COARSER,)
        raise MppError(
            f"{info.path}: {mpp:g} µm/px is coarser than the {target_mpp:g} µm/px asked for; "
            f"ask for mpp {mpp:g} or more, or allow coarser slides"
        )
    level = coarsest_level(info.level_downsamples, target_mpp / mpp)
    ratio = target_mpp / (mpp * info.level_downsamples[level])
    same = abs(ratio - 1) <= MPP_TOLERANCE
    return level, tile_px if same else round(tile_px * ratio), ()


def coarsest_level(downsamples: Sequence[float], downsample: float) -> int:
    """Return the level of the largest downsample up to ``downsample``, 2 % tolerated."""
    fitting = [
        level
        for level, ratio in enumerate(downsamples)
        if ratio <= downsample * (1 + MPP_TOLERANCE)
    ]
    return max(fitting, key=lambda level: downsamples[level], default=0)


def _area(size: tuple[int, int], downsample: float, region: Region | None) -> Region:
    """Return ``region``, or the whole level, in pixels of the level and inside of it."""
    width, height = size
    if region is None:
        return Region(x=0, y=0, width=width, height=height)
    left, top = round(region.x / downsample), round(region.y / downsample)
    right = round((region.x + region.width) / downsample)
    bottom = round((region.y + region.height) / downsample)
    left, right = (min(max(x, 0), width) for x in (left, right))
    top, bottom = (min(max(y, 0), height) for y in (top, bottom))
    return Region(x=left, y=top, width=right - left, height=bottom - top)


def _count(extent: int, side: int, stride: int, edge: Edge) -> int:
    """Return how many tiles lie along ``extent`` pixels."""
    if extent <= 0:
        return 0
    if edge == "drop":
        return 0 if extent < side else (extent - side) // stride + 1
    return 1 if extent <= side else -((side - extent) // stride) + 1
