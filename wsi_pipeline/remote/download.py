"""Many files at once, each whole and verified or named with its reason."""

import queue
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import DiskFullError, DownloadError, UsageError, disk_error, os_reason
from wsi_pipeline.events import (
    Event,
    Note,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageStarted,
)
from wsi_pipeline.remote.client import Client, NoWayError
from wsi_pipeline.remote.connections import Connections, Gate, RateLimit
from wsi_pipeline.remote.files import COMING, FileResult, RemoteFile, slide_ids
from wsi_pipeline.remote.ledger import Ledger, is_present, note_for_gdc_client
from wsi_pipeline.remote.partial import PartialFile, read_state, sweep
from wsi_pipeline.remote.progress import Meters, Moving, size_text
from wsi_pipeline.remote.retry import DOWN_AFTER, RefusedError, StoppedError
from wsi_pipeline.remote.segment import Fetch, Road
from wsi_pipeline.remote.transfer import Transfer

WITHDRAWN: Final = (404, 410)
SPARE_BYTES: Final = 64 << 20  # left free on the disk
LOOK_S: Final = 0.5
SHUTDOWN_S: Final = 5.0
NOT_TRIED: Final = "not tried: the server was down"


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What is known of a file that is not where it was: where it is now, if the bytes are the same,
    and a sentence about it."""

    now: RemoteFile | None
    said: str


Resolver = Callable[[RemoteFile], Elsewhere]
Admit = Callable[[RemoteFile, threading.Event], str | None]
"""Waits until a file may come, or the event ends the wait; says why it may not come at all."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How files are fetched; ``again`` fetches even those that are there and right.

    A connection that after ``slow_after_s`` brings less than a quarter of what is usual is doubled
    by one that has nothing else to do.
    """

    connections: int
    files_at_once: int
    segment_bytes: int
    max_bytes_per_s: float | None = None
    min_bytes_per_s: float = 1024.0
    slow_after_s: float = 5.0
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class _Site:
    """What all files share: where they go and how they come.

    ``resolve`` finds out where a withdrawn file is now. ``moving`` holds the transfers under way.
    """

    root: Path
    road: Road
    connections: Connections
    ledger: Ledger
    settings: Settings
    resolve: Resolver | None = None
    moving: dict[Path, Transfer] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def transfers(self) -> list[Transfer]:
        with self.lock:
            return list(self.moving.values())


class Downloader:
    """Fetches ``entries`` into ``root``; iterate :meth:`run` to the end, then see ``results``.

    Raises:
        UsageError: ``root`` cannot be made.
    """

    def __init__(
        self,
        entries: Sequence[RemoteFile],
        root: Path,
        client: Client,
        settings: Settings,
        resolve: Resolver | None = None,
        admit: Admit | None = None,
    ) -> None:
        self.results: list[FileResult] = []
        self._admit = admit
        self._entries = entries
        self._client = client
        self._settings = settings
        make_folder(root)
        self._gate = Gate(self._settings.connections)
        self._site = _Site(
            root=root,
            road=Road(
                client=client,
                gate=self._gate,
                limit=RateLimit(self._settings.max_bytes_per_s, client.stop),
                min_bytes_per_s=self._settings.min_bytes_per_s,
                slow_after_s=self._settings.slow_after_s,
            ),
            connections=Connections(self._settings.connections, self._gate),
            ledger=Ledger(root),
            settings=self._settings,
            resolve=resolve,
        )
        self._said: queue.SimpleQueue[Event | FileResult | Exception] = queue.SimpleQueue()
        self._todo = iter(entries)
        self._names = {
            entry.relative_path: name
            for entry, name in zip(entries, slide_ids(entries), strict=True)
        }
        self._lock = threading.Lock()
        self._folders = Folders(entries, root, self._site.ledger)

    def run(self) -> Generator[Event, None, None]:
        """Yield events until every file is done or failed, or the server is found to be down.

        Closing the iterator stops the download at once; what has come is kept.

        Raises:
            NoWayError: Nothing can come: the proxy's or a certificate's fault.
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
            yield from self._afterwards()
        finally:
            if len(self.results) < len(self._entries):
                self._client.abort()
            for thread in threads:
                thread.join(SHUTDOWN_S)
            self._site.connections.close(SHUTDOWN_S)

    def _events(self) -> Iterator[Event]:
        meters = Meters(sum(entry.size for entry in self._entries), len(self._entries))
        stop = self._client.stop
        while len(self.results) < len(self._entries) and not stop.is_set():
            try:
                said = self._said.get(timeout=LOOK_S)
            except queue.Empty:
                said = None
            if isinstance(said, Exception):
                raise said
            if isinstance(said, FileResult):
                self.results.append(said)
                self._folders.take(said)
                meters.ended(said.entry.size, said.received_bytes)
                if said.error != NOT_TRIED:
                    yield self.outcome(said)
            elif said is not None:
                yield said
            yield from meters.progress(
                [
                    Moving(
                        slide_id=self._names[transfer.entry.relative_path],
                        done_bytes=transfer.done_bytes,
                        total_bytes=transfer.entry.size,
                        received_bytes=transfer.fetch.received,
                    )
                    for transfer in self._site.transfers()
                ]
            )

    def _afterwards(self) -> Iterator[Event]:
        left = sum(result.error == NOT_TRIED for result in self.results)
        if left:
            last = [result.error for result in self.results if result.status == "failed"][-1]
            yield Note(
                text=f"{self._client.server} is down: {DOWN_AFTER} requests in a row or more "
                f"failed, the last with: {last}. {left} files were not tried; the same command "
                "goes on from there"
            )
        if self._gate.fewest < self._settings.connections:
            yield Note(
                text=f"the server pushed back: at times {self._gate.fewest} of "
                f"{self._settings.connections} connections were used"
            )

    def _work(self) -> None:
        """Take one file after another until none is left or the download stops."""
        while not self._client.stop.is_set():
            with self._lock:
                entry = next(self._todo, None)
            if entry is None:
                return
            if self._client.health.is_down:
                self._said.put(FileResult(entry=entry, status="not tried", error=NOT_TRIED))
                continue
            try:
                if refusal := self._admit and self._admit(entry, self._client.stop):
                    self._said.put(FileResult(entry=entry, status="not tried", error=refusal))
                    continue
                self._said.put(SlideStarted(slide_id=self._names[entry.relative_path]))
                self._said.put(_bring(entry, self._site))
            except StoppedError:
                return
            except Exception as error:  # noqa: BLE001 (no way at all, or a bug: ends the download)
                self._said.put(error)
                return

    def outcome(self, result: FileResult) -> Event:
        """Return the event that closes a file."""
        return outcome(result, self._names[result.entry.relative_path])


