"""Whose pixels tiles are averaged from: a level's own, or those that a JPEG gives at that size.

Where a tile is two, four or eight times as many pixels of the level read, the decoder can leave the
finest frequencies out and give the level at the tiles' own size. That saves a part of the decoding
and all of the averaging; pixels differ from the mean by less than one grey level on average, of
JPEG 2000 by one or two, see docs/performance.md.
"""

from dataclasses import replace
from typing import Final

from wsi_pipeline.slides import ReducedLevel, Slide, SlideReader
from wsi_pipeline.tiles.blocks import PixelSource
from wsi_pipeline.tiles.grid import Grid
from wsi_pipeline.tiles.settings import Resample
from wsi_pipeline.types import Region

FACTORS: Final = (2, 4, 8)  # that a JPEG's blocks of eight can be scaled by


def pixel_source(slide: Slide, grid: Grid, resample: Resample) -> tuple[PixelSource, Grid]:
    """Return what tiles are read from, and the same grid in its pixels.

    That is the slide and the grid, unless a tile's pixels are whole numbers of the level's and the
    slide's reader gives them reduced: scaled, if that is asked for, or averaged as they are
    decoded, which are the same pixels as averaged later.
    """
    source = _scaled(slide, grid, resample) or _averaged(slide, grid)
    if source is None:
        return slide, grid
    factor = grid.tile_px_level // grid.tile_px
    area = grid.area_level
    return source, replace(
        grid,
        downsample=grid.downsample * factor,
        tile_px_level=grid.tile_px,
        stride_px_level=grid.stride_px_level // factor,
        area_level=Region(
            x=area.x // factor, y=area.y // factor,
            width=area.width // factor, height=area.height // factor,
        ),
    )  # fmt: skip


def resampled_by(slide: Slide, grid: Grid, resample: Resample) -> Resample:
    """Return what became of the wish on this slide."""
    return "area" if _scaled(slide, grid, resample) is None else "scaled"


def _scaled(slide: Slide, grid: Grid, resample: Resample) -> ReducedLevel | None:
    factor = _factor(grid)
    if resample == "area" or factor not in FACTORS or not isinstance(slide, SlideReader):
        return None
    return slide.reduced(grid.level, factor)


def _averaged(slide: Slide, grid: Grid) -> ReducedLevel | None:
    """Averages, unless a tile reaches beyond the area: its last pixels would be half white."""
    factor, area = _factor(grid), grid.area_level
    side, stride = grid.tile_px_level, grid.stride_px_level
    beyond = (
        (grid.columns - 1) * stride + side > area.width
        or (grid.rows - 1) * stride + side > area.height
    )  # fmt: skip
    if factor < 2 or beyond or not isinstance(slide, SlideReader):
        return None
    return slide.averaged(grid.level, factor)


def _factor(grid: Grid) -> int:
    """Return how many pixels of the level read are one of a tile, along a side; 0: no whole number.

    Nor is it one where tiles begin between two pixels.
    """
    factor, stride, area = grid.tile_px_level // grid.tile_px, grid.stride_px_level, grid.area_level
    whole = grid.tile_px_level == factor * grid.tile_px
    return 0 if not whole or stride % factor or area.x % factor or area.y % factor else factor
