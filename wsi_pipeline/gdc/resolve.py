"""Ids that the GDC has withdrawn or superseded: where the same file, or its successor, is now.

``/files/versions`` knows the successors of ids that were replaced; what it does not know is looked
up by file name. Only an equal md5 makes it the same file; another md5 under the same name is a new
version, which is named, and taken on request only.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from wsi_pipeline.errors import DownloadError
from wsi_pipeline.gdc.manifest import ManifestEntry
from wsi_pipeline.gdc.search import entry_of, find_files
from wsi_pipeline.remote import Client, Elsewhere, RefusedError, RemoteFile, StoppedError

Kind = Literal["current", "moved", "new version", "gone"]
CHUNK: Final = 200
FIELDS: Final = ("file_id", "file_name", "md5sum", "file_size", "state")


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Where a manifest's file is now.

    ``current``: under its own id. ``moved``: the same bytes under ``now``'s id. ``new version``:
    ``now`` has the name but other bytes. ``gone``: nothing has its name.
    """

    entry: RemoteFile
    kind: Kind
    now: ManifestEntry | None = None

    def elsewhere(self) -> Elsewhere:
        """Return it as a download asks for it: only the same bytes are the same file."""
        return Elsewhere(now=self.now if self.kind == "moved" else None, said=str(self))

    def __str__(self) -> str:
        name = f"{self.entry.id} {self.entry.filename}"
        match self.kind:
            case "current":
                return f"{name}: current"
            case "moved" if self.now is not None:
                return f"{name}: the same file is now {self.now.id}"
            case "new version" if self.now is not None:
                return (
                    f"{name}: only a new version exists, {self.now.id} with md5 {self.now.md5} "
                    f"and {self.now.size} bytes; --resolve latest takes it"
                )
            case _:
                return f"{name}: gone, the GDC has no file of this name"


def resolve(client: Client, entries: Sequence[RemoteFile]) -> list[Resolution]:
    """Find where each file is now, in the order of ``entries``.

    Raises:
        DownloadError: The server cannot answer.
    """
    found: list[Resolution] = []
    for at in range(0, len(entries), CHUNK):
        found += _resolve(client, entries[at : at + CHUNK])
    return found


def look_up(client: Client, ids: Sequence[str]) -> tuple[list[ManifestEntry], list[str]]:
    """Return what the GDC says of files of which only the ids are known, and the ids it lacks.

    An id that was superseded is not replaced here: nobody can say whether it is the same file.

    Raises:
        DownloadError: The server cannot answer.
    """
    found: dict[str, ManifestEntry] = {}
    for at in range(0, len(ids), CHUNK):
        found |= {now.id: now for now in _lookup(client, "file_id", ids[at : at + CHUNK])}
    known = [found[one] for one in ids if one in found]
    return known, [one for one in ids if one not in found]


def _resolve(client: Client, entries: Sequence[RemoteFile]) -> Iterator[Resolution]:
    latest = _latest_ids(client, [entry.id for entry in entries])
    ids = sorted({*(entry.id for entry in entries), *latest.values()})
    by_id = {now.id: now for now in _lookup(client, "file_id", ids)}
    lost = sorted({e.filename for e in entries if latest.get(e.id, e.id) not in by_id})
    by_name: dict[str, list[ManifestEntry]] = defaultdict(list)
    for now in _lookup(client, "file_name", lost):
        by_name[now.filename].append(now)
    for entry in entries:
        candidates = [by_id[i] for i in (entry.id, latest.get(entry.id, "")) if i in by_id]
        yield _judge(entry, candidates + by_name[entry.filename])


def _judge(entry: RemoteFile, candidates: Sequence[ManifestEntry]) -> Resolution:
    same = [now for now in candidates if (now.md5, now.size) == (entry.md5, entry.size)]
    for now in same:
        if now.id == entry.id:
            return Resolution(entry=entry, kind="current", now=now)
    if same:
        return Resolution(entry=entry, kind="moved", now=same[0])
    if candidates:
        return Resolution(entry=entry, kind="new version", now=candidates[-1])
    return Resolution(entry=entry, kind="gone")


def _latest_ids(client: Client, ids: Sequence[str]) -> dict[str, str]:
    """Ask for the successors; one unknown id makes the GDC refuse the whole question."""
    try:
        answer = client.ask("files/versions", {"ids": list(ids)})
    except StoppedError:
        raise
    except RefusedError as error:
        if error.status not in (400, 404):
            raise
        if len(ids) == 1:
            return {}
        half = len(ids) // 2
        return _latest_ids(client, ids[:half]) | _latest_ids(client, ids[half:])
    if not isinstance(answer, list):
        raise DownloadError("files/versions: an answer that cannot be understood")
    rows = [row for row in answer if isinstance(row, Mapping)]
    return {str(row["id"]): str(row["latest_id"]) for row in rows if _names_successor(row)}


def _names_successor(row: Mapping[str, Any]) -> bool:
    return bool(row.get("id")) and bool(row.get("latest_id"))


def _lookup(client: Client, field: str, values: Sequence[str]) -> Iterator[ManifestEntry]:
    if not values:
        return
    filters = {"op": "in", "content": {"field": field, "value": list(values)}}
    for hit in find_files(client, filters, FIELDS).hits:
        try:
            yield entry_of(hit)
        except ValueError:
            continue  # a record without md5 or size proves nothing
