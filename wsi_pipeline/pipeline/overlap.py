"""Downloading, cutting and encoding at the same time: a slide is cut when it is there.

Each works in a thread of its own and hands on what it has finished: files to slides, slides to tile
stores. Where the encoder has a GPU it has a thread too; on a CPU it shares the cores with cutting,
and the two take turns. A slide's file can go once its tile store is verified; then downloading
waits while the files on disk fill their room, so that any number of slides pass through it.
"""

import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from wsi_pipeline import remote
from wsi_pipeline.cohort import CohortSlide, doubtful_labels
from wsi_pipeline.engine import NO_TISSUE, Executor, executor_for
from wsi_pipeline.errors import ConfigError, SlideError, WsiError
from wsi_pipeline.events import (
    Event,
    Note,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    StageResumed,
    StageStarted,
)
from wsi_pipeline.pipeline import download, tile
from wsi_pipeline.pipeline.deleted import DeletedSlide, read_deleted, record_deleted
from wsi_pipeline.pipeline.download_source import Wanted
from wsi_pipeline.pipeline.parcels import Handed, Parcel, Room, parcels_of
from wsi_pipeline.pipeline.resolve_cohort import resolve_rows, rows_of_table
from wsi_pipeline.pipeline.tile_task import cut_task
from wsi_pipeline.run_cohort import merge_rows
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import StageConfig, digest
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.tiles import find_store, verify_tiles
from wsi_pipeline.verbs.slides import DownloadConfig
from wsi_pipeline.verbs.tiles import ExtractConfig, TileConfig

SHUTDOWN_S: Final = 10.0
BATCH: Final = 8  # slides that are cut, at least, before the encoder has the cores again
SPENT: Final = "cut, and deleted after tiling"
NO_ROW: Final = "no row of the cohort names it"

Said = tuple[str, Event]  # which stage, and what it says


@dataclass(frozen=True, kw_only=True)
class Overlapped:
    """The stages that work at the same time.

    ``room`` are the bytes that slides' files may take on disk; with it they are deleted after
    tiling.
    """

    download: DownloadConfig
    out: Path
    tile: TileConfig
    extract: ExtractConfig | None = None
    room: int | None = None


def run(stages: Overlapped) -> Iterator[Event]:
    """Download, cut and encode a cohort; what is finished of any of it is not redone.

    Raises:
        UsageError: The request cannot be met; nothing was fetched.
        DownloadError: The source cannot answer, or nothing can come.
    """
    with download.source_of(stages.download) as (client, find):
        wanted = yield from find(stages.download, client)
        flow = _Flow(stages, wanted, client)
        yield from flow.run()


