from .blocks import Block, map_blocks, read_blocks
from .contract import TileStore
from .cut import CutResult, cut_slide
from .grid import Grid, plan_grid
from .plan import SlidePlan, plan_slide, survey_slide
from .settings import WHOLE_SLIDE, SlideRequest, TileSettings
from .store import SUFFIXES, TileWriter, create_tiles, find_store, open_tiles, stores_of
from .verify import verify_tiles

__all__ = [
    "SUFFIXES",
    "WHOLE_SLIDE",
    "Block",
    "CutResult",
    "Grid",
    "SlidePlan",
    "SlideRequest",
    "TileSettings",
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
    "survey_slide",
    "verify_tiles",
]
