"""The stages: each a config class and ``run(config)``, a generator of events.

``STAGES`` is the one table that ``run`` and ``demo`` call stages through; a stage is imported when
it is asked for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from wsi_pipeline.config import StageConfig
from wsi_pipeline.events import Event


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage's config class and its function."""

    name: str
    config_class: type[StageConfig]
    run: Callable[[Any], Iterator[Event]]


STAGES: Final = {
    "download": "DownloadConfig",
    "tile": "TileConfig",
    "extract": "ExtractConfig",
    "audit": "AuditConfig",
    "train": "TrainConfig",
    "finetune": "FinetuneConfig",
    "predict": "PredictConfig",
    "report": "ReportConfig",
}


def stage(name: str) -> Stage:
    """Import a stage by its name in ``STAGES``."""
    module = import_module(f"wsi_pipeline.pipeline.{name}")
    return Stage(name=name, config_class=getattr(module, STAGES[name]), run=module.run)
