"""Is a run folder sound? Every store is opened, counted and held against what it was made from."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from wsi_pipeline.atomic import PARTIAL
from wsi_pipeline.cohort import CohortSlide, is_remote
from wsi_pipeline.engine import SlideTask, map_slides
from wsi_pipeline.errors import CohortError, ConfigError, StoreError, WsiError, named
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    StageStarted,
    Unmatched,
)
from wsi_pipeline.features import read_attributes, read_digest, verify_features
from wsi_pipeline.inventory import NAME
from wsi_pipeline.learn import (
    check_bundle,
    read_bundle_config,
    read_prediction,
)
from wsi_pipeline.pipeline.holdings import Finding, Holdings, check_holdings
from wsi_pipeline.pipeline.verify_bucket import verify_bucket
from wsi_pipeline.run_cohort import rows_of, unmatched
from wsi_pipeline.run_folder import STORE, BundleFile, RunFolder, store_in, stores_in
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.tiles import (
    Place,
    TileStore,
    find_store,
    kept_mask,
    open_tiles,
    read_decisions,
    store_digest,
    stores_of,
    verify_tiles,
)
from wsi_pipeline.types import Floats
from wsi_pipeline.verbs.runs import VerifyConfig

ROOMS: Final = ("tiles", "features", "models", "predictions")


def run(config: VerifyConfig) -> Iterator[Event]:
    """Check the run folder; what is wrong with a slide or a model is one failure that names it.

    Raises:
        ConfigError: There is no such run folder, or nothing in it.
    """
    if config.remote is not None:
        yield from verify_bucket(config.remote, fast=config.fast)
        return
    unread: list[Finding] = []
    tasks = [] if config.fast else list(verify_tasks(config, unread))
    models = _models(config.run)
    held = check_holdings(config.run, fast=config.fast)
    if not tasks and not models and not held.files:
        raise ConfigError(f"{config.run}: no run folder with anything in it to check")
    yield StageStarted(
        stage="verify", total=len(tasks) + len(models), unit="slides, models and files"
    )
    if not unread:
        yield from _strangers(RunFolder(config.run))
    if config.dry_run:
        yield from (Planned(row={"slide or model": task.slide_id}) for task in tasks)
        yield from (Planned(row={"slide or model": _name(path)}) for path in models)
        return
    yield from _tell(config.run, held, unread)
    yield from map_slides(
        verify_slide,
        [
            SlideTask(
                slide_id=task.slide_id,
                lock=None,  # it only reads, also where nothing can be written
                payload=task,
            )
            for task in tasks
        ],
        config,
    )
    for path in models:
        yield from _model(config.run, path)
    yield from _left_behind(config.run)
    for name in still_missing(config.run):
        yield SlideFailed(
            slide_id=name,
            error=f"{config.run / name}: a repair that did not come to its end removed it; "
            "`wsi repair` goes on with it",
        )


@dataclass(frozen=True, kw_only=True)
class VerifyTask:
    """One slide's work order.

    Attributes:
        slide_id: The slide.
        run: Run folder.
        slide: Its file, to see whether it changed since; None leaves that unchecked.
        dropped: Level-0 (x, y) of tiles that a person decided to leave out.
        pixels: Whether every tile is decoded.
    """

    slide_id: str
    run: Path
    slide: str | None
    dropped: frozenset[Place]
    pixels: bool


def verify_slide(task: VerifyTask) -> SlideDone | SlideSkipped:
    """Check a slide's tiles, features and predictions.

    Raises:
        StoreError: It names everything that is wrong.
    """
    started = time.monotonic()
    checked = check_slide(task)
    if not checked.stores:
        return SlideSkipped(slide_id=task.slide_id, reason="nothing there")
    if checked.wrong:
        problems = [problem for found in checked.wrong.values() for problem in found]
        raise StoreError("; ".join(dict.fromkeys(problems)))
    return SlideDone(
        slide_id=task.slide_id,
        counts=checked.stores,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class CheckedSlide:
    """How many stores of each kind a slide has, and what is wrong with which."""

    stores: Mapping[str, int]
    wrong: Mapping[Path, list[str]]


def check_slide(task: VerifyTask) -> CheckedSlide:
    """Check a slide's tiles, features and predictions, one after the other."""
    tiles = find_store(RunFolder(task.run).tiles, task.slide_id)
    features = sorted(RunFolder(task.run).features.glob(f"[!.]*/{task.slide_id}{STORE}"))
    predictions = sorted(RunFolder(task.run).predictions.glob(f"[!.]*/{task.slide_id}{STORE}"))
    if tiles is None and not features and not predictions:
        return CheckedSlide({}, {})
    wrong: dict[Path, list[str]] = {}
    if tiles is not None:
        unread: list[str] = []
        now = _digest_now(task, unread)
        wrong[tiles] = unread + verify_tiles(tiles, now, pixels=task.pixels)
    store = None if tiles is None else _open(tiles)
    for path in features:
        wrong[path] = _features(path, store, task)
    for path in predictions:
        wrong[path] = list(_prediction(path, task))
    counts = {
        "tile stores": int(tiles is not None),
        "feature stores": len(features),
        "predictions": len(predictions),
    }
    return CheckedSlide(counts, {path: found for path, found in wrong.items() if found})


def _digest_now(task: VerifyTask, problems: list[str]) -> str | None:
    if task.slide is None:
        return None
    try:
        return slide_digest(task.slide)
    except WsiError as error:
        problems.append(str(error))
        return None


