"""GDC manifests: read every variant that is found in the wild, refuse the rest with its line.

A manifest is a table with tabs between the columns ``id filename md5 size state``, in any order.
``state`` may be missing, further columns are passed over, and the names of the ``/files`` endpoint
(``file_id``, ``file_name``, ``md5sum``, ``file_size``) are understood too. A list of ids alone will
do as well: the GDC knows the rest.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wsi_pipeline.atomic import write_text
from wsi_pipeline.errors import UsageError
from wsi_pipeline.remote import RemoteFile

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "id": ("id", "file_id"),
    "filename": ("filename", "file_name"),
    "md5": ("md5", "md5sum"),
    "size": ("size", "file_size"),
    "state": ("state",),
}
SLIDE_SUFFIXES: Final = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vsi", ".dcm"}
)
SHOWN_PROBLEMS: Final = 20
STDIN: Final = Path("-")
UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MD5: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class ManifestEntry(RemoteFile):
    """One row: a file of the GDC, with the state and the line that the manifest gives."""

    state: str | None = None
    line: int = field(default=0, compare=False)

    @property
    def is_slide(self) -> bool:
        return Path(self.filename).suffix.lower() in SLIDE_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The distinct files of a manifest, in its order; ``repeated`` rows were exact copies.

    ``ids`` are files of which nothing else is said.
    """

    entries: tuple[ManifestEntry, ...]
    repeated: int = 0
    ids: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.entries)


