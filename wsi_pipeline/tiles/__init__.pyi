from .annotated import drawing_origin, drawn_digest
from .blocks import Block, map_blocks, read_blocks
from .cut import CutResult, SlideCut, cut_slide, open_cut, plan_cut
from .dataset import TileDataset
from .decisions import (
    DECISION_COLUMNS,
    Decision,
    Decisions,
    Place,
    check_places,
    dropped_digest,
    kept_mask,
    propose,
    read_decisions,
    tile_reasons,
    write_decisions,
)
from .flags import FLAGS, any_mark, store_marks, worst_first
from .formats import (
    STORE_FORMATS,
    StoreFormat,
    create_tiles,
    find_store,
    open_tiles,
    seal_tiles,
    stores_of,
    tile_attributes,
    verify_tiles,
)
from .grid import Grid, plan_grid
from .plan import SlidePlan, grid_for, native_mpp, plan_slide, survey_slide
from .reference import stain_reference
from .settings import WHOLE_SLIDE, SlideRequest, TileSettings, settings_of_store
from .store import TileArray, TileStore, TileWriter, check_marks, store_digest

__all__ = [
    "DECISION_COLUMNS",
    "FLAGS",
    "STORE_FORMATS",
    "WHOLE_SLIDE",
    "Block",
    "CutResult",
    "Decision",
    "Decisions",
    "Grid",
    "Place",
    "SlideCut",
    "SlidePlan",
    "SlideRequest",
    "StoreFormat",
    "TileArray",
    "TileDataset",
    "TileSettings",
    "TileStore",
    "TileWriter",
    "any_mark",
    "check_marks",
    "check_places",
    "create_tiles",
    "cut_slide",
    "drawing_origin",
    "drawn_digest",
    "dropped_digest",
    "find_store",
    "grid_for",
    "kept_mask",
    "map_blocks",
    "native_mpp",
    "open_cut",
    "open_tiles",
    "plan_cut",
    "plan_grid",
    "plan_slide",
    "propose",
    "read_blocks",
    "read_decisions",
    "seal_tiles",
    "settings_of_store",
    "stain_reference",
    "store_digest",
    "store_marks",
    "stores_of",
    "survey_slide",
    "tile_attributes",
    "tile_reasons",
    "verify_tiles",
    "worst_first",
    "write_decisions",
]
