"""The reporting room's public surface; ``__init__.py`` imports each name when it is first used."""

from .beside import PICTURES, picture_name
from .bundles import TRAINING, BundleRead, read_bundles
from .collection import Limits, Reading, collect
from .comparison import (
    HELD_OUT,
    Comparison,
    EncoderResult,
    Pair,
    comparison_chart,
    comparison_csv,
    comparison_page,
    to_markdown,
)
from .copies import write_groups_page
from .data import (
    NONE_OF_THESE,
    Costs,
    Evaluation,
    Facts,
    Failure,
    Funnel,
    FunnelStep,
    Heatmap,
    Measure,
    ModelReport,
    Picture,
    Prediction,
    ReportData,
    Scores,
    SlideCard,
    TilePair,
    TrainingCurve,
)
from .figures import (
    class_bars_figure,
    comparison_figure,
    confusion_figure,
    curves_figure,
    reliability_figure,
    roc_figure,
)
from .frame import SlideFrame
from .funnel import all_failures
from .gallery import gallery_slide, write_gallery
from .geojson import tiles_geojson
from .heatmap import draw_heatmap, value_limits
from .heatmap_files import read_heatmaps, store_heatmap, write_heatmap
from .heatmap_ome import write_ome_heatmap
from .page import render_page, write_page
from .predicted import Said, read_said
from .readers import write_readers
from .scanned import scanned_tile

__all__ = [
    "HELD_OUT",
    "NONE_OF_THESE",
    "PICTURES",
    "TRAINING",
    "BundleRead",
    "Comparison",
    "Costs",
    "EncoderResult",
    "Evaluation",
    "Facts",
    "Failure",
    "Funnel",
    "FunnelStep",
    "Heatmap",
    "Limits",
    "Measure",
    "ModelReport",
    "Pair",
    "Picture",
    "Prediction",
    "Reading",
    "ReportData",
    "Said",
    "Scores",
    "SlideCard",
    "SlideFrame",
    "TilePair",
    "TrainingCurve",
    "all_failures",
    "class_bars_figure",
    "collect",
    "comparison_chart",
    "comparison_csv",
    "comparison_figure",
    "comparison_page",
    "confusion_figure",
    "curves_figure",
    "draw_heatmap",
    "gallery_slide",
    "picture_name",
    "read_bundles",
    "read_heatmaps",
    "read_said",
    "reliability_figure",
    "render_page",
    "roc_figure",
    "scanned_tile",
    "store_heatmap",
    "tiles_geojson",
    "to_markdown",
    "value_limits",
    "write_gallery",
    "write_groups_page",
    "write_heatmap",
    "write_ome_heatmap",
    "write_page",
    "write_readers",
]
