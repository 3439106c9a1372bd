"""Map work over slides: in process or on Dask, resumable, one broken slide at a time."""

from wsi_pipeline.engine.attempt import NO_TISSUE, Executor, SlideTask, fate_of
from wsi_pipeline.engine.mapping import executor_for, map_slides
from wsi_pipeline.engine.origin import provenance
from wsi_pipeline.engine.resume import is_done

__all__ = [
    "NO_TISSUE",
    "Executor",
    "SlideTask",
    "executor_for",
    "fate_of",
    "is_done",
    "map_slides",
    "provenance",
]
