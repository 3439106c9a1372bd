"""Questions to the GDC's ``/files``: every hit once, page after page; and which values it knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wsi_pipeline.errors import DownloadError
from wsi_pipeline.gdc.manifest import MD5, UUID, ManifestEntry, safe_filename
from wsi_pipeline.gdc.records import FIELDS
from wsi_pipeline.remote import Client

PAGE: Final = 500
PASSES: Final = 3


@dataclass(frozen=True, kw_only=True)
class Found:
    """What ``/files`` answered; ``warnings`` are the server's own, or about its pages."""

    hits: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Page:
    hits: list[dict[str, Any]]
    total: int
    warnings: list[str]


def find_files(client: Client, filters: Mapping[str, Any], fields: Sequence[str] = FIELDS) -> Found:
    """Return every hit of a ``/files`` query once, page after page, in the order of their ids.

    A server whose pages repeat or drop files while it changes is asked again from the start.

    Raises:
        DownloadError: The server cannot answer, or not in the form it documents.
    """
    hits: dict[str, Mapping[str, Any]] = {}
    warnings: dict[str, None] = {}
    total = 0
    for _ in range(PASSES):
        start, total = 0, 1
        while start < total:
            page = _page(client.ask("files", _question(filters, fields, start)))
            if not page.hits:
                break
            start, total = start + len(page.hits), page.total
            hits |= {_id(hit): hit for hit in page.hits if _id(hit) not in hits}
            warnings |= dict.fromkeys(page.warnings)
        if len(hits) >= total or not hits:
            break
    else:
        short = f"the server counts {total} files, but only {len(hits)} different ones came"
        warnings[short] = None
    return Found(hits=tuple(hits.values()), warnings=tuple(warnings))


def known_values(client: Client, field: str) -> list[str]:
    """Return every value that files have in ``field``, the most frequent first.

    Raises:
        DownloadError: See :func:`find_files`.
    """
    answer = client.ask("files", {"facets": field, "size": 0})
    try:
        buckets = answer["data"]["aggregations"][field]["buckets"]
        return [str(bucket["key"]) for bucket in buckets if bucket["key"] != "_missing"]
    except (KeyError, TypeError) as error:
        raise DownloadError(f"files: an answer that cannot be understood ({error!r})") from None


def entry_of(hit: Mapping[str, Any]) -> ManifestEntry:
    """Return the manifest row of a hit.

    Raises:
        ValueError: A key is missing or impossible.
    """
    file_id = _id(hit).lower()
    md5, size = str(hit.get("md5sum") or "").lower(), hit.get("file_size")
    if not UUID.fullmatch(file_id):
        raise ValueError("no file id")
    if not MD5.fullmatch(md5):
        raise ValueError("no md5")
    if not isinstance(size, int) or size < 1:
        raise ValueError("no size")
    state = hit.get("state")
    return ManifestEntry(
        id=file_id,
        filename=safe_filename(str(hit.get("file_name") or "")),
        md5=md5,
        size=size,
        state=str(state) if state else None,
    )


def _question(filters: Mapping[str, Any], fields: Sequence[str], start: int) -> dict[str, Any]:
    return {
        "filters": filters,
        "fields": ",".join(fields),
        "format": "JSON",
        "size": PAGE,
        "from": start,
        "sort": "file_id:asc",
    }


def _page(answer: Any) -> _Page:
    try:
        warnings, data = answer.get("warnings") or {}, answer["data"]
        hits = [dict(hit) for hit in data["hits"]]
        total = int(data["pagination"]["total"])
        said = [f"{name}: {text}" for name, text in warnings.items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DownloadError(f"files: an answer that cannot be understood ({error!r})") from None
    return _Page(hits=hits, total=total, warnings=said)


def _id(hit: Mapping[str, Any]) -> str:
    return str(hit.get("file_id") or hit.get("id") or "")
