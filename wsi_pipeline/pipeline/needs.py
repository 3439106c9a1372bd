"""What each stage of a study needs, and which stage before it makes that."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.verbs import Verb

Plan = Sequence[tuple[Verb, StageConfig]]

OF_THE_RUN: Final[Mapping[str, tuple[str, ...]]] = {  # parts of the run folder that it works on
    "extract": ("tiles",),
    "qc": ("tiles",),
    "finetune": ("tiles",),
    "audit": ("features",),
    "train": ("features",),
    "export": ("features",),
    "predict": ("features", "models"),
    "verify": ("root",),
    "report": ("root",),
}
MADE_IN_THE_RUN: Final[Mapping[str, tuple[str, ...]]] = {
    "tile": ("root", "tiles"),
    "extract": ("root", "features"),
    "import_features": ("root", "features"),
    "train": ("models",),
    "finetune": ("models",),
    "compare": ("models",),
}
FILES: Final = ("cohort", "slides", "map", "query")  # settings that name what must be there
MADE_FILES: Final = ("out", "cohort_out", "manifest_out")  # and what a stage puts there


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something that ``stage`` needs and that is not there; ``maker`` is a stage before it."""

    stage: str
    path: Path
    maker: str | None


def missing(plan: Plan) -> Iterator[Missing]:
    """Yield what is not there yet, stage by stage."""
    made: dict[Path, str] = {}
    for verb, config in plan:
        for path in _needed(verb.name, config):
            if not path.exists():
                yield Missing(stage=verb.name, path=path, maker=made.get(path.absolute()))
        for path in _made(verb.name, config):
            made.setdefault(path.absolute(), verb.name)


def check_needs(plan: Plan, source: Path) -> dict[str, Missing]:
    """Return by stage what has to be made first.

    Raises:
        ConfigError: A stage needs what is not there and no stage before it makes.
    """
    found = list(missing(plan))
    for each in found:
        if each.maker is None:
            raise ConfigError(
                f"{source}: [{each.stage}] needs {each.path}, which is not there, and no stage of "
                "this study before it makes it; nothing was begun"
            )
    return {each.stage: each for each in reversed(found)}


def _needed(stage: str, config: StageConfig) -> Iterator[Path]:
    given = [getattr(config, name, None) for name in FILES]
    yield from (path for path in given if isinstance(path, Path) and ":/" not in str(path))
    parts = OF_THE_RUN.get(stage, ())
    if getattr(config, "source", "tiles") == "slide":
        parts = ()  # the slides themselves are encoded
    if stage == "predict" and getattr(config, "model", None) is not None:
        parts = ("features",)
    yield from _in_run(config, parts)


def _made(stage: str, config: StageConfig) -> Iterator[Path]:
    given = [getattr(config, name, None) for name in MADE_FILES]
    yield from (path for path in given if isinstance(path, Path))
    yield from _in_run(config, MADE_IN_THE_RUN.get(stage, ()))


def _in_run(config: StageConfig, parts: Sequence[str]) -> Iterator[Path]:
    root = getattr(config, "run", None)
    if isinstance(root, Path):
        folder = RunFolder(root)
        yield from (getattr(folder, part) for part in parts)
