"""The tile stage: slides to tile stores, between a scanner and everything learned from them."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from wsi_pipeline.atomic import remove
from wsi_pipeline.cohort import doubtful_labels
from wsi_pipeline.engine import (
    NO_TISSUE,
    Executor,
    SlideTask,
    is_done,
    limits_of,
    map_slides,
    provenance,
)
from wsi_pipeline.errors import SlideError, StoreError
from wsi_pipeline.events import (
    Event,
    Note,
    SlideDone,
    SlideSkipped,
    SlideStarted,
    StageStarted,
    Written,
)
from wsi_pipeline.pipeline.preflight import preflight
from wsi_pipeline.pipeline.resolve_cohort import resolve_cohort
from wsi_pipeline.pipeline.tile_task import CutTask, cut_task
from wsi_pipeline.pulse import pulse_in_hand
from wsi_pipeline.run_cohort import merge_rows
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import digest
from wsi_pipeline.slides import SlideCache, SlideState
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

PACKAGES: Final = ("numpy", "opencv-python-headless", "openslide-python", "imagecodecs")
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
        RunFolder(config.run), resolved.rows, config.cohort,
        overwrite=config.overwrite, write=not config.dry_run,
    )  # fmt: skip
    yield StageStarted(
        stage="tile", total=len(resolved.slides) + resolved.failed, part=resolved.part
    )
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


def cut(
    config: TileConfig, tasks: Sequence[CutTask], executor: Executor | None = None
) -> Iterator[Event]:
    """Cut slides, each under its lock, and yield what became of them."""
    run = RunFolder(config.run)
    work = [
        SlideTask(
            slide_id=task.slide_id,
            lock=run.lock("tile", task.slide_id),
            payload=task,
            limits=limits_of(config),
        )
        for task in tasks
    ]
    with reading_ahead(config, tasks) as begun:
        for event in map_slides(cut_one, work, config, executor):
            if isinstance(event, SlideStarted):
                begun()
            yield event


@contextmanager
def reading_ahead(config: TileConfig, tasks: Sequence[CutTask]) -> Iterator[Callable[[], None]]:
    """Copy slides into the cache before their turn; call what is yielded when one has begun.

    The workers of a running scheduler have disks of their own, and copy their slides themselves.
    """
    if config.slide_cache is None or config.scheduler is not None:
        yield lambda: None
        return
    cache = SlideCache(*config.slide_cache)
    turns, ended = threading.Semaphore(max(1, config.workers) + 1), threading.Event()
    tiles = RunFolder(config.run).tiles
    todo = [task for task in tasks if task.deleted is None]
    paths = {task.path: None for task in todo if find_store(tiles, task.slide_id) is None}

    def read() -> None:
        for path in paths:
            there = False
            while not there:
                turns.acquire()
                if ended.is_set():
                    return
                there = True  # also if it cannot be had: that is told at its own turn
                with suppress(SlideError, OSError):
                    there = cache.read_ahead(path)

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield turns.release
    finally:
        ended.set()
        turns.release()


def written(config: TileConfig) -> Iterator[Written]:
    """Name what the stage leaves for people to open."""
    yield Written(path=str(RunFolder(config.run).tiles), what="tiles")
    yield Written(path=str(RunFolder(config.run).thumbnails), what="thumbnails to check")


def cut_one(task: CutTask) -> SlideDone | SlideSkipped:
    """Cut one slide unless its store is there already.

    Raises:
        SlideError: The slide cannot be used, or changed while it was read.
        StoreMismatchError: The store was made with other settings or from another file.
    """
    started = time.monotonic()
    pulse_in_hand().beat()
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
    watch = Stopwatch(keep_spans=config.profile)
    source = SlideState(task.path, asked["slide_digest"])
    with _local(task, watch) as path:
        result = cut_slide(
            path, store, config, replace(task.request, source=source),
            thumbnail=RunFolder(config.run).thumbnail(task.slide_id),
            provenance={**asked, "versions": provenance(PACKAGES)},
            watch=watch,
            threads=config.threads_each,
        )  # fmt: skip
    if present is not None and present != store:
        remove(present)  # a store in the other format, which the new one replaces
    return SlideDone(
        slide_id=task.slide_id,
        counts=funnel(result.counts),
        flags=result.flags,
        seconds=time.monotonic() - started,
        phases=dict(result.watch.seconds),
        spans=tuple(result.watch.spans),
    )


@contextmanager
def _local(task: CutTask, watch: Stopwatch) -> Iterator[str | Path]:
    """Yield where the slide is read: its copy, where there is a cache.

    Raises:
        SlideError: It cannot be copied.
    """
    if task.settings.slide_cache is None:
        yield task.path
        return
    with ExitStack() as stack:
        with watch.phase("copy"):
            copy = SlideCache(*task.settings.slide_cache).local(task.path)
            path = stack.enter_context(copy)
        yield path


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


def funnel(counts: Mapping[str, int]) -> dict[str, int]:
    """Return a slide's counts as the closing table shows them, from tile places to tiles kept."""
    texts = {
        "candidates": "tile places",
        "rejected_tissue": "  too little tissue",
        "rejected_background": "  too much background",
        "rejected_unreadable": "  unreadable",
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
