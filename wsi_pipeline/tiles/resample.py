"""Whose pixels tiles are averaged from: a level's own, or those that a JPEG gives at that size.

Where a tile is two, four or eight times as many pixels of the level read, the decoder can leave the
finest frequencies out and give the level at the tiles' own size. That saves a part of the decoding
and all of the averaging; pixels differ from the mean by less than one grey level on average, of
JPEG 2000 by one or two, see docs/performance.md.
"""

from dataclasses import replace
from typing import Final

from wsi_pipeline.slides import Slide, SlideReader
from wsi_pipeline.tiles.blocks import PixelSource
from wsi_pipeline.tiles.grid import Grid
from wsi_pipeline.tiles.settings import Resample
from wsi_pipeline.types import Region

FACTORS: Final = (2, 4, 8)  # that a JPEG's blocks of eight can be scaled by


def pixel_source(slide: Slide, grid: Grid, resample: Resample) -> tuple[PixelSource, Grid]:
    """Return what tiles are read from, and the same grid in its pixels.

    That is the slide and the grid, unless ``scaled`` is asked for, the slide's reader decodes so,
    and each tile begins on a whole pixel then.
    """
    factor = grid.tile_px_level // grid.tile_px
    area, stride = grid.area_level, grid.stride_px_level
    whole = factor in FACTORS and grid.tile_px_level == factor * grid.tile_px
    if resample == "area" or not whole or stride % factor or area.x % factor or area.y % factor:
        return slide, grid
    reduced = slide.reduced(grid.level, factor) if isinstance(slide, SlideReader) else None
    if reduced is None:
        return slide, grid
    return reduced, replace(
        grid,
        downsample=grid.downsample * factor,
        tile_px_level=grid.tile_px,
        stride_px_level=stride // factor,
        area_level=Region(
            x=area.x // factor, y=area.y // factor,
            width=area.width // factor, height=area.height // factor,
        ),
    )  # fmt: skip


def resampled_by(slide: Slide, grid: Grid, resample: Resample) -> Resample:
    """Return what became of the wish on this slide."""
    return "area" if pixel_source(slide, grid, resample)[0] is slide else "scaled"
