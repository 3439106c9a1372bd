"""Where the tissue is, how good a tile is, and the cores of a tissue microarray."""

from wsi_pipeline.tissue.fractions import tissue_fractions
from wsi_pipeline.tissue.mask import Tissue, find_tissue
from wsi_pipeline.tissue.methods import TISSUE_METHODS
from wsi_pipeline.tissue.overlay import draw_overlay
from wsi_pipeline.tissue.qc import (
    BACKGROUND_LEVEL,
    background_fractions,
    focus,
    ink_fractions,
    pen_fractions,
)

__all__ = [
    "BACKGROUND_LEVEL",
    "TISSUE_METHODS",
    "Tissue",
    "background_fractions",
    "draw_overlay",
    "find_tissue",
    "focus",
    "ink_fractions",
    "pen_fractions",
    "tissue_fractions",
]
