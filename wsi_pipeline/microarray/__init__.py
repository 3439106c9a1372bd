"""Tissue microarrays: where the cores are, which is which, and what a person says about it."""

from wsi_pipeline.microarray.core_map import position, read_map
from wsi_pipeline.microarray.correction import Correction, cleared, correct, rejoined, unnamed
from wsi_pipeline.microarray.dearray import Core, Dearray, Hints, core_name, dearray
from wsi_pipeline.microarray.join import (
    Joined,
    JoinedCore,
    Joining,
    Turn,
    join_core_map,
    untold,
)
from wsi_pipeline.microarray.mapfit import ORIENTATIONS, Orientation
from wsi_pipeline.microarray.place import (
    MARGIN,
    CoreSearch,
    Microarray,
    picture_cores,
    place_cores,
)
from wsi_pipeline.microarray.preview import CoreMark, draw_cores, draw_marks
from wsi_pipeline.microarray.qupath import read_geojson_cores, write_geojson_cores
from wsi_pipeline.microarray.review import (
    Review,
    check_review,
    doubts_of,
    is_by_hand,
    map_digest,
    now,
    put_back,
    read_review,
    review_of,
    review_path,
    table_digest,
    unsure,
    write_reviewed,
)
from wsi_pipeline.microarray.table import (
    PlacedCore,
    as_slides,
    place_name,
    read_cores,
    table_text,
    write_preview,
)

__all__ = [
    "MARGIN",
    "ORIENTATIONS",
    "Core",
    "CoreMark",
    "CoreSearch",
    "Correction",
    "Dearray",
    "Hints",
    "Joined",
    "JoinedCore",
    "Joining",
    "Microarray",
    "Orientation",
    "PlacedCore",
    "Review",
    "Turn",
    "as_slides",
    "check_review",
    "cleared",
    "core_name",
    "correct",
    "dearray",
    "doubts_of",
    "draw_cores",
    "draw_marks",
    "is_by_hand",
    "join_core_map",
    "map_digest",
    "now",
    "picture_cores",
    "place_cores",
    "place_name",
    "position",
    "put_back",
    "read_cores",
    "read_geojson_cores",
    "read_map",
    "read_review",
    "rejoined",
    "review_of",
    "review_path",
    "table_digest",
    "table_text",
    "unnamed",
    "unsure",
    "untold",
    "write_geojson_cores",
    "write_preview",
    "write_reviewed",
]
