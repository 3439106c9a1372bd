"""A whole study from one TOML file: its stages in their order, each resumable.

The file has a table a stage, ``[tile]`` or any other verb; those present are run, in the order in
which the verbs are listed. ``[study]`` holds what several of them share, for instance the run
folder; a stage takes from it the settings it knows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import Event, Note, Planned, SlideFailed, StageStarted
from wsi_pipeline.pipeline.forecast import VALUE_BYTES, forecast_extract
from wsi_pipeline.pipeline.needs import check_needs
from wsi_pipeline.registry import unknown
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import StageConfig, load_toml
from wsi_pipeline.verbs import Verb, stages
from wsi_pipeline.verbs.runs import RunConfig
from wsi_pipeline.verbs.tiles import ExtractConfig

SHARED = "study"
ESTIMATED = ("tile", "extract", "download")  # their dry runs tell what they come to


def read_study(path: Path) -> list[tuple[Verb, StageConfig]]:
    """Read and validate a study file.

    Returns:
        The stages it names, in the order they run, each with its config.

    Raises:
        ConfigError: It names no stage, an unknown one, or an unknown or impossible setting.
    """
    tables, known = load_toml(path), stages()
    for name in tables:
        if name not in (SHARED, *known):
            raise ConfigError(f"{path}: [{name}]: {unknown('stage', name, (SHARED, *known))}")
    shared: dict[str, Any] = tables.get(SHARED, {})
    plan = []
    used: set[str] = set()
    for verb in (verb for name, verb in known.items() if name in tables):
        config_class = verb.config_class
        common = {key: shared[key] for key in shared if key in config_class.model_fields}
        used |= common.keys()
        values = common | tables[verb.name]
        plan.append((verb, config_class.from_mapping(values, f"{path} [{verb.name}]")))
    if not plan:
        raise ConfigError(
            f"{path}: names no stage; give at least one of "
            f"{', '.join(f'[{name}]' for name in known)}"
        )
    if shared.keys() - used:
        raise ConfigError(
            f"{path} [{SHARED}]: no stage of this study knows "
            f"{', '.join(map(repr, sorted(shared.keys() - used)))}"
        )
    return plan


def run(config: RunConfig) -> Iterator[Event]:
    """Run the study's stages; stop after a stage that left nothing to go on with.

    A stage in which single slides failed does not stop the study: those slides are reported, and
    the exit status says so. What the stages need is looked at before the first begins; a dry run
    plans those whose needs are there, and says of the others what has to be made first.

    Raises:
        ConfigError: A stage needs what is not there and no stage before it makes.
    """
    plan = read_study(config.study)
    names = [found.name for found, _ in plan]
    if missing := [name for name in config.only if name not in names]:
        raise ConfigError(f"--only {', '.join(missing)}: {config.study} has {', '.join(names)}")
    how = _how(config)
    chosen = [pair for pair in plan if not config.only or pair[0].name in config.only]
    waiting = check_needs(chosen, config.study)
    tiles = 0
    for found, stage_config in chosen:
        if config.dry_run and (lost := waiting.get(found.name)):
            yield Note(text=f"{found.name}: can be planned once {lost.maker} has made {lost.path}")
            if isinstance(stage_config, ExtractConfig) and tiles:
                yield _forecast(stage_config, tiles)
            continue
        for event in run_stage(found, stage_config.model_copy(update=how).for_scheduler()):
            if isinstance(event, Planned):
                tiles += int(event.row.get("tiles ≈") or 0)
            yield event
    if config.dry_run:
        named = ", ".join(f.name for f, _ in chosen if f.name not in ESTIMATED)
        if named:
            yield Note(text=f"hours and bytes are told for tile and extract, not for {named}")


def _forecast(config: ExtractConfig, tiles: int) -> Note:
    """Say what encoding comes to of tiles that are not cut yet."""
    return forecast_extract(RunFolder(config.run), tiles, VALUE_BYTES[config.dtype]).note()


def run_stage(found: Verb, config: StageConfig) -> Iterator[Event]:
    """Run one stage and say when every slide of it failed."""
    started, failed = 0, 0
    for event in found.run(config):
        if isinstance(event, StageStarted) and event.unit == "slides":
            started = event.total
        failed += isinstance(event, SlideFailed)
        yield event
    if started and failed == started:
        yield Note(text=f"{found.name}: none of {started} slides could be used")


def _how(config: RunConfig) -> dict[str, Any]:
    """Return the execution settings given to ``run`` that every stage takes over."""
    given = {
        "workers": config.workers,
        "scheduler": config.scheduler,
        "dry_run": config.dry_run,
        "overwrite": config.overwrite,
    }
    return {key: value for key, value in given.items() if value}
