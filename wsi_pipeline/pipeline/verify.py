"""Is a run folder sound? Every store is opened, counted and held against what it was made from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wsi_pipeline.atomic import PARTIAL
from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.engine import SlideTask, map_slides
from wsi_pipeline.errors import ConfigError, StoreError, WsiError, named
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    StageStarted,
    Unmatched,
)
from wsi_pipeline.features import read_features
from wsi_pipeline.learn import check_bundle, features_digest
from wsi_pipeline.pipeline.verify_slide import VerifyTask, verify_slide
from wsi_pipeline.run_cohort import rows_of, unmatched
from wsi_pipeline.run_folder import BundleFile, RunFolder, store_in, stores_in
from wsi_pipeline.tiles import read_decisions, stores_of
from wsi_pipeline.verbs.runs import VerifyConfig

ROOMS: Final = ("tiles", "features", "models", "predictions")


def run(config: VerifyConfig) -> Iterator[Event]:
    """Check the run folder; what is wrong with a slide or a model is one failure that names it.

    Raises:
        ConfigError: There is no such run folder, or nothing in it.
        CohortError: The cohort table or the table of decisions is unusable.
    """
    tasks = list(_tasks(config))
    models = _models(config.run)
    if not tasks and not models:
        raise ConfigError(f"{config.run}: no run folder with anything in it to check")
    yield StageStarted(stage="verify", total=len(tasks) + len(models), unit="slides and models")
    yield from _strangers(RunFolder(config.run))
    if config.dry_run:
        yield from (Planned(row={"slide or model": task.slide_id}) for task in tasks)
        yield from (Planned(row={"slide or model": _name(path)}) for path in models)
        return
    yield from map_slides(
        verify_slide,
        [
            SlideTask(
                slide_id=task.slide_id,
                lock=RunFolder(config.run).lock("verify", task.slide_id),
                payload=task,
            )
            for task in tasks
        ],
        config,
    )
    for path in models:
        yield from _model(config.run, path)
    yield from _left_behind(config.run)


def _tasks(config: VerifyConfig) -> Iterator[VerifyTask]:
    cohort = {row.slide_id: row for row in rows_of(RunFolder(config.run))}
    decisions = read_decisions(RunFolder(config.run).decisions)
    for slide_id in dict.fromkeys((*cohort, *_present(config.run))):
        yield VerifyTask(
            slide_id=slide_id,
            run=config.run,
            slide=_slide(config, cohort.get(slide_id)),
            dropped=decisions.dropped_tiles(slide_id),
            pixels=config.pixels,
        )


def _strangers(run: RunFolder) -> Iterator[Unmatched]:
    """Name rows without stores and stores without a row, for each kind of store there is."""
    rows = [row.slide_id for row in rows_of(run)]
    kinds = {"tile store": stores_of(run.tiles)}
    for folder in sorted(run.features.glob("[!.]*")):
        kinds[f"feature store of {folder.name}"] = stores_in(folder)
    for what, stores in kinds.items():
        if stores:
            yield from unmatched(run, rows, stores, what)


def _present(run: Path) -> list[str]:
    """Return the ids of slides that something is there of, also without a row in the table."""
    folder = RunFolder(run)
    rooms = [*folder.features.glob("[!.]*"), *folder.predictions.glob("[!.]*")]
    found = [stores_of(folder.tiles), *map(stores_in, rooms)]
    return sorted({slide_id for stores in found for slide_id in stores})


def _slide(config: VerifyConfig, row: CohortSlide | None) -> str | None:
    if config.slides is None or row is None:
        return None
    return str(row.locate(config.slides))


def _models(run: Path) -> list[Path]:
    """Return the folders with weights of their own; cross-validation has them in its folds."""
    found = [path.parent for path in RunFolder(run).models.glob(f"[!.]*/**/{BundleFile.CONFIG}")]
    return sorted(path for path in found if not (path / BundleFile.FOLDS).exists())


def _name(model: Path) -> str:
    return f"models/{model.name}"


def _model(run: Path, path: Path) -> Iterator[SlideDone | SlideFailed]:
    """Load a model; compare the features it was trained on with those that are there."""
    try:
        config = check_bundle(path)[0]
    except WsiError as error:
        yield SlideFailed(slide_id=_name(path), error=str(error))
        return
    bags: dict[str, str] = config.digests.get("bags", {})
    stores = RunFolder(run).features_of(config.encoder)
    changed = [name for name, digest in bags.items() if _differs(store_in(stores, name), digest)]
    if changed:
        text = (
            f"{path}: was trained on other features of {named(changed)}; train again with "
            "--overwrite"
        )
        yield SlideFailed(slide_id=_name(path), error=text)
        return
    yield SlideDone(slide_id=_name(path), counts={"models": 1})


def _differs(store: Path, digest: str) -> bool:
    """Say whether a feature store has other features; one that is damaged is named elsewhere."""
    try:
        return store.exists() and features_digest(read_features(store).features) != digest
    except StoreError:
        return False


def _left_behind(run: Path) -> Iterator[Note]:
    """Tell of temporaries that killed writers left; the next writer removes them."""
    left = [path for room in ROOMS for path in (run / room).rglob(f".*{PARTIAL}*")]
    if left:
        yield Note(
            text=f"{len(left)} unfinished files of writers that were killed, for instance {left[0]}"
        )
