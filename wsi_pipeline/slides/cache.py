"""Slides of a share or a bucket, kept for a while on a local disk.

Several processes may use one folder. A slide is copied under a temporary name, compared with what
its source says of it, and renamed; a copy is used only as long as its files are as they were when
they were written, and the source is as it was when it was copied. When room is needed, the copies
go that were not used for the longest time, but none that is in use::

    <key>/entry.json          source, size, and the files with size and modification time
    <key>/slide/<name>        the slide, with all its files
    <key>/ahead               it was read ahead, and not used yet
    .partial-<key>/           a copy on its way
    .locks/<key>, .locks/all  the kernel's locks, which end with their process
"""

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import IO, Any, Final

from filelock import FileLock, Timeout

from wsi_pipeline.errors import ConfigError, SlideReadError, os_reason
from wsi_pipeline.pulse import pulse_in_hand
from wsi_pipeline.slides.files import files_of_slide, url_identity
from wsi_pipeline.slides.reader import is_url, library_errors, raise_own_slip

BLOCK: Final = 4 << 20
ENTRY: Final = "entry.json"
WAIT_S: Final = 5.0  # between two looks at a copy that another makes
PARTIAL: Final = ".partial-"
AHEAD: Final = "ahead"  # beside the entry of a copy that nobody has used yet
STALE_S: Final = 86400.0  # such a copy is waited for that long
GONE: Final = ".gone-"

log = getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One file of a slide: where it goes, and where from."""

    name: str
    source: str
    size: int
    md5: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A slide where it lies; ``identity`` changes when it does."""

    path: str
    name: str
    identity: str
    parts: tuple[_Part, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def key(self) -> str:
        return hashlib.blake2b(f"{self.path}\n{self.identity}".encode(), digest_size=16).hexdigest()


class SlideCache:
    """Local copies of slides in ``folder``, ``limit_bytes`` in all.

    Raises:
        ConfigError: The folder cannot be made.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        try:
            (folder / ".locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--cache {folder}: no files can be written there ({os_reason(error)}); choose "
                "another folder"
            ) from None

    @contextmanager
    def local(self, path: str | Path) -> Iterator[str | Path]:
        """Yield where a slide can be read; its copy stays until the block ends.

        That is the slide itself where there is no room for a copy.

        Raises:
            SlideOpenError: It is missing or cannot be reached.
            SlideReadError: It cannot be copied, or changed meanwhile.
        """
        source = _describe(path)
        with self._lock_while_it_grows(source.key):
            there = self._is_whole(source) or self._copied(source)
            use = self._use(source.key) if there else None
        if use is None:
            log.warning("%s: there is no room for a copy; it is read where it lies", path)
            yield path
            return
        try:
            yield self._folder / source.key / "slide" / source.name
        finally:
            os.close(use)

    def read_ahead(self, path: str | Path) -> bool:
        """Copy a slide that will be asked for; False where that has to wait for room.

        What else was read ahead, and is not used yet, does not have to go for it.

        Raises:
            SlideOpenError, SlideReadError: As :meth:`local`.
        """
        source = _describe(path)
        if source.size > self._limit:
            return True  # it is read where it lies
        with self._lock(source.key):
            return self._is_whole(source) or self._copied(source, ahead=True)

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        """Return a lock to hold in a ``with``, which waits so many seconds; -1 for ever."""
        return FileLock(self._folder / ".locks" / name, timeout=timeout)

    @contextmanager
    def _lock_while_it_grows(self, key: str) -> Iterator[None]:
        """Hold a copy's lock; while another copies it, what arrives is a sign of life."""
        pulse, lock, size = pulse_in_hand(), self._lock(key, timeout=WAIT_S), -1
        while True:
            try:
                lock.acquire()
                break
            except Timeout:
                partial = self._folder / f"{PARTIAL}{key}"
                before, size = size, _size_of(partial)
                if size != before:
                    pulse.beat()
        try:
            yield
        finally:
            lock.release()

    def _use(self, key: str) -> int:
        """Mark a copy as used, now and until the handle is closed."""
        entry = self._folder / key / ENTRY
        os.utime(entry)
        (entry.parent / AHEAD).unlink(missing_ok=True)
        handle = os.open(entry, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_SH)
        return handle

    def _is_whole(self, source: _Source) -> bool:
        """Whether a copy is there with every file as it was written; another is removed."""
        folder = self._folder / source.key
        if not folder.exists():
            return False
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads((folder / ENTRY).read_text())["files"]
            if told == _stats(folder / "slide", source):
                return True
        self._remove(folder)
        return False

    def _copied(self, source: _Source, *, ahead: bool = False) -> bool:
        """Copy the slide; False where there is no room. The caller holds its lock."""
        partial = self._folder / f"{PARTIAL}{source.key}"
        with self._lock("all"):
            shutil.rmtree(partial, ignore_errors=True)
            if not self._make_room(source.size, spare_ahead=ahead):
                return False
            partial.mkdir()
            if ahead:
                (partial / AHEAD).touch()
            about = {"source": source.path, "identity": source.identity, "size": source.size}
            (partial / ENTRY).write_text(json.dumps(about))
        try:
            for part in source.parts:
                _copy(part, partial / "slide" / part.name)
            if _describe(source.path).identity != source.identity:
                raise SlideReadError(f"{source.path}: it changed while it was copied; try again")
            about["files"] = _stats(partial / "slide", source)
            (partial / ENTRY).write_text(json.dumps(about))
            partial.replace(self._folder / source.key)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return True

    def _make_room(self, size: int, *, spare_ahead: bool) -> bool:
        """Remove what was not used for the longest time, and last what was read ahead, if at all.

        The caller holds the lock of all.
        """
        for left in self._folder.glob(f"{GONE}*"):
            shutil.rmtree(left, ignore_errors=True)
        paths = [path for path in self._folder.glob(f"*/{ENTRY}") if GONE not in str(path)]
        found = [entry for path in paths if (entry := _entry(path)) is not None]
        entries = sorted(found, key=lambda entry: (entry.ahead, entry.used))
        taken = sum(each.size for each in entries)
        if size > self._limit:
            return False
        for each in entries:
            if taken + size <= self._limit:
                break
            if not (spare_ahead and each.ahead) and self._evict(each.folder):
                taken -= each.size
        return taken + size <= self._limit

    def _evict(self, folder: Path) -> bool:
        """Remove a copy that nobody uses, or one that a process left half-way when it died."""
        try:
            with (
                self._lock(folder.name.removeprefix(PARTIAL), timeout=0),
                (folder / ENTRY).open() as entry,
            ):
                fcntl.flock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove(folder)
        except (OSError, Timeout):
            return False
        return True

    def _remove(self, folder: Path) -> None:
        gone = self._folder / f"{GONE}{folder.name}-{os.getpid()}-{threading.get_ident()}"
        folder.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    folder: Path
    size: int
    used: float
    ahead: bool = False


def _entry(path: Path) -> _Entry | None:
    try:
        size = int(json.loads(path.read_text())["size"])
        used, ahead = path.stat().st_mtime, (path.parent / AHEAD).exists()
        ahead = ahead and time.time() - used < STALE_S
        return _Entry(folder=path.parent, size=size, used=used, ahead=ahead)
    except FileNotFoundError:
        return None  # another process removed or renamed it just now
    except (OSError, ValueError, KeyError, TypeError):
        size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
        return _Entry(folder=path.parent, size=size, used=0.0)


def _stats(folder: Path, source: _Source) -> list[list[Any]]:
    """Return name, size and modification time of every file of a copy.

    Raises:
        OSError: One is not there.
    """
    stats = [(part, (folder / part.name).stat()) for part in source.parts]
    return [[part.name, stat.st_size, stat.st_mtime_ns] for part, stat in stats
            if stat.st_size == part.size]  # fmt: skip


def _describe(path: str | Path) -> _Source:
    """Look at a slide where it lies.

    Raises:
        SlideOpenError: It is missing or cannot be reached.
    """
    if is_url(path):
        url = str(path)
        facts = url_identity(url)
        path = url if url.startswith("s3://") else url.partition("?")[0]
        name = path.rstrip("/").rpartition("/")[2] or "slide"
        part = _Part(name=name, source=url, size=facts.size, md5=facts.md5)
        return _Source(path=url, name=name, identity=facts.tag, parts=(part,))
    path = Path(path).absolute()
    parts, times = [], []
    for file in files_of_slide(path):
        stat = file.stat()
        name = str(file.relative_to(path.parent))
        parts.append(_Part(name=name, source=str(file), size=stat.st_size))
        times.append((name, stat.st_size, stat.st_mtime_ns))
    return _Source(path=str(path), name=path.name, identity=repr(times), parts=tuple(parts))


def _size_of(folder: Path) -> int:
    """Return the bytes of what is in a folder; files may go meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total


def _copy(part: _Part, target: Path) -> None:
    """Copy one file and compare its length, and its md5 where the source tells it.

    Raises:
        SlideReadError: It cannot be read, or came otherwise than it is.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    md5, size, pulse = hashlib.md5(usedforsecurity=False), 0, pulse_in_hand()
    try:
        with _opened(part.source) as source, target.open("wb") as copy:
            while block := source.read(BLOCK):
                pulse.beat()
                copy.write(block)
                md5.update(block)
                size += len(block)
            copy.flush()
            os.fsync(copy.fileno())
    except library_errors() as error:
        raise_own_slip(error)
        raise SlideReadError(f"{part.source}: it cannot be copied ({error})") from error
    if size != part.size or part.md5 not in (None, md5.hexdigest()):
        raise SlideReadError(
            f"{part.source}: {size} bytes came with md5 {md5.hexdigest()}, the source says "
            f"{part.size} and {part.md5 or 'no md5'}; try again"
        )


@contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    if is_url(source):
        import fsspec  # only URLs need it, and it is slow to import

        with fsspec.open(source, "rb") as file:
            yield file
        return
    with Path(source).open("rb") as file:
        yield file
