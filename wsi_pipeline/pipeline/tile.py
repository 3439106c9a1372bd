"""The tile stage: slides to tile stores, between a scanner and everything learned from them."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from wsi_pipeline.cohort import doubtful_labels
from wsi_pipeline.engine import NO_TISSUE, SlideTask, is_done, map_slides, provenance
from wsi_pipeline.errors import StoreError
from wsi_pipeline.events import (
    Event,
    Note,
    SlideDone,
    SlideSkipped,
    StageStarted,
    Written,
)
from wsi_pipeline.pipeline.preflight import preflight
from wsi_pipeline.pipeline.resolve_cohort import resolve_cohort
from wsi_pipeline.pipeline.tile_task import CutTask, cut_task
from wsi_pipeline.run_cohort import merge_rows
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import digest
from wsi_pipeline.tiles import (
    FLAGS,
    STORE_FORMATS,
    cut_slide,
    find_store,
    open_tiles,
    settings_of_store,
)
from wsi_pipeline.timing import Stopwatch
from wsi_pipeline.verbs.tiles import TileConfig

PACKAGES: Final = ("numpy", "opencv-python-headless", "openslide-python", "zarr", "tensorstore")
DONE_EARLIER: Final = "done earlier"


def run(config: TileConfig) -> Iterator[Event]:
    """Cut every slide of the cohort into ``<run>/tiles/<slide_id>.zarr`` or ``.h5``.

    Raises:
        CohortError: The table is wrong, says something else of a slide than the run's own, or no
            file that it names is there.
        ConfigError: A setting is impossible.
    """
    resolved = resolve_cohort(config)
    merged = merge_rows(
        RunFolder(config.run), resolved.slides + resolved.lost, config.cohort,
        overwrite=config.overwrite, write=not config.dry_run,
    )  # fmt: skip
    yield StageStarted(stage="tile", total=len(resolved.slides) + resolved.failed)
    yield from resolved.events
    tasks = [cut_task(config, slide, resolved.deleted) for slide in resolved.slides]
    if config.dry_run:
        yield from (
            SlideSkipped(slide_id=task.slide_id, reason=DONE_EARLIER)
            for task in tasks
            if task.deleted
        )
        yield from preflight([task for task in tasks if not task.deleted])
        return
    yield merged
    yield from (Note(text=text) for text in doubtful_labels(resolved.slides))
    yield from cut(config, tasks)
    yield from written(config)


def cut(config: TileConfig, tasks: Sequence[CutTask]) -> Iterator[Event]:
    """Cut slides, each under its lock, and yield what became of them."""
    run = RunFolder(config.run)
    yield from map_slides(
        cut_one,
        [
            SlideTask(
                slide_id=task.slide_id, lock=run.lock("tile", task.slide_id), payload=task
            )
            for task in tasks
        ],
        config,
    )  # fmt: skip


def written(config: TileConfig) -> Iterator[Written]:
    """Name what the stage leaves for people to open."""
    yield Written(path=str(RunFolder(config.run).tiles), what="tiles")
    yield Written(path=str(RunFolder(config.run).thumbnails), what="thumbnails to check")


def cut_one(task: CutTask) -> SlideDone | SlideSkipped:
    """Cut one slide unless its store is there already.

    Raises:
        SlideError: The slide cannot be used.
        StoreMismatchError: The store was made with other settings or from another file.
    """
    started = time.monotonic()
    config = task.settings
    asked = {**task.asked, "slide_digest": task.digest()}
    if task.deleted is not None and task.deleted.empty == digest(asked):
        return SlideSkipped(slide_id=task.slide_id, reason=NO_TISSUE, detail="found earlier")
    present = find_store(RunFolder(config.run).tiles, task.slide_id)
    store = RunFolder(config.run).tiles / f"{task.slide_id}{STORE_FORMATS[config.store].suffix}"
    if present is not None and is_done(
        present, _stored(present, asked, config), asked, overwrite=config.overwrite
    ):
        return SlideSkipped(slide_id=task.slide_id, reason=DONE_EARLIER)
    task.require_file()
    result = cut_slide(
        task.path, store, config, task.request,
        thumbnail=RunFolder(config.run).thumbnail(task.slide_id),
        provenance={**asked, "versions": provenance(PACKAGES)},
        watch=Stopwatch(keep_spans=config.profile),
        threads=config.threads_each,
    )  # fmt: skip
    if present is not None and present != store:
        _remove(present)
    return SlideDone(
        slide_id=task.slide_id,
        counts=funnel(result.counts),
        flags=result.flags,
        seconds=time.monotonic() - started,
        phases=dict(result.watch.seconds),
        spans=tuple(result.watch.spans),
    )


def _stored(path: Path, asked: Mapping[str, Any], config: TileConfig) -> dict[str, Any] | None:
    """Return what the store was made from; None if it is to be made anew because it is damaged."""
    try:
        attributes = open_tiles(path).attributes
    except StoreError:
        if config.overwrite:
            return None
        raise
    stored = {name: attributes.get(name) for name in asked}
    return stored | {"config": settings_of_store(stored["config"] or {}, asked["config"])}


def _remove(store: Path) -> None:
    """Remove a store in the other format, which the new one replaces."""
    if store.is_dir():
        shutil.rmtree(store)
    else:
        store.unlink()


def funnel(counts: Mapping[str, int]) -> dict[str, int]:
    """Return a slide's counts as the closing table shows them, from tile places to tiles kept."""
    texts = {
        "candidates": "tile places",
        "rejected_tissue": "  too little tissue",
        "rejected_background": "  too much background",
        **{f"rejected_{name}": f"  {flag.fate}" for name, flag in FLAGS.items()},
        "kept": "tiles kept",
        **{f"flagged_{name}": f"  {flag.fate}, kept" for name, flag in FLAGS.items()},
    }
    always = ("candidates", "kept")
    return {
        text: counts.get(name, 0)
        for name, text in texts.items()
        if name in always or counts.get(name, 0)
    }