def _open(path: Path) -> TileStore | None:
    """Open a store that has been checked; None where it was found wanting."""
    try:
        return open_tiles(path)
    except StoreError:
        return None


def _features(path: Path, store: TileStore | None, task: VerifyTask) -> list[str]:
    """Check a feature store, and whether its tiles are still those it was made of."""
    try:
        made_from: dict[str, Any] = read_attributes(path).get("made_from") or {}
    except StoreError as error:
        return [str(error)]
    if store is None or made_from.get("source") != "tiles":
        return verify_features(path)
    kept = store.coords[kept_mask(store.coords, task.dropped)]
    return verify_features(path, store_digest(store), kept)


def _prediction(path: Path, task: VerifyTask) -> Iterator[str]:
    """Yield what is wrong with a prediction: itself, its features, its model."""
    again = "predict again with --overwrite"
    try:
        found = read_prediction(path)
        bundle = RunFolder(task.run).model(path.parent.name)
        if (bundle / BundleFile.CONFIG).exists():
            model = read_bundle_config(bundle)
            if found.made_from.get("weights") != model.digests.get("weights"):
                yield f"{path}: is of an earlier model {path.parent.name}; {again}"
            store = RunFolder(task.run).feature_store(model.encoder, task.slide_id)
            if store.exists() and found.made_from.get("features") != read_digest(store):
                yield f"{path}: is of other features than {store}; {again}"
    except WsiError as error:
        yield str(error)
        return
    values: list[Floats] = [found.tiles.ravel(), *found.attention.values(), *found.slide.values()]
    if not np.isfinite(np.concatenate(values)).all():
        yield f"{path}: holds values that are not finite; {again}"
    rows = {len(found.coords), len(found.tiles), *map(len, found.attention.values())}
    if len(rows) > 1:
        yield f"{path}: row counts differ: {', '.join(map(str, sorted(rows)))}; {again}"


def _tell(run: Path, held: Holdings, unread: Sequence[Finding]) -> Iterator[Event]:
    """Tell of files that are not as they were written, each once."""
    wrong: dict[str, list[str]] = {}
    for finding in (*held.findings, *unread):
        wrong.setdefault(finding.name, []).append(finding.problem)
    alike: dict[tuple[str, str], list[str]] = {}
    for name, problems in wrong.items():
        alike.setdefault((str(Path(name).parent), "; ".join(problems)), []).append(name)
    for (_, problem), names in alike.items():  # a folder that is lost is one failure
        yield SlideFailed(
            slide_id=names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more",
            error=f"{run / names[0]}: {problem}{_advice(run, names[0])}",
        )
    if good := held.files - len({finding.name for finding in held.findings} - {NAME}):
        yield SlideDone(slide_id="files", counts={"files": good - len(held.unlisted)})
    yield from (Note(text=remark) for remark in held.remarks)
    if held.unlisted:
        yield Note(
            text=f"{len(held.unlisted)} files have no digests, as an older version wrote them: "
            f"{named(held.unlisted, 3)}; `wsi repair {run} --adopt` gives them digests as they are"
        )


def _advice(run: Path, name: str) -> str:
    if name == NAME:
        return f"; `wsi repair {run} --accept all` lists anew what is there"
    return (
        f"; `wsi repair {run}` redoes what can be redone, or with --accept {name} takes the file "
        "as it is, if a person changed it"
    )


def verify_tasks(config: VerifyConfig, unread: list[Finding]) -> Iterator[VerifyTask]:
    """Yield what is to be checked of each slide; tables that cannot be read go to ``unread``."""
    run = RunFolder(config.run)
    cohort: dict[str, CohortSlide] = {}
    decisions = None
    try:
        cohort = {row.slide_id: row for row in rows_of(run)}
    except CohortError as error:
        unread.append(Finding(run.cohort.name, f"cannot be used: {error}"))
    try:
        decisions = read_decisions(run.decisions)
    except CohortError as error:
        name = run.decisions.relative_to(run.root).as_posix()
        unread.append(Finding(name, f"cannot be used: {error}"))
    for slide_id in dict.fromkeys((*cohort, *_present(config.run))):
        yield VerifyTask(
            slide_id=slide_id,
            run=config.run,
            slide=_slide(config, cohort.get(slide_id)),
            dropped=decisions.dropped_tiles(slide_id) if decisions else frozenset(),
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
    """Return the slide's file; None where it is not at hand and nobody says where it should be.

    Nor is a copy of what was cut from a bucket, where a slide is known by what the server says.
    """
    found = None if row is None or is_remote(row.root) else row.locate(config.slides)
    if found is None or (
        config.slides is None and not (isinstance(found, Path) and found.exists())
    ):
        return None
    return str(found)


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
        return store.exists() and read_digest(store) != digest
    except StoreError:
        return False


def still_missing(run: Path) -> Iterator[str]:
    """Yield what a repair that did not come to its end has removed, and nobody made again."""
    path = RunFolder(run).unfinished_repair
    if path.exists():
        names = json.loads(path.read_text("utf-8"))["removed"]
        yield from (name for name in names if not (run / name).exists())


def _left_behind(run: Path) -> Iterator[Note]:
    """Tell of temporaries that killed writers left; the next writer removes them."""
    left = [path for room in ROOMS for path in (run / room).rglob(f".*{PARTIAL}*")]
    if left:
        yield Note(
            text=f"{len(left)} unfinished files of writers that were killed, for instance {left[0]}"
        )
