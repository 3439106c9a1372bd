"""The workbench: a run folder in a browser, to look, to decide, to go back to the pixels."""

from wsi_pipeline.workbench.app import QUALITY, tile_response, workbench_app
from wsi_pipeline.workbench.pyramid import SIDE, OpenedSlide, OpenSlides, SlideFile, levels_of

__all__ = [
    "QUALITY",
    "SIDE",
    "OpenSlides",
    "OpenedSlide",
    "SlideFile",
    "levels_of",
    "tile_response",
    "workbench_app",
]
