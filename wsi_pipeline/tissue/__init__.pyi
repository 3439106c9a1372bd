from .annotations import (
    EXCLUDE,
    Annotation,
    annotated_mask,
    draw_annotation,
    is_asap,
    read_annotations,
    tile_labels,
    write_geojson,
)
from .blood import blood_fractions, blood_threshold
from .coarse import CoarseTiles, coarse_tiles, reduce_tiles
from .colours import NAMELESS, class_colours
from .empty import empty_fractions, empty_masks
from .folds import fold_fractions, fold_threshold
from .fractions import tissue_fractions
from .ink import disc, ink_masks
from .mask import LeftOut, Tissue, find_tissue
from .methods import TISSUE_METHODS, background_colour, otsu_threshold
from .overlay import KEPT, Outline, TileLayer, draw_overlay
from .qc import (
    BACKGROUND_LEVEL,
    background_fractions,
    coarse_pen_fractions,
    detail,
    focus,
    ink_fractions,
    pen_fractions,
    sharpness,
)
from .tilt import Tilt, tissue_tilt

__all__ = [
    "BACKGROUND_LEVEL",
    "EXCLUDE",
    "KEPT",
    "NAMELESS",
    "TISSUE_METHODS",
    "Annotation",
    "CoarseTiles",
    "LeftOut",
    "Outline",
    "TileLayer",
    "Tilt",
    "Tissue",
    "annotated_mask",
    "background_colour",
    "background_fractions",
    "blood_fractions",
    "blood_threshold",
    "class_colours",
    "coarse_pen_fractions",
    "coarse_tiles",
    "detail",
    "disc",
    "draw_annotation",
    "draw_overlay",
    "empty_fractions",
    "empty_masks",
    "find_tissue",
    "focus",
    "fold_fractions",
    "fold_threshold",
    "ink_fractions",
    "ink_masks",
    "is_asap",
    "otsu_threshold",
    "pen_fractions",
    "read_annotations",
    "reduce_tiles",
    "sharpness",
    "tile_labels",
    "tissue_fractions",
    "tissue_tilt",
    "write_geojson",
]
