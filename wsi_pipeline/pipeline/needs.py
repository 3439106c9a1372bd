"""What each stage of a study needs, and which stage before it makes that."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import ConfigError, named
from wsi_pipeline.events import Note
from wsi_pipeline.learn import TaskSettings
from wsi_pipeline.microarray import read_map
from wsi_pipeline.pipeline.deleted import read_deleted
from wsi_pipeline.pipeline.resolve_cohort import (
    beside,
    cores_in_doubt,
    no_core_map,
    rows_of_table,
    unusable,
)
from wsi_pipeline.pipeline.study_file import Plan
from wsi_pipeline.run_cohort import check_merges, rows_of
from wsi_pipeline.run_folder import BundleFile, RunFolder
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.slides import is_slide_file
from wsi_pipeline.verbs.models import PredictConfig, TrainConfig
from wsi_pipeline.verbs.tiles import TileConfig

# settings that name what must be there
FILES: Final = ("add_cohort", "cohort", "slides", "map", "query")
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
    unnamed: set[Path] = set()  # where a model comes whose name is not known yet
    for verb, config in plan:
        for path in _needed(config):
            if not path.exists():
                there = path.absolute()
                maker = made.get(there if there.parent not in unnamed else there.parent)
                yield Missing(stage=verb.name, path=path, maker=maker)
        for path in _made(config):
            made.setdefault(path.absolute(), verb.name)
        if isinstance(config, TrainConfig) and not config.name:
            unnamed.add(RunFolder(config.run).models.absolute())


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
    check_tables(plan)
    check_external(plan, source)
    check_tasks(plan, source)
    return {each.stage: each for each in reversed(found)}


def check_tables(plan: Plan) -> None:
    """Hold the cohort tables of one run folder against each other, and against its own rows.

    Raises:
        CohortError: A table is wrong, or two of them contradict each other.
    """
    for root, tiled in _tiled(plan).items():
        tables = {config.cohort: rows_of_table(config) for config in tiled
                  if isinstance(config.cohort, Path) and _is_table(config.cohort)}  # fmt: skip
        if len(tables) > 1:
            overwrite = any(config.overwrite for config in tiled)
            check_merges(RunFolder(root), tables, overwrite=overwrite)


def arrays_in_doubt(plan: Plan) -> Iterator[Note]:
    """Say which microarrays will not be used unless a person tells how they lie, and what to do."""
    for config in (config for _, config in plan if isinstance(config, TileConfig)):
        for row in rows_of_table(config) if _is_table(config.cohort) else ():
            if said := cores_in_doubt(config, row):
                yield Note(text=f"{row.slide_id} will not be used: {said}")


def check_tasks(plan: Plan, source: Path) -> None:
    """Look whether each task's labels are in the tables, before anything is cut for it.

    A table that a stage before makes, or a core map that is not there, is not there to be asked.

    Raises:
        ConfigError: A label or a class is not there, nothing says what a label is, or a task has
            one class alone.
    """
    tiled = _tiled(plan)
    for verb, config in plan:
        if not isinstance(config, TaskSettings) or getattr(config, "images", None) is not None:
            continue
        root = getattr(config, "run", None)
        labels = _labels(root, tiled.get(root, []), config.label_column) if root else None
        if labels is None:
            continue
        name = getattr(config, "name", None)
        where = f"{source}: [{verb.name}]" + (f" {name!r}" if name else "")
        if not labels:
            raise ConfigError(
                f"{where}: the cohort tables have nothing in the column {config.label_column}; "
                "nothing was begun"
            )
        try:
            classes = set(config.classes_of(labels).values())
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}; nothing was begun") from None
        if len(classes) < 2:
            raise ConfigError(
                f"{where}: {named(sorted(classes))} is the only class, so there is nothing to tell "
                "apart; nothing was begun"
            )


def _tiled(plan: Plan) -> dict[Path, list[TileConfig]]:
    """Return what is cut, by run folder."""
    found: dict[Path, list[TileConfig]] = {}
    for _, config in plan:
        if isinstance(config, TileConfig):
            found.setdefault(config.run, []).append(config)
    return found


def _labels(root: Path, tiled: Sequence[TileConfig], column: str) -> set[str] | None:
    """Return the labels that a run folder has and will have; None where that cannot be known."""
    rows = rows_of(RunFolder(root))
    labels = {getattr(row, column) for row in rows}
    for config in tiled:
        if not _is_table(config.cohort):
            return None
        for row in rows_of_table(config):
            if row.tma_map is None:
                labels.add(getattr(row, column))
                continue
            mapped = beside(config, row, row.tma_map)
            if column != "label" or not mapped.is_file():
                return None
            labels |= {core.label for core in read_map(mapped)}
    return {label for label in labels if label} if rows or tiled else None


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
    made = any(isinstance(each.cohort, Path) and not each.cohort.exists() for each in tiled)
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
        if made and not any(row.cohort == name for row in rows):
            continue
        if not any(row.cohort == name for row in rows):
            known = named(sorted({row.cohort for row in rows if row.cohort}) or ["nothing"])
            raise ConfigError(
                f"{source}: [{verb.name}] external = {name!r}, and no row of the cohort table is "
                f"of it (its column cohort has {known}); nothing was begun"
            )
        lost = [
            unusable(each, row, read_deleted(RunFolder(each.run)))
            or no_core_map(each, row)
            or cores_in_doubt(each, row)
            for each, row in new
            if row.cohort == name
        ]
        if lost and all(lost) and not fetched and not any(row.cohort == name for row in here):
            raise ConfigError(
                f"{source}: [{verb.name}] external = {name!r}, and none of its slides can be used: "
                f"{lost[0]}; nothing was begun"
            )


def _is_table(cohort: Path | str) -> bool:
    return isinstance(cohort, Path) and cohort.is_file() and not is_slide_file(cohort)


def _needed(config: StageConfig) -> Iterator[Path]:
    given = [getattr(config, name, None) for name in FILES]
    yield from (path for path in given if isinstance(path, Path) and ":/" not in str(path))
    parts = config.needs
    if getattr(config, "source", "tiles") == "slide":
        parts = ()  # the slides themselves are encoded
    if isinstance(config, PredictConfig) and config.model is not None:
        parts = ("features",)
        if not (config.model / BundleFile.CONFIG).exists():
            yield RunFolder(config.run).models / config.model
    yield from _in_run(config, parts)


def _made(config: StageConfig) -> Iterator[Path]:
    given = [getattr(config, name, None) for name in MADE_FILES]
    yield from (path for path in given if isinstance(path, Path))
    yield from _in_run(config, config.makes)
    if isinstance(config, TrainConfig) and config.name:
        yield RunFolder(config.run).model(config.name)


def _in_run(config: StageConfig, parts: Sequence[str]) -> Iterator[Path]:
    root = getattr(config, "run", None)
    if isinstance(root, Path):
        folder = RunFolder(root)
        yield from (getattr(folder, part) for part in parts)
