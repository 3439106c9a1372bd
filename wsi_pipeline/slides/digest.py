"""A quick fingerprint of a slide: its size and a sample of its bytes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.slides.dicom import dicom_files, group_series, is_dicom
from wsi_pipeline.slides.reader import library_errors

SAMPLE_BYTES = 64 * 1024
SAMPLES = 64


def slide_digest(path: str | Path) -> str:
    """Fingerprint a slide without reading all of it.

    BLAKE2b over the size, the head, the tail and 64 evenly spaced samples of 64 KiB, so that a
    copy under another name has the same digest and a file cut short, re-encoded or scanned
    anew has another. A slide of several files (DICOM series, MIRAX, VSI) is digested over all
    of them in order of their names; a URL by its size and entity tag.

    Returns:
        32 hexadecimal digits.

    Raises:
        SlideOpenError: The file is missing or cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    if is_url(path):
        digest.update(_url_identity(str(path)).encode())
        return digest.hexdigest()
    try:
        for file in _files(Path(path)):
            _add_file(digest, file)
    except OSError as error:
        raise SlideOpenError(
            f"{path}: it cannot be read ({error.strerror}); check the path and its permissions."
        ) from error
    return digest.hexdigest()


def is_url(path: str | Path) -> bool:
    """Whether a path names a remote file, such as ``s3://bucket/slide.svs``."""
    return "://" in str(path)


def _files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.suffix.lower() == ".mrxs":
        return [path, *_below(path.with_suffix(""))]
    if path.suffix.lower() == ".vsi":
        return [path, *_below(path.with_name(f"_{path.stem}_"))]
    if is_dicom(path):
        series = group_series(dicom_files(path.parent)).values()
        return next((files for files in series if path in files), [path])
    return [path]


def _below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _add_file(digest: hashlib.blake2b, path: Path) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size <= (SAMPLES + 2) * SAMPLE_BYTES:
            digest.update(file.read())
            return
        last = size - SAMPLE_BYTES
        for k in range(SAMPLES + 2):
            file.seek(last * k // (SAMPLES + 1))
            digest.update(file.read(SAMPLE_BYTES))


def _url_identity(url: str) -> str:
    import fsspec  # only URLs need it, and it is slow to import

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        facts = filesystem.info(path)
    except library_errors() as error:
        raise SlideOpenError(
            f"{url}: it cannot be reached ({error}); check the address and the credentials."
        ) from error
    tag = facts.get("ETag") or facts.get("etag") or facts.get("md5") or facts.get("mtime") or ""
    return f"{url}\n{facts.get('size')}\n{tag}"
