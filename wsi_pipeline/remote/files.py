"""Files that are elsewhere: what each is checked against, what became of it, and the report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from wsi_pipeline.atomic import write_json
from wsi_pipeline.cohort import safe_id
from wsi_pipeline.errors import UsageError
from wsi_pipeline.tables import write_csv

Status = Literal["downloaded", "present", "failed", "skipped", "missing", "damaged", "not tried"]
FAILURES: Final = frozenset({"failed", "missing", "damaged", "not tried"})
COMING: Final = ".coming"  # below the output folder: folders of which something is missing
COLUMNS: Final = (
    "id",
    "filename",
    "size",
    "md5",
    "status",
    "error",
    "fetched_id",
    "received_bytes",
    "resumed_bytes",
    "requests",
    "seconds",
    "trouble",
)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file to fetch; ``md5`` and ``size`` (bytes) are what it will be checked against."""

    id: str
    filename: str
    md5: str
    size: int

    noted: ClassVar[bool] = True  # a note beside it tells gdc-client that it is finished
    of_folder: ClassVar[bool] = False  # all that has its id is one slide, there whole or not at all

    @property
    def relative_path(self) -> Path:
        """Where the file goes below the output folder: ``<id>/<filename>``, as gdc-client does."""
        return Path(self.id, self.filename)

    def place(self, root: Path) -> Path:
        """Where the file is below ``root``; of a folder, aside until all is there."""
        path = root / self.relative_path
        if self.of_folder and not path.parent.is_dir():
            return root / COMING / self.relative_path
        return path

    @property
    def address(self) -> str:
        """Where the file is below the server's address."""
        return f"data/{self.id}"

    @property
    def is_settled_by_repetition(self) -> bool:
        """Whether the same digest from two downloads will do, for want of one to compare with."""
        return False

    def is_content(self, path: Path, md5: str) -> bool:
        """Tell whether the bytes at ``path``, whose digest is ``md5``, are this file's.

        Raises:
            OSError: They cannot be read.
        """
        return path.stat().st_size == self.size and md5 == self.md5


def slide_ids(files: Sequence[RemoteFile]) -> list[str]:
    """Return the name by which events and cohort tables call each file: its stem.

    Where several have the same stem, the beginning of their ids tells them apart, or all of them.
    """
    names = stems = [safe_id(Path(file.filename).stem) for file in files]
    for length in (8, None):
        counts = Counter(name.casefold() for name in names)
        names = [
            name if counts[name.casefold()] == 1 else safe_id(f"{stem}-{file.id[:length]}")
            for name, stem, file in zip(names, stems, files, strict=True)
        ]
    return names


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """What became of one file of the manifest.

    ``received_bytes`` came over the wire in this run, ``resumed_bytes`` lay there from an earlier
    one. ``fetched_id`` is the id it was fetched under, ``trouble`` the last thing that made a
    request be repeated.
    """

    entry: RemoteFile
    status: Status
    error: str = ""
    fetched_id: str = ""
    received_bytes: int = 0
    resumed_bytes: int = 0
    requests: int = 0
    seconds: float = 0.0
    trouble: str = ""

    @property
    def ok(self) -> bool:
        return self.status not in FAILURES

    def row(self) -> dict[str, str | int | float]:
        entry = self.entry
        return {
            "id": entry.id,
            "filename": entry.filename,
            "size": entry.size,
            "md5": entry.md5,
            "status": self.status,
            "error": self.error,
            "fetched_id": self.fetched_id,
            "received_bytes": self.received_bytes,
            "resumed_bytes": self.resumed_bytes,
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "trouble": self.trouble,
        }


def write_report(path: Path, results: Sequence[FileResult]) -> None:
    """Write one row a file, as JSON or CSV by the suffix.

    Raises:
        UsageError: Another suffix.
    """
    check_report_path(path)
    rows = [result.row() for result in results]
    if path.suffix == ".json":
        write_json(path, rows)
        return
    write_csv(path, COLUMNS, rows)


def check_report_path(path: Path) -> None:
    if path.suffix not in (".csv", ".json"):
        raise UsageError(f"{path}: a report is written as .csv or .json")
