"""What a run folder holds: each file with its size and digest, a line of JSON as it is written.

``inventory.jsonl`` tells what is there and what was taken away, so that a file which is lost, was
edited, or came from another slide or run is found. A line says that a file is about to be written
(``coming``), and one that it stands (``there``): after a crash between the two either the old or
the new file is right. Each line has a digest of itself and of the line before it. Processes append
under a lock.

A file that carries a seal (:mod:`wsi_pipeline.digests`) is known by the digest of that, and a Zarr
folder of ours by its ``zarr.json``, which seals the rest; of one exported for others each file is
listed. What is hidden, and the logs, are not listed.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import xxhash
from filelock import FileLock

from wsi_pipeline.digests import artifact_digest
from wsi_pipeline.errors import StoreCorruptError

NAME: Final = "inventory.jsonl"
LOCK: Final = (".locks", "inventory")
PATIENCE_S: Final = 120.0  # another process has the lock for less than a millisecond
ZARR: Final = "zarr.json"  # in the root of a Zarr folder
LINK: Final = ', "link": "'
LONGEST: Final = 1 << 16  # bytes: no line is longer
EXPORTED: Final = "export"  # for other tools, in whose Zarr folders nothing seals the rest
UNLISTED: Final = ("logs", NAME)
DEPTH: Final = 6  # folders between a run and a file in it

State = Literal["begun", "old", "coming", "there", "grows", "gone"]


@dataclass(frozen=True)
class Print:
    """One state of a file that is right: its size and digest."""

    size: int
    digest: str


@dataclass(frozen=True)
class Entry:
    """What is known of a file.

    Attributes:
        prints: The states that are right; none of a file from before there was an inventory.
        gone: Whether it was taken away, or may have been.
        grows: Whether it may have become longer since.
    """

    prints: tuple[Print, ...] = ()
    gone: bool = False
    grows: bool = False


@dataclass
class Inventory:
    """A run's inventory, as far as it has been read.

    Attributes:
        root: The run folder.
        entries: By path below it, with ``/``.
        problems: What is wrong with the inventory itself.
        begun: Whether it begins as every inventory does.
    """

    root: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    begun: bool = False
    _offset: int = 0
    _lines: int = 0
    _last: bytes = b""
    _state: tuple[int, int, int] = (0, 0, 0)
    _link: str | None = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """Read what was appended since the last time."""
        path = self.root / NAME
        with self._lock, path.open("rb") as file:
            told = os.fstat(file.fileno())
            if not self._goes_on(file, told):
                self.entries, self.problems, self.begun = {}, [], False
                self._offset, self._lines, self._link, self._last = 0, 0, "", b""
            self._state = (told.st_ino, told.st_size, told.st_mtime_ns)
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # of a writer that is at it, or was killed
                self._offset += len(line)
                self._last = line
                self._lines += 1
                self._take(line[:-1])

    def _goes_on(self, file: BinaryIO, told: os.stat_result) -> bool:
        """Whether the file is the one that was read, and lines at most were appended to it."""
        inode, size, changed = self._state
        if told.st_ino != inode or told.st_size < self._offset:
            return False
        if told.st_size == size and told.st_mtime_ns != changed:
            return False
        file.seek(self._offset - len(self._last))
        return file.read(len(self._last)) == self._last

    def _take(self, line: bytes) -> None:
        try:
            text = line.decode("ascii")
            told, _, link = text.removesuffix('"}').rpartition(LINK)
            row = json.loads(f"{told}}}")
            name, state = row["path"], row["state"]
            entry = None if state == "begun" else _next(self.entries.get(name), state, row)
        except (ValueError, KeyError, TypeError):
            self.problems.append(f"{self.root / NAME}: line {self._lines} is damaged")
            self._link = None
            return
        if self._link is not None and _linked(told, self._link) != link:
            self.problems.append(
                f"{self.root / NAME}: line {self._lines} was changed, or lines before it are gone"
            )
        self._link = link
        if entry is None:
            self.begun = self._lines == 1
        else:
            self.entries[name] = entry


def _next(entry: Entry | None, state: State, row: Mapping[str, Any]) -> Entry:
    """Return what is known of a file after one more line about it."""
    if state == "old":
        return Entry()
    if state == "gone":
        return Entry(gone=True)
    seen = Print(row["size"], row["digest"])
    if state == "coming" and entry is not None and not entry.gone:
        return Entry(prints=(*entry.prints[-1:], seen)) if entry.prints else entry
    return Entry(prints=(seen,), gone=state == "coming", grows=state == "grows")


def begin(root: Path, *, old: bool = True) -> None:
    """Begin a run folder's inventory, if it has none; what is there already is named as ``old``."""
    if _is_begun(root):
        return
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        if not _is_begun(root):
            found = listed_files(root) if old else ()
            there = sorted(each.relative_to(root).as_posix() for each in found)
            rows = [{"path": name, "state": "old"} for name in there]
            _append(root, [{"path": "", "state": "begun"}, *rows])


