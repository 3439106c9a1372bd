"""A whole study from one TOML file: its stages in their order, each resumable.

The file has a table a stage, ``[tile]`` or any other verb, or several (``study_file``); those
present are run, in the order in which the verbs are listed. ``[study]`` holds what several of them
share, for instance the run folder; a stage takes from it the settings it knows.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import Event, Note, Planned, SlideFailed, StageStarted
from wsi_pipeline.pipeline import download, overlap
from wsi_pipeline.pipeline.forecast import VALUE_BYTES, forecast_extract, forecast_unseen
from wsi_pipeline.pipeline.forecast_study import with_sum
from wsi_pipeline.pipeline.needs import Missing, arrays_in_doubt, check_needs
from wsi_pipeline.pipeline.parcels import room_for
from wsi_pipeline.pipeline.study_file import Plan, read_study
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.slides import is_slide_file
from wsi_pipeline.verbs import Verb
from wsi_pipeline.verbs.runs import RunConfig
from wsi_pipeline.verbs.slides import DownloadConfig
from wsi_pipeline.verbs.tiles import ExtractConfig, TileConfig

ESTIMATED = ("tile", "extract", "download", "audit", "train", "predict", "report")


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
    chosen = [pair for pair in plan if not config.only or pair[0].name in config.only]
    how = _how(config)
    asked = [(found, stage.model_copy(update=how)) for found, stage in chosen]
    waiting = check_needs(asked, config.study)
    yield from arrays_in_doubt(asked)
    if config.dry_run:
        yield from with_sum(config, chosen, _planned(config, chosen, waiting))
        return
    together = _overlapped(config, [stage for _, stage in asked])
    if together is not None:
        yield from overlap.run(together)
        asked = asked[3 if together.extract else 2 :]  # download, tile, and extract where it may
    for found, stage_config in asked:
        yield from run_stage(found, stage_config.for_scheduler())


def _planned(config: RunConfig, chosen: Plan, waiting: Mapping[str, Missing]) -> Iterator[Event]:
    """Say what each stage comes to, or what has to be made first."""
    how, tiles, slide_bytes = _how(config), 0, 0
    for found, stage_config in chosen:
        if lost := waiting.get(found.name):
            yield Note(text=f"{found.name}: can be planned once {lost.maker} has made {lost.path}")
            if isinstance(stage_config, TileConfig) and slide_bytes:
                unseen = forecast_unseen(stage_config, slide_bytes)
                tiles += unseen.tiles
                yield unseen.note()
            if isinstance(stage_config, ExtractConfig) and tiles:
                yield _forecast(stage_config, tiles)
            continue
        given = stage_config.model_copy(update=how).for_scheduler()
        events = run_stage(found, given)
        if isinstance(given, DownloadConfig) and config.has_budget:
            events = download.run(given, 0)  # the disks that are budgeted are not those here
        elif isinstance(given, DownloadConfig) and config.delete_after_tiling:
            events = download.run(given, _room(config, given))
        for event in events:
            if isinstance(event, Planned):
                tiles += int(event.row.get("tiles ≈") or 0)
                slide_bytes += int(event.row.get("bytes") or 0)
            yield event
    named = ", ".join(f.name for f, _ in chosen if f.name not in ESTIMATED)
    if named:
        yield Note(text=f"hours and bytes are not told for {named}")


def _overlapped(config: RunConfig, chosen: Sequence[StageConfig]) -> overlap.Overlapped | None:
    """Return the stages that work at the same time: download and tile, and extract right after.

    Raises:
        ConfigError: Slides are to be deleted after tiling, and these stages cannot overlap.
    """
    match [stage.for_scheduler() for stage in chosen]:
        case [DownloadConfig() as fetched, TileConfig() as cut, *others] if (
            config.overlap
            and fetched.out is not None
            and not fetched.verify
            and isinstance(cut.cohort, Path)
            and not cut.cohort.is_dir()
            and not is_slide_file(cut.cohort)
        ):
            encoded = others[0] if others and isinstance(others[0], ExtractConfig) else None
            return overlap.Overlapped(
                download=fetched,
                out=fetched.out,
                tile=cut,
                extract=encoded if encoded and encoded.source == "tiles" else None,
                room=_room(config, fetched),
            )
    if config.delete_after_tiling:
        raise ConfigError(
            f"{config.study}: --delete-after-tiling needs a [download] with out, and right after "
            "it a [tile] with a cohort table"
        )
    return None


def _room(config: RunConfig, fetched: DownloadConfig) -> int | None:
    if not config.delete_after_tiling or fetched.out is None:
        return None
    return room_for(fetched.out, config.disk_gb)


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
