"""Which files below the output folder are right, so that a rerun need not read them all.

``verified.tsv`` holds one line a file: its path, md5, size and modification time when its bytes
matched the manifest; the last line of a path counts, and one without md5 says that the file was
found damaged. A file that changed since, however slightly, is read again. Beside each file goes the
note by which gdc-client knows its own finished files, so that it does not fetch it anew.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import UsageError
from wsi_pipeline.remote.files import FileResult, RemoteFile
from wsi_pipeline.remote.retry import StoppedError

LEDGER: Final = "verified.tsv"
BLOCK: Final = 1 << 20
THREADS: Final = 4
DAMAGED: Final = ("", "", "")


class Ledger:
    """The verified files of one output folder; one process writes it, from several threads.

    What is damaged in it costs a second look at the files it no longer names.

    Raises:
        UsageError: It is no file.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / LEDGER
        self._lock = threading.Lock()
        self._torn_at: int | None = None
        self._rows = self._read()

    def knows(self, entry: RemoteFile) -> bool:
        """Tell whether the file is there, unchanged since it was found to match ``entry``."""
        try:
            row = self._row(entry)
        except OSError:
            return False
        return self._rows.get(str(entry.relative_path)) == row

    def denies(self, entry: RemoteFile) -> bool:
        """Tell whether the file was found damaged and has not been fetched since."""
        return self._rows.get(str(entry.relative_path)) == DAMAGED

    def add(self, entry: RemoteFile) -> None:
        """Record that the file on disk matches ``entry``."""
        self._write(entry, self._row(entry))

    def deny(self, entry: RemoteFile) -> None:
        """Record that the file on disk does not match ``entry``, whatever was found before."""
        self._write(entry, DAMAGED)

    def _write(self, entry: RemoteFile, row: tuple[str, str, str]) -> None:
        name = str(entry.relative_path)
        with self._lock:
            if self._rows.get(name) == row:
                return
            self._rows[name] = row
            with self._path.open("a", encoding="utf-8") as file:
                if self._torn_at is not None:
                    file.truncate(self._torn_at)
                file.write("\t".join((name, *row)) + "\n")
            self._torn_at = None

    def _row(self, entry: RemoteFile) -> tuple[str, str, str]:
        stat = entry.place(self._root).stat()
        return entry.md5, str(stat.st_size), str(stat.st_mtime_ns)

    def _read(self) -> dict[str, tuple[str, str, str]]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsageError(
                f"{self._path}: what has been verified cannot be read ({error.strerror}); move it "
                "away, and the files are read once more"
            ) from None
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            self._torn_at = len(whole)  # a killed process left half a line
        rows = [line.split("\t") for line in whole.decode("utf-8", errors="replace").splitlines()]
        return {row[0]: (row[1], row[2], row[3]) for row in rows if len(row) == 4}


def is_present(entry: RemoteFile, root: Path, ledger: Ledger, stop: threading.Event) -> bool:
    """Tell whether the file is there and right; it is read unless it was verified before."""
    if ledger.knows(entry):
        return True
    path = entry.place(root)
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    if not entry.is_content(path, file_md5(path, stop)):
        return False
    ledger.add(entry)
    return True


def verify(entries: Sequence[RemoteFile], root: Path) -> Iterator[FileResult]:
    """Read every file of ``entries`` below ``root``; yield a result each, in their order.

    What the ledger says is not believed here; what is found, right or wrong, is written to it.
    """
    stop = threading.Event()
    ledger = Ledger(root)
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from pool.map(lambda entry: _verify(entry, root, ledger, stop), entries)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _verify(entry: RemoteFile, root: Path, ledger: Ledger, stop: threading.Event) -> FileResult:
    path = entry.place(root)
    try:
        size = path.stat().st_size
        md5 = file_md5(path, stop) if size == entry.size else ""
    except FileNotFoundError:
        return FileResult(entry=entry, status="missing", error="the file is not there")
    except OSError as problem:
        error = f"it cannot be read: {problem.strerror or problem}"
        return FileResult(entry=entry, status="damaged", error=error)
    if md5 and entry.is_content(path, md5):
        ledger.add(entry)
        return FileResult(entry=entry, status="present")
    ledger.deny(entry)
    found = f"md5 is {md5}" if md5 else f"{size} bytes"
    error = f"{found}, the manifest says {entry.md5 if md5 else entry.size}"
    return FileResult(entry=entry, status="damaged", error=error)


def file_md5(path: Path, stop: threading.Event) -> str:
    """Return a file's md5.

    Raises:
        StoppedError: ``stop`` was set meanwhile.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            if stop.is_set():
                raise StoppedError("stopped while verifying")
            digest.update(block)
    return digest.hexdigest()


def note_for_gdc_client(path: Path, size: int) -> None:
    """Leave ``logs/<name>.parcel`` beside a finished file, as gdc-client does.

    It is a pickled ``IntervalTree`` with one interval over the whole file; it is written out here
    opcode by opcode, because the package that defines the class is not needed for anything else.
    """
    note = _note_of(path)
    interval = b"cintervaltree.interval\nInterval\n(L0L\nL%dL\nNtR" % size
    text = b"cintervaltree.intervaltree\nIntervalTree\n((l" + interval + b"atR."
    if note.is_file() and note.read_bytes() == text:
        return
    note.parent.mkdir(exist_ok=True)
    note.write_bytes(text)


def remove_file(entry: RemoteFile, root: Path) -> None:
    """Delete a file below ``root``, its note, and its folder unless something else is in it.

    Raises:
        OSError: It cannot be deleted.
    """
    path = entry.place(root)
    path.unlink(missing_ok=True)
    _note_of(path).unlink(missing_ok=True)
    for folder in (_note_of(path).parent, path.parent):
        with suppress(OSError):  # another's files are in it, or it is gone
            folder.rmdir()


def _note_of(path: Path) -> Path:
    return path.parent / "logs" / f"{path.name}.parcel"
