"""Tissue microarrays: where the cores are, which is which, and what a person says about it."""

from wsi_pipeline.microarray.dearray import (
    Core,
    Dearray,
    JoinedCore,
    core_name,
    dearray,
    join_core_map,
    position,
)
from wsi_pipeline.microarray.place import CoreSearch, Microarray, picture_cores, place_cores
from wsi_pipeline.microarray.preview import CoreMark, draw_cores, draw_marks
from wsi_pipeline.microarray.table import (
    PlacedCore,
    as_slides,
    place_name,
    read_cores,
    write_cores,
    write_preview,
)

__all__ = [
    "Core",
    "CoreMark",
    "CoreSearch",
    "Dearray",
    "JoinedCore",
    "Microarray",
    "PlacedCore",
    "as_slides",
    "core_name",
    "dearray",
    "draw_cores",
    "draw_marks",
    "join_core_map",
    "picture_cores",
    "place_cores",
    "place_name",
    "position",
    "read_cores",
    "write_cores",
    "write_preview",
]
