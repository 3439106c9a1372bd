"""Many files at once, each whole and verified or named with its reason."""

import queue
import shutil
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Final

from wsi_pipeline.cohort import safe_id
from wsi_pipeline.errors import UsageError
from wsi_pipeline.events import (
    Event,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageStarted,
)
from wsi_pipeline.gdc.client import GdcClient
from wsi_pipeline.gdc.connections import Connections
from wsi_pipeline.gdc.ledger import Ledger
from wsi_pipeline.gdc.limit import RateLimit
from wsi_pipeline.gdc.manifest import ManifestEntry
from wsi_pipeline.gdc.one_file import Resolver, Settings, Site, bring
from wsi_pipeline.gdc.partial import read_state
from wsi_pipeline.gdc.progress import Meters, Moving, size_text
from wsi_pipeline.gdc.results import FileResult
from wsi_pipeline.gdc.retry import StoppedError

SPARE_BYTES: Final = 64 << 20  # left free on the disk
LOOK_S: Final = 0.5
SHUTDOWN_S: Final = 5.0


class Downloader:
    """Fetches ``entries`` into ``root``; iterate :meth:`run` to the end, then see ``results``."""

    def __init__(
        self,
        entries: Sequence[ManifestEntry],
        root: Path,
        client: GdcClient,
        settings: Settings | None = None,
        resolve: Resolver | None = None,
    ) -> None:
        self.results: list[FileResult] = []
        self._entries = entries
        self._client = client
        self._settings = settings or Settings()
        root.mkdir(parents=True, exist_ok=True)
        self._site = Site(
            root=root,
            client=client,
            connections=Connections(self._settings.connections),
            ledger=Ledger(root),
            limit=RateLimit(self._settings.max_bytes_per_s, client.stop),
            settings=self._settings,
            resolve=resolve,
        )
        self._said: queue.SimpleQueue[Event | FileResult | Exception] = queue.SimpleQueue()
        self._todo = iter(entries)
        self._lock = threading.Lock()

    def run(self) -> Generator[Event, None, None]:
        """Yield events until every file is done or failed.

        Closing the iterator stops the download at once; what has come is kept.
        """
        yield StageStarted(stage="download", total=len(self._entries), unit="files")
        threads = [
            threading.Thread(target=self._work, name=f"file-{number}", daemon=True)
            for number in range(min(self._settings.files_at_once, len(self._entries)))
        ]
        for thread in threads:
            thread.start()
        try:
            yield from self._events()
        finally:
            if len(self.results) < len(self._entries):
                self._client.abort()
            for thread in threads:
                thread.join(SHUTDOWN_S)
            self._site.connections.close(SHUTDOWN_S)

    def _events(self) -> Iterator[Event]:
        meters = Meters(sum(entry.size for entry in self._entries), len(self._entries))
        while len(self.results) < len(self._entries):
            try:
                said = self._said.get(timeout=LOOK_S)
            except queue.Empty:
                said = None
            if isinstance(said, Exception):
                raise said
            if isinstance(said, FileResult):
                self.results.append(said)
                meters.ended(said.entry.size, said.received_bytes)
                yield outcome(said)
            elif said is not None:
                yield said
            yield from meters.looks(
                [
                    Moving(
                        slide_id=slide_id(transfer.entry),
                        done_bytes=transfer.done_bytes,
                        total_bytes=transfer.entry.size,
                        received_bytes=transfer.fetch.received,
                    )
                    for transfer in self._site.transfers()
                ]
            )

    def _work(self) -> None:
        """Take one file after another until none is left or the download stops."""
        while not self._client.stop.is_set():
            with self._lock:
                entry = next(self._todo, None)
            if entry is None:
                return
            self._said.put(SlideStarted(slide_id=slide_id(entry)))
            try:
                self._said.put(bring(entry, self._site))
            except StoppedError:
                return
            except Exception as error:  # noqa: BLE001 (a bug; the main thread raises it)
                self._said.put(error)
                return


def slide_id(entry: ManifestEntry) -> str:
    """Return the name by which events call a file, the same as a cohort table's."""
    return safe_id(Path(entry.filename).stem)


def outcome(result: FileResult) -> Event:
    """Return the event that closes a file."""
    name = slide_id(result.entry)
    if not result.ok:
        return SlideFailed(slide_id=name, error=f"{result.entry.id}: {result.error}")
    if result.status != "downloaded":
        return SlideSkipped(slide_id=name, reason="there already, verified")
    return SlideDone(
        slide_id=name,
        counts={"bytes received": result.received_bytes, "bytes resumed": result.resumed_bytes},
        flags=("withdrawn id re-resolved",) if result.fetched_id != result.entry.id else (),
        seconds=result.seconds,
    )


def bytes_to_fetch(entry: ManifestEntry, root: Path) -> int:
    """Return how much of ``entry`` is not below ``root`` yet, by size alone."""
    path = root / entry.relative_path
    if path.is_file() and path.stat().st_size == entry.size:
        return 0
    arrived = read_state(path, entry.size, entry.md5)
    return entry.size - (sum(arrived.counts) if arrived else 0)


def check_disk(root: Path, needed: int) -> None:
    """Refuse what would not fit.

    Raises:
        UsageError: Fewer than ``needed`` bytes (and some to spare) are free where ``root`` is.
    """
    there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed and needed + SPARE_BYTES > free:
        raise UsageError(
            f"{root}: {size_text(needed)} are still to fetch, but only {size_text(free)} are free; "
            "make room, choose another folder, or take a part of the manifest"
        )
