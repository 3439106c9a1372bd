from .blocks import Block, map_blocks, read_blocks
from .cut import CutResult, SlideCut, cut_slide, open_cut
from .decisions import Place, check_places, kept_mask
from .grid import Grid, plan_grid
from .plan import SlidePlan, grid_for, native_mpp, plan_slide, survey_slide
from .settings import WHOLE_SLIDE, SlideRequest, TileSettings
from .store import (
    STORE_FORMATS,
    StoreFormat,
    TileArray,
    TileStore,
    TileWriter,
    check_marks,
    create_tiles,
    find_store,
    open_tiles,
    store_digest,
    stores_of,
    verify_tiles,
)

__all__ = [
    "STORE_FORMATS",
    "WHOLE_SLIDE",
    "Block",
    "CutResult",
    "Grid",
    "Place",
    "SlideCut",
    "SlidePlan",
    "SlideRequest",
    "StoreFormat",
    "TileArray",
    "TileSettings",
    "TileStore",
    "TileWriter",
    "check_marks",
    "check_places",
    "create_tiles",
    "cut_slide",
    "find_store",
    "grid_for",
    "kept_mask",
    "map_blocks",
    "native_mpp",
    "open_cut",
    "open_tiles",
    "plan_grid",
    "plan_slide",
    "read_blocks",
    "store_digest",
    "stores_of",
    "survey_slide",
    "verify_tiles",
]