def _is_begun(root: Path) -> bool:
    """Whether there is an inventory, of one whole line at least; a full disk may have torn it."""
    path = root / NAME
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.readline(LONGEST).endswith(b"\n")


@contextmanager
def recorded(path: Path, partial: Path) -> Iterator[None]:
    """List what ``partial`` holds as being at ``path``, where the block puts it.

    Nothing is done outside of a run folder that has an inventory.
    """
    root = home_of(path)
    if root is None:
        yield
        return
    rows = [
        {"path": name, "state": "coming", "size": size, "digest": digest}
        for name, size, digest in _prints(root, path, partial)
    ]
    left: list[str] = []
    if partial.is_dir() and not _is_sealed(root, path, partial):
        left = [n for n in _listed_below(root, path) if n not in {row["path"] for row in rows}]
    with _locked(root):
        _append(root, rows)
    yield
    gone = [{"path": name, "state": "gone"} for name in left]
    with _locked(root):
        _append(root, [*({**row, "state": "there"} for row in rows), *gone], sync=False)


def note_gone(path: Path) -> None:
    """Strike a file, or all that a folder holds, from the inventory, before it is removed."""
    root = home_of(path)
    if root is not None:
        with _locked(root):
            _append(root, [{"path": n, "state": "gone"} for n in _listed_below(root, path)])


def note_there(path: Path, state: Literal["there", "grows"] = "there") -> None:
    """List a file as it is now.

    Args:
        path: The file.
        state: ``grows`` if it is only ever appended to.
    """
    root = home_of(path)
    if root is not None:
        with _locked(root):
            rows = [
                {"path": name, "state": state, "size": size, "digest": digest}
                for name, size, digest in _prints(root, path, path)
            ]
            _append(root, rows)


def settle(root: Path) -> None:
    """List as there what killed writers had put in its place, but not listed so yet.

    The caller is alone in the run folder.
    """
    for name, entry in list(inventory_of(root).entries.items()):
        path, unsettled = root / name, entry.gone or len(entry.prints) > 1
        if entry.prints and unsettled and path.exists() and not difference(entry, path):
            note_there(path)


def check_listed(path: Path) -> None:
    """Refuse a file, or a Zarr folder, that is not the one which the run's inventory lists.

    What no inventory lists is let through.

    Raises:
        StoreCorruptError: It was changed, or is another's.
    """
    root = home_of(path)
    if root is None:
        return
    file = path / ZARR if path.is_dir() else path
    entry = inventory_of(root).entries.get(_name(root, file))
    if entry is None or not entry.prints or not file.exists():
        return
    if problem := difference(entry, file):
        raise StoreCorruptError(f"{path}: damaged: {problem}")


def difference(entry: Entry, path: Path, *, fast: bool = False) -> str:
    """Say in what a file is another than the one that is listed; nothing if it is the same.

    Args:
        entry: What is listed.
        path: The file, which exists.
        fast: Compare sizes alone, but for files of a few kilobytes.
    """
    size = path.stat().st_size
    if entry.grows:
        first = entry.prints[-1]
        with path.open("rb") as file:
            same = size >= first.size and xxhash.xxh3_128_hexdigest(file.read(first.size)) == (
                first.digest
            )
        return "" if same else "lines that had been written to it were changed"
    sizes = sorted({each.size for each in entry.prints})
    if size not in sizes:
        return f"{size} bytes where {' or '.join(map(str, sizes))} had been written"
    if fast and size > LONGEST:
        return ""
    if Print(size, artifact_digest(path)) not in entry.prints:
        return "it is not the one that was written here: changed since, or of another slide or run"
    return ""


