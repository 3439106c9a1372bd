"""Map work over slides: in process or on Dask, resumable, one broken slide at a time."""

from wsi_pipeline.engine.attempt import NO_TISSUE, Executor, SlideTask, fate_of, forget, kept
from wsi_pipeline.engine.mapping import executor_for, map_slides
from wsi_pipeline.engine.origin import provenance
from wsi_pipeline.engine.patience import GRACE_S, Limits, exceeded, limits_of
from wsi_pipeline.engine.pool import kept_workers
from wsi_pipeline.engine.resume import is_done

__all__ = [
    "GRACE_S",
    "NO_TISSUE",
    "Executor",
    "Limits",
    "SlideTask",
    "exceeded",
    "executor_for",
    "fate_of",
    "forget",
    "is_done",
    "kept",
    "kept_workers",
    "limits_of",
    "map_slides",
    "provenance",
]
