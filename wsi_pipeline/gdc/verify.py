"""Check an existing folder against a manifest, byte for byte."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event as Flag
from typing import Final

from wsi_pipeline.gdc.ledger import Ledger, file_md5
from wsi_pipeline.gdc.manifest import ManifestEntry
from wsi_pipeline.gdc.results import FileResult

THREADS: Final = 4


def verify(entries: Sequence[ManifestEntry], root: Path) -> Iterator[FileResult]:
    """Read every file of ``entries`` below ``root``; yield a result each, in their order.

    What the ledger says is not believed here; what is found right is written to it.
    """
    stop = Flag()
    ledger = Ledger(root)
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from pool.map(lambda entry: _verify(entry, root, ledger, stop), entries)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _verify(entry: ManifestEntry, root: Path, ledger: Ledger, stop: Flag) -> FileResult:
    path = root / entry.relative_path
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return FileResult(entry=entry, status="missing", error="the file is not there")
    if size != entry.size:
        error = f"{size} bytes, the manifest says {entry.size}"
        return FileResult(entry=entry, status="damaged", error=error)
    try:
        md5 = file_md5(path, stop)
    except OSError as problem:
        return FileResult(entry=entry, status="damaged", error=str(problem))
    if md5 != entry.md5:
        error = f"md5 is {md5}, the manifest says {entry.md5}"
        return FileResult(entry=entry, status="damaged", error=error)
    ledger.add(entry)
    return FileResult(entry=entry, status="present")
