"""Every verb: one table, for the command line, for study files and for stages that run others.

What a verb is called, does, needs and can be told is the class of its settings, here; what it
imports to work stands in its stage, which is imported when it runs: ``--help`` waits for no torch.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from wsi_pipeline.events import Event
from wsi_pipeline.mirror_settings import MirrorSettings
from wsi_pipeline.registry import Registry, load
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.verbs import machine, models, runs, slides, tiles


@dataclass(frozen=True)
class Verb:
    """One verb: its settings, and how to start it."""

    config_class: type[StageConfig]

    @property
    def name(self) -> str:
        """As it is called."""
        return self.config_class.verb

    @property
    def about(self) -> str:
        """A sentence."""
        return inspect.cleandoc(self.config_class.__doc__ or "").partition("\n\n")[0]

    def run(self, config: StageConfig) -> Iterator[Event]:
        """Import the stage and start it.

        Raises:
            UsageError: The request is wrong; nothing was begun.
        """
        where = self.config_class.stage or f"wsi_pipeline.pipeline.{self.name}:run"
        stage: Callable[[Any], Iterator[Event]] = load(where)
        if isinstance(config, MirrorSettings) and config.remote and config.brings:
            from wsi_pipeline.mirror import mirrored  # whose client of buckets few calls need

            return mirrored(stage, config, config.brings, config.remote)
        return stage(config)


GROUPS: Final = {
    "slides": slides.VERBS,
    "tiles and features": tiles.VERBS,
    "models": models.VERBS,
    "run folders": runs.VERBS,
    "whole studies": runs.STUDIES,
    "this machine": machine.VERBS,
}
"""The verbs by what they work on."""


def table_of(configs: Iterable[type[StageConfig]]) -> Registry[Verb]:
    """Return the verbs of these settings by name, in their order."""
    return Registry("verb", {config.verb: Verb(config) for config in configs})


VERBS: Final = table_of(config for group in GROUPS.values() for config in group)
"""In the order in which a study runs them."""


def stages() -> dict[str, Verb]:
    """Return the verbs that a study file may have a table of."""
    apart = (*runs.STUDIES, *machine.VERBS)
    return {name: verb for name, verb in VERBS.items() if verb.config_class not in apart}
