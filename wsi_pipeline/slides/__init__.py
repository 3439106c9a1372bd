"""Slides: open any of them behind one protocol, and know their scale and identity."""

from wsi_pipeline.slides.compression import compression_of
from wsi_pipeline.slides.digest import slide_digest
from wsi_pipeline.slides.find import find_slides
from wsi_pipeline.slides.mpp import ResolvedMpp, resolve_mpp
from wsi_pipeline.slides.open import READERS, Icc, Modality, open_for_metadata, open_slide
from wsi_pipeline.slides.overview import LowImage, read_low, reduce_area
from wsi_pipeline.slides.protocol import Slide, SlideInfo

__all__ = [
    "READERS",
    "Icc",
    "LowImage",
    "Modality",
    "ResolvedMpp",
    "Slide",
    "SlideInfo",
    "compression_of",
    "find_slides",
    "open_for_metadata",
    "open_slide",
    "read_low",
    "reduce_area",
    "resolve_mpp",
    "slide_digest",
]
