"""One file of the manifest from start to end: already there? fetch it, else say why not."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wsi_pipeline.errors import DownloadError
from wsi_pipeline.gdc.client import GdcClient
from wsi_pipeline.gdc.connections import Connections
from wsi_pipeline.gdc.fetch import Fetch
from wsi_pipeline.gdc.ledger import Ledger, file_md5, note_for_gdc_client
from wsi_pipeline.gdc.limit import RateLimit
from wsi_pipeline.gdc.manifest import ManifestEntry
from wsi_pipeline.gdc.partial import PartialFile
from wsi_pipeline.gdc.resolve import Resolution
from wsi_pipeline.gdc.results import FileResult
from wsi_pipeline.gdc.retry import RefusedError, StoppedError
from wsi_pipeline.gdc.transfer import Transfer

Resolver = Callable[[ManifestEntry], Resolution]
WITHDRAWN = (404, 410)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How files are fetched; ``again`` fetches even those that are there and right."""

    connections: int = 8
    files_at_once: int = 4
    segment_bytes: int = 32 << 20
    max_bytes_per_s: float | None = None
    min_bytes_per_s: float = 1024.0
    again: bool = False


@dataclass(kw_only=True)
class Site:
    """What all files share: where they go and how they come.

    ``resolve`` finds out where a withdrawn file is now. ``moving`` holds the transfers under way,
    by the manifest's id.
    """

    root: Path
    client: GdcClient
    connections: Connections
    ledger: Ledger
    limit: RateLimit
    settings: Settings
    resolve: Resolver | None = None
    moving: dict[str, Transfer] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def transfers(self) -> list[Transfer]:
        with self.lock:
            return list(self.moving.values())


def bring(entry: ManifestEntry, site: Site) -> FileResult:
    """Make sure that ``entry`` is below ``site.root``, whole and verified.

    Raises:
        StoppedError: The download was stopped.
    """
    begun = time.monotonic()
    try:
        if not site.settings.again and is_present(entry, site.root, site.ledger, site.client.stop):
            note_for_gdc_client(site.root / entry.relative_path, entry.size)
            return FileResult(entry=entry, status="present", seconds=time.monotonic() - begun)
        return _fetch(entry, site, entry.id, begun)
    except StoppedError:
        raise
    except OSError as error:
        return FileResult(entry=entry, status="failed", error=_reason(error))


def is_present(entry: ManifestEntry, root: Path, ledger: Ledger, stop: threading.Event) -> bool:
    """Tell whether the file is there and right; it is read unless it was verified before."""
    if ledger.knows(entry):
        return True
    path = root / entry.relative_path
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    if file_md5(path, stop) != entry.md5:
        return False
    ledger.add(entry)
    return True


def _fetch(entry: ManifestEntry, site: Site, file_id: str, begun: float) -> FileResult:
    path = site.root / entry.relative_path
    partial = PartialFile(
        path, size=entry.size, md5=entry.md5, segment_bytes=site.settings.segment_bytes
    )
    fetch = Fetch(
        client=site.client,
        path=f"data/{file_id}",
        partial=partial,
        limit=site.limit,
        min_bytes_per_s=site.settings.min_bytes_per_s,
    )
    transfer = Transfer(entry, fetch, site.connections)
    with site.lock:
        site.moving[entry.id] = transfer
    error = None
    try:
        transfer.run()
        site.ledger.add(entry)
        note_for_gdc_client(path, entry.size)
    except StoppedError:
        raise
    except OSError as caught:
        error = caught
    finally:
        partial.close()
        with site.lock:
            del site.moving[entry.id]
    reason = "" if error is None else _reason(error)
    if isinstance(error, RefusedError) and error.status in WITHDRAWN and file_id == entry.id:
        found = _resolved(entry, site)
        if found is not None and found.kind == "moved" and found.now is not None:
            return _fetch(entry, site, found.now.id, begun)
        reason += f"; {found}" if found else ""
    return FileResult(
        entry=entry,
        status="downloaded" if error is None else "failed",
        error=reason,
        fetched_id=file_id,
        received_bytes=fetch.received,
        resumed_bytes=transfer.resumed_bytes,
        requests=fetch.requests,
        seconds=time.monotonic() - begun,
        trouble=fetch.last_trouble,
    )


def _resolved(entry: ManifestEntry, site: Site) -> Resolution | None:
    """Return where the file is now; None if that is not asked for, or the GDC cannot say."""
    if site.resolve is None:
        return None
    try:
        return site.resolve(entry)
    except StoppedError:
        raise
    except DownloadError:
        return None  # the 404 stands, and is what the user will be told


def _reason(error: OSError) -> str:
    if isinstance(error, DownloadError):
        return str(error)
    return f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
