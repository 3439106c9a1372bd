"""What each stage of a study needs, and which stage before it makes that."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import ConfigError, named
from wsi_pipeline.pipeline.deleted import read_deleted
from wsi_pipeline.pipeline.resolve_cohort import no_core_map, rows_of_table, unusable
from wsi_pipeline.run_cohort import rows_of
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.slides import is_slide_file
from wsi_pipeline.verbs import Verb
from wsi_pipeline.verbs.tiles import TileConfig

Plan = Sequence[tuple[Verb, StageConfig]]

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
        for path in _made(config):
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
    check_external(plan, source)
    return {each.stage: each for each in reversed(found)}


def check_external(plan: Plan, source: Path) -> None:
    """Look for the external cohort while it costs nothing: in the tables, and its slides' files.

    A table that a stage before makes is not there to be asked.

    Raises:
        CohortError: A table is wrong.
        ConfigError: No row is of the external cohort that a stage names, or none of its slides can
            be used.
    """
    tiled = [config for _, config in plan if isinstance(config, TileConfig)]
    fetched = any(verb.name == "download" for verb, _ in plan)
    if any(not config.cohort.exists() for config in tiled):
        return
    for verb, config in plan:
        name, root = getattr(config, "external", None), getattr(config, "run", None)
        if name is None or not isinstance(root, Path):
            continue
        here = rows_of(RunFolder(root))
        new = [(each, row) for each in tiled if each.run == root and _is_table(each.cohort)
               for row in rows_of_table(each)]  # fmt: skip
        rows = [*here, *(row for _, row in new)]
        if not rows and not tiled:
            continue  # the stage itself says what its run folder lacks
        if not any(row.cohort == name for row in rows):
            known = named(sorted({row.cohort for row in rows if row.cohort}) or ["nothing"])
            raise ConfigError(
                f"{source}: [{verb.name}] external = {name!r}, and no row of the cohort table is "
                f"of it (its column cohort has {known}); nothing was begun"
            )
        lost = [
            unusable(each, row, read_deleted(RunFolder(each.run))) or no_core_map(each, row)
            for each, row in new
            if row.cohort == name
        ]
        if lost and all(lost) and not fetched and not any(row.cohort == name for row in here):
            raise ConfigError(
                f"{source}: [{verb.name}] external = {name!r}, and none of its slides can be used: "
                f"{lost[0]}; nothing was begun"
            )


def _is_table(cohort: Path) -> bool:
    return cohort.is_file() and not is_slide_file(cohort)


def _needed(stage: str, config: StageConfig) -> Iterator[Path]:
    given = [getattr(config, name, None) for name in FILES]
    yield from (path for path in given if isinstance(path, Path) and ":/" not in str(path))
    parts = config.needs
    if getattr(config, "source", "tiles") == "slide":
        parts = ()  # the slides themselves are encoded
    if stage == "predict" and getattr(config, "model", None) is not None:
        parts = ("features",)
    yield from _in_run(config, parts)


def _made(config: StageConfig) -> Iterator[Path]:
    given = [getattr(config, name, None) for name in MADE_FILES]
    yield from (path for path in given if isinstance(path, Path))
    yield from _in_run(config, config.makes)


def _in_run(config: StageConfig, parts: Sequence[str]) -> Iterator[Path]:
    root = getattr(config, "run", None)
    if isinstance(root, Path):
        folder = RunFolder(root)
        yield from (getattr(folder, part) for part in parts)