class Folders:
    """Folders that are slides: each appears under its name when all of its files are there.

    One that is there and lacks a file, or has one that was found damaged, is set aside.

    Raises:
        UsageError: It cannot be.
    """

    def __init__(self, entries: Sequence[RemoteFile], root: Path, ledger: Ledger) -> None:
        self._root = root
        self._left: dict[str, set[RemoteFile]] = {}
        for entry in entries:
            if entry.of_folder:
                self._left.setdefault(entry.id, set()).add(entry)
        for name, files in self._left.items():
            if any(bytes_to_fetch(file, root, ledger) for file in files):
                self._set_aside(name)

    def _set_aside(self, name: str) -> None:
        there, aside = self._root / name, self._root / COMING / name
        try:
            for path in sorted(there.iterdir()) if there.is_dir() else ():
                aside.mkdir(parents=True, exist_ok=True)
                path.replace(aside / path.name)
            if there.is_dir():
                there.rmdir()
        except OSError as error:
            raise UsageError(
                f"{there}: it lacks files, and cannot be set aside ({os_reason(error)})"
            ) from None

    def take(self, result: FileResult) -> None:
        """Hear what became of a file; its folder gets its name once nothing is missing."""
        left = self._left.get(result.entry.id)
        if left is None or not result.ok:
            return
        left.discard(result.entry)
        aside = self._root / COMING / result.entry.id
        if not left and aside.is_dir():
            aside.replace(self._root / result.entry.id)
            with suppress(OSError):  # others are still there
                aside.parent.rmdir()


