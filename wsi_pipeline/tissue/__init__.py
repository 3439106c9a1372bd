"""Where the tissue is, and how good a tile is."""

from wsi_pipeline.tissue.annotations import (
    Annotation,
    annotated_mask,
    draw_annotation,
    read_annotations,
    tile_labels,
    write_geojson,
)
from wsi_pipeline.tissue.blood import blood_fractions, blood_threshold
from wsi_pipeline.tissue.coarse import CoarseTiles, coarse_tiles, reduce_tiles
from wsi_pipeline.tissue.folds import fold_fractions, fold_threshold
from wsi_pipeline.tissue.fractions import tissue_fractions
from wsi_pipeline.tissue.glance import glance
from wsi_pipeline.tissue.mask import LeftOut, Tissue, find_tissue
from wsi_pipeline.tissue.methods import TISSUE_METHODS
from wsi_pipeline.tissue.overlay import draw_overlay
from wsi_pipeline.tissue.qc import (
    BACKGROUND_LEVEL,
    background_fractions,
    coarse_pen_fractions,
    focus,
    ink_fractions,
    pen_fractions,
)
from wsi_pipeline.tissue.tilt import Tilt, tissue_tilt

__all__ = [
    "BACKGROUND_LEVEL",
    "TISSUE_METHODS",
    "Annotation",
    "CoarseTiles",
    "LeftOut",
    "Tilt",
    "Tissue",
    "annotated_mask",
    "background_fractions",
    "blood_fractions",
    "blood_threshold",
    "coarse_pen_fractions",
    "coarse_tiles",
    "draw_annotation",
    "draw_overlay",
    "find_tissue",
    "focus",
    "fold_fractions",
    "fold_threshold",
    "glance",
    "ink_fractions",
    "pen_fractions",
    "read_annotations",
    "reduce_tiles",
    "tile_labels",
    "tissue_fractions",
    "tissue_tilt",
    "write_geojson",
]