class _Flow:
    """One call: what is on its way, and what has to be done with it next."""

    def __init__(self, stages: Overlapped, wanted: Wanted, client: remote.Client) -> None:
        self._stages = stages
        self._client = client
        self._run = RunFolder(stages.tile.run)
        self._rows = rows_of_table(stages.tile)
        self._here: Handed[CohortSlide] = Handed()
        self._cut: Handed[str] = Handed()
        self._parcels, strays = parcels_of(wanted.files, self._rows, stages.out, stages.tile.slides)
        self._of_file = {file: parcel for parcel in self._parcels for file in parcel.files}
        self._of_row = {row.slide_id: parcel for parcel in self._parcels for row in parcel.rows}
        self._room = None if stages.room is None else Room(stages.room)
        self._stop = threading.Event()
        self._told: set[str] = set()
        self._empty: dict[str, Mapping[str, Any]] = {}  # slides without tissue: what was asked
        self._due: list[Parcel] = []
        self._wanted = self._still_wanted(wanted, strays)

    def run(self) -> Iterator[Event]:
        lanes = [self._fetch()]
        extract = self._stages.extract
        if extract is not None and self._has_gpu(extract):
            lanes += [self._tile(), self._encode(extract)]
        else:
            lanes += [self._in_turn(extract)]
        yield from self._merged(lanes)

    def _has_gpu(self, extract: ExtractConfig) -> bool:
        from wsi_pipeline.features import choose_device  # after the download is planned: torch

        return choose_device(extract.device).type != "cpu"

    def _still_wanted(self, wanted: Wanted, strays: Sequence[remote.RemoteFile]) -> Wanted:
        """Return what has to be fetched: not what was cut and deleted, what has begun first.

        Raises:
            ConfigError: A slide is larger than the room.
        """
        stages, ledger = self._stages, remote.Ledger(self._stages.out)
        deleted = {} if stages.tile.overwrite else read_deleted(self._run)
        spent = {id(each) for each in self._parcels if self._is_spent(each, deleted)}
        coming = [each for each in self._parcels if id(each) not in spent]
        self._due = coming
        if stages.room is not None and coming:
            largest = max(coming, key=lambda each: each.size)
            if largest.size > stages.room:
                raise ConfigError(
                    f"--disk-gb: {largest.files[0].filename} alone takes "
                    f"{remote.size_text(largest.size)}, and slides may take "
                    f"{remote.size_text(stages.room)}; nothing was fetched"
                )
        begun = {
            id(each): any(
                remote.bytes_to_fetch(file, stages.out, ledger) < file.size for file in each.files
            )
            for each in coming
        }
        files = [file for each in sorted(coming, key=lambda each: not begun[id(each)])
                 for file in each.files]  # fmt: skip
        for parcel in coming:
            parcel.coming = len(parcel.files)
        gone = [each for each in self._parcels if id(each) in spent]
        if stages.room is not None:  # a kill may have come between the ledger and the file
            for parcel in gone:
                self._sweep(parcel)
        fetched = {row.slide_id for parcel in coming for row in parcel.rows}
        self._here.put([row for row in self._rows if row.slide_id not in fetched])
        left_out = [(file, SPENT) for parcel in gone for file in parcel.files]
        if stages.room is not None:
            left_out += [(file, NO_ROW) for file in strays]
        results = [
            remote.FileResult(entry=file, status="skipped", error=why) for file, why in left_out
        ]
        return replace(
            wanted,
            files=files if stages.room is not None else [*files, *strays],
            results=[*wanted.results, *results],
            admit=self._admit,
            room=stages.room,
        )

    def _is_spent(self, parcel: Parcel, deleted: Mapping[str, DeletedSlide]) -> bool:
        """Whether all that is cut from the files is there, so that they need not come again."""
        for row in parcel.rows:
            known = deleted.get(row.slide_id)
            if known is None or known.content != parcel.content:
                return False
            if known.empty is not None:
                asked = cut_task(self._stages.tile, row).asked
                if known.empty != digest({**asked, "slide_digest": known.slide_digest}):
                    return False
                continue
            store = find_store(self._run.tiles, row.slide_id)
            if store is None or verify_tiles(store, known.slide_digest, pixels=False):
                return False
        return True

    def _admit(self, file: remote.RemoteFile, stop: threading.Event) -> str | None:
        parcel = self._of_file.get(file)
        if self._room is None or parcel is None:
            return None
        return self._room.take(parcel, stop)

    def _fetch(self) -> Iterator[Said]:
        """Fetch, and hand on each slide whose files have all come."""
        names = remote.slide_ids(self._wanted.files)
        files = dict(zip(names, self._wanted.files, strict=True))
        stages = self._stages
        yield from (
            ("download", SlideSkipped(slide_id=result.entry.filename, reason=result.error))
            for result in self._wanted.results
            if result.error in (SPENT, NO_ROW)
        )
        for event in download.fetch(stages.download, stages.out, self._wanted, self._client):
            yield "download", event
            if isinstance(event, SlideDone | SlideSkipped | SlideFailed):
                parcel = self._of_file.get(files[event.slide_id])
                self._arrived(parcel, failed=isinstance(event, SlideFailed))
        self._here.close()

    def _arrived(self, parcel: Parcel | None, *, failed: bool) -> None:
        if parcel is None:
            return
        parcel.coming -= 1
        parcel.whole &= not failed
        if parcel.coming:
            return
        if parcel.whole:
            parcel.uncut = {row.slide_id for row in parcel.rows}
            parcel.handed = True
            self._here.put(parcel.rows)
        elif self._room is not None:
            self._room.keep(parcel)

    def _tile(self) -> Iterator[Said]:
        """Cut what has come, until nothing more does."""
        config = self._stages.tile
        yield from self._begin_tile()
        with executor_for(config) as executor:
            while rows := self._here.take(_batch(config)):
                yield from self._round(rows, executor)
        yield from self._end_tile()
        self._cut.close()

    def _encode(self, extract: ExtractConfig) -> Iterator[Said]:
        """Encode what has been cut, until nothing more is."""
        yield from self._begin_encode()
        with executor_for(extract) as executor:
            while slides := self._cut.take(_batch(extract)):
                yield from self._encode_round(extract, slides, executor)
        yield from self._end_encode(extract)

    def _in_turn(self, extract: ExtractConfig | None) -> Iterator[Said]:
        """Cut and encode by turns, on the same cores."""
        tile_config = self._stages.tile
        yield from self._begin_tile()
        if extract is not None:
            yield from self._begin_encode()
        with ExitStack() as stack:
            cutting = encoding = stack.enter_context(executor_for(tile_config))
            if extract is not None and _where(extract) != _where(tile_config):
                encoding = stack.enter_context(executor_for(extract))
            while rows := self._here.take(_batch(tile_config)):
                yield from self._round(rows, cutting)
                slides = self._cut.take_now()
                if extract is not None and slides:
                    yield from self._encode_round(extract, slides, encoding)
        yield from self._end_tile()
        if extract is not None:
            yield from self._end_encode(extract)

    def _begin_tile(self) -> Iterator[Said]:
        yield "tile", StageStarted(stage="tile", total=len(self._rows))
        plain = [row for row in self._rows if row.tma_map is None]
        yield "tile", self._merge(plain)
        yield from (("tile", Note(text=text)) for text in doubtful_labels(plain))

    def _merge(self, rows: Sequence[CohortSlide]) -> Event:
        config = self._stages.tile
        return merge_rows(self._run, rows, config.cohort, overwrite=config.overwrite)

    def _round(self, rows: Sequence[CohortSlide], executor: Executor) -> Iterator[Said]:
        """Cut some slides; each store is handed on as soon as it is there."""
        config = self._stages.tile
        resolved = resolve_rows(config, rows)
        if any(row.tma_map is not None for row in rows):
            yield "tile", self._merge(resolved.rows)
        more = len(resolved.slides) + resolved.failed - len(rows)  # cores, but for their slide
        if more:
            yield "tile", StageResumed(stage="tile", more=more)
        if more and self._stages.extract is not None:
            yield "extract", StageResumed(stage="extract", more=more)
        yield from (("tile", event) for event in resolved.events)
        tasks = [cut_task(config, slide, resolved.deleted) for slide in resolved.slides]
        asked = {task.slide_id: task.asked for task in tasks}
        for event in tile.cut(config, tasks, executor):
            yield "tile", event
            match event:
                case SlideSkipped(slide_id=slide_id, reason=reason) if reason == NO_TISSUE:
                    self._empty[slide_id] = asked[slide_id]
                    yield from self._is_cut(slide_id)
                case SlideDone(slide_id=slide_id) | SlideSkipped(slide_id=slide_id):
                    self._cut.put([slide_id])
                    yield from self._is_cut(slide_id)
        for row in rows:
            self._keep(row)

    def _is_cut(self, slide_id: str) -> Iterator[Said]:
        """Let the slide's file go once all that is cut from it is there."""
        parcel = self._of_row.get(slide_id)
        if self._room is None or parcel is None or parcel.uncut is None:
            return
        parcel.uncut.discard(slide_id)
        if parcel.uncut:
            return
        parcel.uncut = None
        try:
            self._delete(parcel)
        except (WsiError, OSError) as error:
            self._room.keep(parcel)
            yield "tile", SlideFailed(slide_id=slide_id, error=f"{error}; its file is kept")
        else:
            self._room.give(parcel)

    def _keep(self, row: CohortSlide) -> None:
        """Count a slide's file as one that stays, if it has not gone."""
        parcel = self._of_row.get(row.slide_id)
        if self._room is not None and parcel is not None and parcel.uncut:
            self._room.keep(parcel)

    def _delete(self, parcel: Parcel) -> None:
        """Verify what was cut from a slide's file, write down that it goes, and delete it.

        Raises:
            SlideError: A tile store is not right.
            OSError: The file cannot be deleted.
        """
        known = []
        for row in parcel.rows:
            path = row.locate(self._stages.tile.slides) or row.path
            found = slide_digest(path)
            asked = self._empty.get(row.slide_id)
            empty = None if asked is None else digest({**asked, "slide_digest": found})
            store = find_store(self._run.tiles, row.slide_id)
            if empty is None:
                problems = ["no tile store"] if store is None else verify_tiles(store, found)
                if problems:
                    raise SlideError(f"{row.slide_id}: {problems[0]}")
            known.append(
                DeletedSlide(
                    slide_id=row.slide_id, content=parcel.content, slide_digest=found,
                    size=parcel.size, empty=empty,
                )
            )  # fmt: skip
        for slide in known:
            record_deleted(self._run, slide)
        self._sweep(parcel)

    def _sweep(self, parcel: Parcel) -> None:
        for file in parcel.files:
            remote.remove_file(file, self._stages.out)

    def _end_tile(self) -> Iterator[Said]:
        lost = [each for each in self._due if not each.handed]
        for row in (row for parcel in lost for row in parcel.rows):
            path = row.locate(self._stages.tile.slides)
            error = f"no file {path}; it could not be fetched"
            yield "tile", SlideFailed(slide_id=row.slide_id, error=error)
        yield from (("tile", event) for event in tile.written(self._stages.tile))

    def _begin_encode(self) -> Iterator[Said]:
        yield "extract", StageStarted(stage="extract", total=len(self._rows))

    def _encode_round(
        self, config: ExtractConfig, slides: Sequence[str], executor: Executor
    ) -> Iterator[Said]:
        from wsi_pipeline.pipeline.extract import encode_stores

        for event in encode_stores(config, slides, executor):
            yield "extract", event
            if isinstance(event, SlideDone | SlideSkipped | SlideFailed):
                self._told.add(event.slide_id)

    def _end_encode(self, config: ExtractConfig) -> Iterator[Said]:
        from wsi_pipeline.pipeline.extract import rest

        yield from (("extract", event) for event in rest(config, self._told))

    def _merged(self, lanes: Sequence[Iterator[Said]]) -> Iterator[Event]:
        """Run each in a thread of its own; yield what they say, as it comes.

        Raises:
            Exception: What one of them raised; the others are stopped.
        """
        said: queue.SimpleQueue[Said | Exception | None] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=copy_context().run, args=(self._hear, lane, said), daemon=True)
            for lane in lanes
        ]
        for thread in threads:
            thread.start()
        try:
            yield from _spoken(said, len(threads))
        finally:
            self._stop.set()
            self._client.abort()
            self._here.drop()
            self._cut.drop()
            for thread in threads:
                thread.join(SHUTDOWN_S)

    def _hear(
        self, lane: Iterator[Said], said: "queue.SimpleQueue[Said | Exception | None]"
    ) -> None:
        try:
            for each in lane:
                said.put(each)
                if self._stop.is_set():
                    return
        except Exception as error:  # noqa: BLE001 (ends the call, in the thread that shows it)
            said.put(error)
        finally:
            if isinstance(lane, Generator):
                lane.close()
            said.put(None)


def _spoken(said: "queue.SimpleQueue[Said | Exception | None]", lanes: int) -> Iterator[Event]:
    """Yield the events of all lanes, and whose they are where another one speaks."""
    speaker = ""
    while lanes:
        each = said.get()
        if each is None:
            lanes -= 1
        elif isinstance(each, Exception):
            raise each
        else:
            stage, event = each
            if stage != speaker and not isinstance(event, StageStarted | StageResumed):
                yield StageResumed(stage=stage)
            speaker = stage
            yield event


def _batch(config: StageConfig) -> int:
    """Return how many slides are taken up together."""
    return max(BATCH, 2 * config.workers)


def _where(config: StageConfig) -> tuple[int, str | None]:
    return config.workers, config.scheduler
