from .cache import SlideCache
from .dicom_frames import has_native_frames
from .files import SlideState, compression_of, slide_digest
from .find import (
    DICOM_SUFFIXES,
    NOT_A_FILE,
    FoundSlides,
    companion_of,
    find_slides,
    is_slide_file,
    printable,
)
from .mpp import ResolvedMpp, own_mpp, resolve_mpp
from .open import (
    READERS,
    Reader,
    open_for_metadata,
    open_slide,
    slide_suffixes,
)
from .overview import LowImage, read_low, reduce_area
from .protocol import Slide, SlideInfo
from .reader import ReducedLevel, SlideReader, UnsuitableError
from .tile_layout import has_native_tiles

__all__ = [
    "DICOM_SUFFIXES",
    "NOT_A_FILE",
    "READERS",
    "FoundSlides",
    "LowImage",
    "Reader",
    "ReducedLevel",
    "ResolvedMpp",
    "Slide",
    "SlideCache",
    "SlideInfo",
    "SlideReader",
    "SlideState",
    "UnsuitableError",
    "companion_of",
    "compression_of",
    "find_slides",
    "has_native_frames",
    "has_native_tiles",
    "is_slide_file",
    "open_for_metadata",
    "open_slide",
    "own_mpp",
    "printable",
    "read_low",
    "reduce_area",
    "resolve_mpp",
    "slide_digest",
    "slide_suffixes",
]
