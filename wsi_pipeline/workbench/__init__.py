"""The workbench: a run folder in a browser, to look, to decide, to go back to the pixels."""

from wsi_pipeline.workbench.answers import QUALITY, tile_response
from wsi_pipeline.workbench.app import slide_app, workbench_app
from wsi_pipeline.workbench.coarse import Kept
from wsi_pipeline.workbench.outlines import mask_area
from wsi_pipeline.workbench.placing import CoreEdit, edited
from wsi_pipeline.workbench.pyramid import SIDE, OpenedSlide, OpenSlides, SlideFile, levels_of
from wsi_pipeline.workbench.serving import HOST, View, listen, server_of, show
from wsi_pipeline.workbench.shrunk import Shrunk

__all__ = [
    "HOST",
    "QUALITY",
    "SIDE",
    "CoreEdit",
    "Kept",
    "OpenSlides",
    "OpenedSlide",
    "Shrunk",
    "SlideFile",
    "View",
    "edited",
    "levels_of",
    "listen",
    "mask_area",
    "server_of",
    "show",
    "slide_app",
    "tile_response",
    "workbench_app",
]
