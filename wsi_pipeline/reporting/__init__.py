"""Reports: plain data to figures, heatmaps, and an HTML page with its pictures beside it."""

from wsi_pipeline.reporting.beside import FOLDER as PICTURES
from wsi_pipeline.reporting.beside import picture_name
from wsi_pipeline.reporting.bundles import TRAINING, BundleRead, read_bundles
from wsi_pipeline.reporting.collection import Limits, Reading, collect
from wsi_pipeline.reporting.comparison import (
    HELD_OUT,
    Comparison,
    EncoderResult,
    Pair,
    comparison_chart,
    comparison_csv,
    comparison_page,
    to_markdown,
)
from wsi_pipeline.reporting.copies import write_groups_page
from wsi_pipeline.reporting.data import (
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
from wsi_pipeline.reporting.figures import (
    class_bars_figure,
    comparison_figure,
    confusion_figure,
    curves_figure,
    reliability_figure,
    roc_figure,
)
from wsi_pipeline.reporting.frame import SlideFrame
from wsi_pipeline.reporting.funnel import all_failures
from wsi_pipeline.reporting.gallery import gallery_slide, write_gallery
from wsi_pipeline.reporting.geojson import tiles_geojson
from wsi_pipeline.reporting.heatmap import draw_heatmap, value_limits
from wsi_pipeline.reporting.heatmap_files import read_heatmaps, store_heatmap, write_heatmap
from wsi_pipeline.reporting.heatmap_ome import write_ome_heatmap
from wsi_pipeline.reporting.page import render_page, write_page
from wsi_pipeline.reporting.pictures import jpeg
from wsi_pipeline.reporting.readers import write_readers
from wsi_pipeline.reporting.scanned import scanned_tile

__all__ = [
    "HELD_OUT",
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
    "jpeg",
    "picture_name",
    "read_bundles",
    "read_heatmaps",
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
