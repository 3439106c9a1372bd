"""Reports: plain data to figures, heatmaps, and one HTML page that is a single file."""

from wsi_pipeline.reporting.collect import Limits, collect
from wsi_pipeline.reporting.data import (
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
from wsi_pipeline.reporting.geojson import tiles_geojson
from wsi_pipeline.reporting.heatmap import draw_heatmap, value_limits
from wsi_pipeline.reporting.heatmap_files import read_heatmaps, store_heatmap, write_heatmap
from wsi_pipeline.reporting.heatmap_ome import write_ome_heatmap
from wsi_pipeline.reporting.page import render_page, write_page
from wsi_pipeline.reporting.pictures import jpeg

__all__ = [
    "Evaluation",
    "Facts",
    "Failure",
    "Funnel",
    "FunnelStep",
    "Heatmap",
    "Limits",
    "Measure",
    "ModelReport",
    "Picture",
    "Prediction",
    "ReportData",
    "Scores",
    "SlideCard",
    "SlideFrame",
    "TilePair",
    "TrainingCurve",
    "class_bars_figure",
    "collect",
    "comparison_figure",
    "confusion_figure",
    "curves_figure",
    "draw_heatmap",
    "jpeg",
    "read_heatmaps",
    "reliability_figure",
    "render_page",
    "roc_figure",
    "store_heatmap",
    "tiles_geojson",
    "value_limits",
    "write_heatmap",
    "write_ome_heatmap",
    "write_page",
]
