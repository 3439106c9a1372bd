"""Which files below the output folder have been verified, so that a rerun need not read them all.

``verified.tsv`` holds one line a file: its path, md5, size and modification time when its bytes
matched the manifest. A file that changed since, however slightly, is read again. Beside each file
goes the note by which gdc-client knows its own finished files, so that it does not fetch it anew.
"""

import hashlib
import threading
from pathlib import Path
from typing import Final

from wsi_pipeline.gdc.manifest import ManifestEntry
from wsi_pipeline.gdc.retry import StoppedError

LEDGER: Final = "verified.tsv"
BLOCK: Final = 1 << 20


class Ledger:
    """The verified files of one output folder; one process writes it, from several threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / LEDGER
        self._lock = threading.Lock()
        self._rows = self._read()

    def knows(self, entry: ManifestEntry) -> bool:
        """Tell whether the file is there, unchanged since it was found to match ``entry``."""
        try:
            row = self._row(entry)
        except OSError:
            return False
        return self._rows.get(str(entry.relative_path)) == row

    def add(self, entry: ManifestEntry) -> None:
        """Record that the file on disk matches ``entry``."""
        row = self._row(entry)
        name = str(entry.relative_path)
        with self._lock:
            if self._rows.get(name) == row:
                return
            self._rows[name] = row
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\t".join((name, *row)) + "\n")

    def _row(self, entry: ManifestEntry) -> tuple[str, str, str]:
        stat = (self._root / entry.relative_path).stat()
        return entry.md5, str(stat.st_size), str(stat.st_mtime_ns)

    def _read(self) -> dict[str, tuple[str, str, str]]:
        try:
            lines = self._path.read_text("utf-8").splitlines()
        except OSError:
            return {}
        rows = [line.split("\t") for line in lines]
        return {row[0]: (row[1], row[2], row[3]) for row in rows if len(row) == 4}


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
    note = path.parent / "logs" / f"{path.name}.parcel"
    interval = b"cintervaltree.interval\nInterval\n(L0L\nL%dL\nNtR" % size
    text = b"cintervaltree.intervaltree\nIntervalTree\n((l" + interval + b"atR."
    if note.is_file() and note.read_bytes() == text:
        return
    note.parent.mkdir(exist_ok=True)
    note.write_bytes(text)
