from .compression import compression_of
from .digest import slide_digest
from .find import FoundSlides, find_slides, printable
from .mpp import ResolvedMpp, resolve_mpp
from .open import READERS, Icc, Modality, open_for_metadata, open_slide
from .overview import LowImage, read_low, reduce_area
from .protocol import Slide, SlideInfo

__all__ = [
    "READERS",
    "FoundSlides",
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
    "printable",
    "read_low",
    "reduce_area",
    "resolve_mpp",
    "slide_digest",
]