def read_inventory(root: Path) -> Inventory:
    """Read a run's inventory from its beginning; empty where there is none."""
    found = Inventory(root)
    if (root / NAME).exists():
        found.refresh()
    return found


def inventory_of(root: Path) -> Inventory:
    """Return a run's inventory, of which only what came since the last time is read."""
    found = _kept(root)
    if (root / NAME).exists():
        found.refresh()
    return found


@lru_cache(maxsize=8)
def _kept(root: Path) -> Inventory:
    return Inventory(root)


def home_of(path: Path) -> Path | None:
    """Return the run folder in whose inventory a file is listed; None where it is in none."""
    whole = path.absolute()
    for root in list(whole.parents)[:DEPTH]:
        if (root / NAME).is_file():
            name = whole.relative_to(root)
            hidden = any(part.startswith(".") for part in name.parts)
            return None if hidden or name.parts[0] in UNLISTED else root
    return None


def listed_files(root: Path) -> Iterator[Path]:
    """Yield the files in a run folder that an inventory lists, if they were written by us."""
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        if here == root:
            folders[:] = [name for name in folders if name not in UNLISTED]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if ZARR in names and _is_sealed(root, here, here):
            folders.clear()
            names = [ZARR]
        for name in sorted(names):
            if not name.startswith(".") and not (here == root and name in UNLISTED):
                yield here / name


def _prints(root: Path, path: Path, partial: Path) -> Iterator[tuple[str, int, str]]:
    """Yield name, size and digest of each file that ``partial`` brings to ``path``."""
    if not partial.is_dir():
        yield _name(root, path), partial.stat().st_size, artifact_digest(partial)
        return
    sealed = _is_sealed(root, path, partial)
    files = [partial / ZARR] if sealed else [p for p in partial.rglob("*") if p.is_file()]
    for file in sorted(files):
        target = path / file.relative_to(partial)
        yield _name(root, target), file.stat().st_size, artifact_digest(file)


def _is_sealed(root: Path, path: Path, partial: Path) -> bool:
    """Whether what is to be at ``path``, now at ``partial``, is a Zarr folder that seals itself."""
    parts = path.absolute().relative_to(root.absolute()).parts
    return bool(parts) and parts[0] != EXPORTED and (partial / ZARR).is_file()


def _listed_below(root: Path, path: Path) -> list[str]:
    """Return the names that are listed of a file or of what lies in a folder."""
    name, entries = _name(root, path), inventory_of(root).entries
    return [
        each
        for each, entry in entries.items()
        if not entry.gone and (each == name or each.startswith(f"{name}/"))
    ]


def _name(root: Path, path: Path) -> str:
    return path.absolute().relative_to(root).as_posix()


def _linked(told: str, before: str) -> str:
    return xxhash.xxh3_64_hexdigest((before + told).encode())


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    path = root.joinpath(*LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path).acquire(timeout=PATIENCE_S):
        yield


def _append(root: Path, rows: Iterable[Mapping[str, Any]], *, sync: bool = True) -> None:
    """Append rows; the caller holds the lock. What a killed writer left torn is cut off."""
    handle = os.open(root / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        end = os.fstat(handle).st_size
        begin = max(0, end - LONGEST)
        tail = os.pread(handle, end - begin, begin)
        whole = tail.rfind(b"\n") + 1
        end = begin + whole
        os.ftruncate(handle, end)
        last = tail[:whole].rstrip(b"\n").rpartition(b"\n")[2].decode("ascii", "replace")
        link = last.removesuffix('"}').rpartition(LINK)[2] if last else ""
        lines = []
        for row in rows:
            told = json.dumps(row)[:-1]
            link = _linked(told, link)
            lines.append(f'{told}{LINK}{link}"}}\n')
        os.pwrite(handle, "".join(lines).encode("ascii"), end)
        if sync:
            os.fdatasync(handle)
    finally:
        os.close(handle)
