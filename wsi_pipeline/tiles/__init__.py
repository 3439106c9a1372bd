"""Tiles: where they lie on a slide, how they are cut, and the stores that keep them."""

from wsi_pipeline.tiles.blocks import Block, map_blocks, read_blocks
from wsi_pipeline.tiles.contract import TileStore
from wsi_pipeline.tiles.cut import CutResult, cut_slide
from wsi_pipeline.tiles.grid import Grid, plan_grid
from wsi_pipeline.tiles.plan import SlidePlan, plan_slide
from wsi_pipeline.tiles.settings import CutSettings
from wsi_pipeline.tiles.store import (
    SUFFIXES,
    TileWriter,
    create_tiles,
    find_store,
    open_tiles,
    stores_of,
)
from wsi_pipeline.tiles.verify import verify_tiles

__all__ = [
    "SUFFIXES",
    "Block",
    "CutResult",
    "CutSettings",
    "Grid",
    "SlidePlan",
    "TileStore",
    "TileWriter",
    "create_tiles",
    "cut_slide",
    "find_store",
    "map_blocks",
    "open_tiles",
    "plan_grid",
    "plan_slide",
    "read_blocks",
    "stores_of",
    "verify_tiles",
]