def read_manifests(wanted: Sequence[str]) -> Manifest:
    """Read several manifests as one.

    Args:
        wanted: Paths, ``-`` for the standard input, or ids of single files.

    Raises:
        UsageError: As :func:`read_manifest`; or two of them contradict each other.
    """
    entries: dict[str, ManifestEntry] = {}
    homes: dict[str, str] = {}
    ids: dict[str, None] = {}
    repeated = 0
    for name in wanted:
        if UUID.fullmatch(name.lower()):
            found = Manifest(entries=(), ids=(name.lower(),))
        else:
            found = read_manifest(Path(name))
        for entry in found.entries:
            first = entries.setdefault(entry.id, entry)
            home = homes.setdefault(entry.id, name)
            repeated += first is not entry
            if first != entry:
                raise UsageError(
                    f"{name}: line {entry.line}: id {entry.id} stands in {home}, line "
                    f"{first.line}, differently"
                )
        repeated += found.repeated + sum(one in ids for one in found.ids)
        ids |= dict.fromkeys(found.ids)
    alone = tuple(one for one in ids if one not in entries)
    return Manifest(entries=tuple(entries.values()), repeated=repeated, ids=alone)


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest; ``-`` is the standard input.

    Raises:
        UsageError: It is missing, empty, no such table, or has rows that cannot be understood;
            one line a problem, each with its line number.
    """
    lines = _lines(path)
    header_at = next((at for at, line in enumerate(lines) if line.strip()), None)
    if header_at is None:
        raise UsageError(f"{path}: the manifest is empty")
    header = [name.strip().lower() for name in lines[header_at].split("\t")]
    if len(header) == 1 and (header[0] in COLUMNS["id"] or UUID.fullmatch(header[0])):
        return _ids(path, lines, header_at + (header[0] in COLUMNS["id"]))
    places = _places(path, header_at + 1, header)
    problems: list[str] = []
    entries: dict[str, ManifestEntry] = {}
    repeated = 0
    for number, line in enumerate(lines[header_at + 1 :], start=header_at + 2):
        if not line.strip():
            continue
        try:
            entry = _entry(line.split("\t"), len(header), places, number)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        first = entries.setdefault(entry.id, entry)
        if first is entry:
            continue
        repeated += 1
        if first != entry:
            problems.append(f"line {number}: id {entry.id} stands in line {first.line} differently")
    _refuse(path, problems)
    if not entries:
        raise UsageError(f"{path}: the manifest has a header but names no file")
    return Manifest(entries=tuple(entries.values()), repeated=repeated)


def _ids(path: Path, lines: Sequence[str], first: int) -> Manifest:
    """Read a list of ids alone, one a line, from the line at ``first`` on."""
    rows = [(at + 1, lines[at].strip().lower()) for at in range(first, len(lines))]
    rows = [(number, text) for number, text in rows if text]
    wrong = [
        f"line {n}: {text[:60]!r} is not a UUID" for n, text in rows if not UUID.fullmatch(text)
    ]
    _refuse(path, wrong)
    if not rows:
        raise UsageError(f"{path}: the manifest has a header but names no file")
    ids = tuple(dict.fromkeys(text for _, text in rows))
    return Manifest(entries=(), ids=ids, repeated=len(rows) - len(ids))


def write_manifest(path: Path, entries: Iterable[ManifestEntry]) -> None:
    """Write a manifest as the portal does; the state column only where a state is known."""
    rows = list(entries)
    columns = [name for name in COLUMNS if name != "state" or any(row.state for row in rows)]
    text = ["\t".join(columns)]
    for row in rows:
        values = {
            "id": row.id,
            "filename": row.filename,
            "md5": row.md5,
            "size": str(row.size),
            "state": row.state or "",
        }
        text.append("\t".join(values[name] for name in columns))
    write_text(path, "\n".join(text) + "\n")


def _lines(path: Path) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such manifest") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a folder, not a manifest") from None
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8; save it as one") from None


def _places(path: Path, number: int, header: list[str]) -> dict[str, int]:
    """Return the position of each known column; ``state`` may be absent."""
    places, missing = {}, []
    for column, names in COLUMNS.items():
        found = [at for at, name in enumerate(header) if name in names]
        if len(found) > 1:
            raise UsageError(f"{path}: line {number}: column {column} stands twice in the header")
        if found:
            places[column] = found[0]
        elif column != "state":
            missing.append(column)
    if missing:
        shown = "\t".join(header)[:80]
        raise UsageError(
            f"{path}: line {number}: {shown!r} is no manifest header, "
            f"{', '.join(missing)} missing; expected id, filename, md5, size and state with tabs "
            "between them"
        )
    return places


def _entry(fields: list[str], width: int, places: Mapping[str, int], number: int) -> ManifestEntry:
    values = [field.strip() for field in fields]
    if len(values) < width or any(values[width:]):
        raise ValueError(f"{len(values)} fields where the header has {width}")
    file_id, md5, size = (values[places[name]] for name in ("id", "md5", "size"))
    if not UUID.fullmatch(file_id.lower()):
        raise ValueError(f"id {file_id[:60]!r} is not a UUID")
    if not MD5.fullmatch(md5.lower()):
        raise ValueError(f"md5 {md5[:60]!r} is not 32 hexadecimal digits")
    if not (size.isascii() and size.isdigit() and int(size) > 0):
        raise ValueError(f"size {size[:60]!r} is not a positive whole number of bytes")
    state = values[places["state"]] if "state" in places else ""
    return ManifestEntry(
        id=file_id.lower(),
        filename=safe_filename(values[places["filename"]]),
        md5=md5.lower(),
        size=int(size),
        state=state or None,
        line=number,
    )


def safe_filename(name: str) -> str:
    """Return ``name`` if it is the plain name of a file that stays in its folder.

    Raises:
        ValueError: It is empty, hidden, too long, or holds a separator or a control character.
    """
    odd = any(char in '/\\:*?"<>|' or not char.isprintable() for char in name)
    if not name or odd or name.startswith(".") or len(name.encode()) > 220:
        raise ValueError(f"filename {name[:60]!r} is not a plain file name")
    return name


def _refuse(path: Path, problems: list[str]) -> None:
    if not problems:
        return
    shown = [f"{path}: {problem}" for problem in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        shown.append(f"{path}: and {len(problems) - SHOWN_PROBLEMS} more such lines")
    raise UsageError("\n".join(shown))