def _bring(entry: RemoteFile, site: _Site) -> FileResult:
    """Make sure that ``entry`` is below ``site.root``, whole and verified.

    Raises:
        NoWayError: Nothing can come at all.
        StoppedError: The download was stopped.
    """
    begun = time.monotonic()
    stop = site.road.client.stop
    try:
        if not site.settings.again and is_present(entry, site.root, site.ledger, stop):
            _note(entry, site.root)
            sweep(entry.place(site.root))
            return FileResult(entry=entry, status="present", seconds=time.monotonic() - begun)
        result = _fetch(entry, site, entry)
    except (StoppedError, NoWayError):
        raise
    except OSError as error:
        result = FileResult(entry=entry, status="failed", error=_reason(error))
    return replace(result, seconds=time.monotonic() - begun)


def _fetch(entry: RemoteFile, site: _Site, source: RemoteFile) -> FileResult:
    """Fetch ``entry`` from where ``source`` is."""
    path = entry.place(site.root)
    partial = PartialFile(
        path, size=entry.size, md5=entry.md5, segment_bytes=site.settings.segment_bytes
    )
    fetch = Fetch(road=site.road, path=source.address, partial=partial)
    transfer = Transfer(entry, fetch, site.connections)
    with site.lock:
        site.moving[entry.relative_path] = transfer
    error = None
    try:
        transfer.run()
        site.ledger.add(entry)
        _note(entry, site.root)
    except (StoppedError, NoWayError):
        raise
    except OSError as caught:
        error = caught
    finally:
        partial.close()
        with site.lock:
            del site.moving[entry.relative_path]
    reason = "" if error is None else _reason(error)
    if isinstance(error, RefusedError) and error.status in WITHDRAWN and source is entry:
        found = _resolved(entry, site)
        if found is not None and found.now is not None:
            return _fetch(entry, site, found.now)
        reason += f"; {found.said}" if found else ""
    return FileResult(
        entry=entry,
        status="downloaded" if error is None else "failed",
        error=reason,
        fetched_id=source.id,
        received_bytes=fetch.received,
        resumed_bytes=transfer.resumed_bytes,
        requests=fetch.requests,
        trouble=fetch.last_trouble,
    )


def _note(entry: RemoteFile, root: Path) -> None:
    if entry.noted:
        note_for_gdc_client(entry.place(root), entry.size)


def _resolved(entry: RemoteFile, site: _Site) -> Elsewhere | None:
    """Return where the file is now; None if that is not asked for, or the server cannot say."""
    if site.resolve is None:
        return None
    try:
        return site.resolve(entry)
    except (StoppedError, NoWayError):
        raise
    except DownloadError:
        return None  # the 404 stands, and is what the user will be told


def _reason(error: OSError) -> str:
    if isinstance(error, DownloadError):
        return str(error)
    if told := disk_error(error):
        return str(told)
    return f"{error.strerror or error} ({error.filename})" if error.filename else str(error)


def outcome(result: FileResult, name: str) -> Event:
    """Return the event that closes the file called ``name``."""
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


def bytes_to_fetch(entry: RemoteFile, root: Path, ledger: Ledger) -> int:
    """Return how much of ``entry`` is not below ``root`` yet, by size alone.

    A file that was found damaged is not there.
    """
    path = entry.place(root)
    try:
        if path.is_file() and path.stat().st_size == entry.size and not ledger.denies(entry):
            return 0
    except OSError:
        return entry.size
    arrived = read_state(path, entry.size, entry.md5)
    return entry.size - (sum(arrived.counts) if arrived else 0)


def make_folder(path: Path) -> None:
    """Make a folder to write to, unless it is there.

    Raises:
        UsageError: It cannot be made, or nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{threading.get_ident()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if isinstance(told := disk_error(error, path), DiskFullError):
            raise told from None
        raise UsageError(
            f"{path}: no files can be written there ({os_reason(error)}); choose another folder"
        ) from None


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
