"""One page about a run folder: what went in, what stayed, how good the model is."""

from collections.abc import Iterator

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import Event, Note, Planned, SlideFailed, StageStarted, Written
from wsi_pipeline.reporting import (
    TRAINING,
    Costs,
    Limits,
    Reading,
    collect,
    write_page,
    write_readers,
)
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.shard import shards_to_come
from wsi_pipeline.verbs.runs import ReportConfig


def run(config: ReportConfig) -> Iterator[Event]:
    """Read ``run`` and write the page; what the run folder lacks, the page leaves out.

    Raises:
        ConfigError: There is no such run folder.
        CohortError: Its cohort table, or that of readings, is unusable.
        LearnError: A reader's word is no class.
    """
    if not config.run.is_dir():
        raise ConfigError(f"{config.run}: there is no such run folder")
    target = config.out or RunFolder(config.run).report
    yield StageStarted(stage="report", total=1, unit="page")
    if config.dry_run:
        yield Planned(row={"page": str(target)})
        return
    data = collect(
        config.run,
        title=config.title,
        slides=config.slides,
        created=config.date,
        limits=Limits(slides=config.pictured),
        reading=Reading(
            table=config.readings,
            costs=Costs(
                wage_per_hour=config.wage_per_hour,
                machine_per_hour=config.machine_per_hour,
                promised=config.promised_gain,
            ),
        ),
    )
    yield from (Note(text=text) for text in shards_to_come(RunFolder(config.run).journal))
    if not data.slides:
        yield Note(text=f"{config.run}: no tile store is there yet; the page has little to show")
    for failure in data.failures:
        if failure.stage == TRAINING:
            yield SlideFailed(slide_id=failure.slide_id, error=failure.reason)
    write_page(target, data, single_file=config.single_file)
    write_readers(target.parent, data.readers, data.costs)
    yield Written(path=str(target), what="report")
