"""A slide as a file: what tells it from another, and how it is packed."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import SlideOpenError, SlideReadError
from wsi_pipeline.slides.dicom import dicom_files, group_series, header_errors, is_dicom
from wsi_pipeline.slides.find import companion_of
from wsi_pipeline.slides.reader import is_url, library_errors, raise_own_slip
from wsi_pipeline.slides.tiff_header import COMPRESSIONS, read_directories

SAMPLE_BYTES = 64 * 1024
SAMPLES = 64
MD5: Final = re.compile(r"[0-9a-f]{32}")


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
        digest.update(url_identity(str(path)).text.encode())
        return digest.hexdigest()
    try:
        for file in files_of_slide(Path(path)):
            _add_file(digest, file)
    except OSError as error:
        raise SlideOpenError(
            f"{path}: it cannot be read ({error.strerror}); check the path and its permissions."
        ) from error
    return digest.hexdigest()


@dataclass(frozen=True)
class SlideState:
    """A slide's file, or what a cache copied, as it was when work on it began.

    Attributes:
        path: The file or URL.
        digest: As of :func:`slide_digest`.
    """

    path: str | Path
    digest: str

    def require_same(self) -> None:
        """Refuse what was read of a file that is another by now: it may be of two slides.

        Raises:
            SlideReadError: It is.
            SlideOpenError: It is gone, or cannot be read.
        """
        if slide_digest(self.path) != self.digest:
            raise SlideReadError(
                f"{self.path}: the file changed while it was read, and nothing that was made of it "
                "is kept; once it is whole, the same command goes on"
            )


def files_of_slide(path: Path) -> Iterable[Path]:
    """Return all files that a slide consists of, in order of their names."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    companion = companion_of(path)
    if companion is not None:
        return [path, *sorted(file for file in companion.rglob("*") if file.is_file())]
    if is_dicom(path):
        series = group_series(dicom_files(path.parent)).values()
        return next((files for files in series if path in files), [path])
    return [path]


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


@dataclass(frozen=True, kw_only=True)
class UrlFacts:
    """What a server says of a file: ``tag`` changes when the file does."""

    url: str
    size: int
    tag: str

    @property
    def text(self) -> str:
        return f"{self.url}\n{self.size}\n{self.tag}"

    @property
    def md5(self) -> str | None:
        """The entity tag where it is one: an object store's, of what came in one piece."""
        tag = self.tag.strip('"')
        return tag if MD5.fullmatch(tag) and self.url.startswith("s3://") else None


def url_identity(url: str) -> UrlFacts:
    """Ask a server for a file's size and entity tag.

    Raises:
        SlideOpenError: It cannot be reached.
    """
    import fsspec  # only URLs need it, and it is slow to import

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        facts = filesystem.info(path)
    except library_errors() as error:
        raise_own_slip(error)
        raise SlideOpenError(
            f"{url}: it cannot be reached ({error}); check the address and the credentials."
        ) from error
    tag = facts.get("ETag") or facts.get("etag") or facts.get("md5") or facts.get("mtime") or ""
    return UrlFacts(url=url, size=facts.get("size"), tag=str(tag))


def compression_of(path: str | Path, size: tuple[int, int]) -> str | None:
    """Name the compression of level 0, such as ``JPEG 2000 (33005)``; None where it is not known.

    Args:
        path: A slide that opened; URLs are not looked into.
        size: Level-0 (width, height), by which the TIFF directory is told.
    """
    path = Path(path)
    if path.is_dir():
        path = next(iter(dicom_files(path)), path)
    if not path.is_file():
        return None
    directories = read_directories(path)
    for directory in directories:
        if (directory.width, directory.height) == size:
            return COMPRESSIONS.get(directory.compression, str(directory.compression))
    if directories:  # the format stitches level 0 from others
        number = max(directories, key=lambda d: d.width * d.height).compression
        return COMPRESSIONS.get(number, str(number))
    match path.suffix.lower():
        case ".png":
            return "Deflate"
        case ".jpg" | ".jpeg":
            return "JPEG"
    return _transfer_syntax(path) if is_dicom(path) else None


def _transfer_syntax(path: Path) -> str | None:
    from pydicom.filereader import read_file_meta_info

    try:
        return str(read_file_meta_info(path).TransferSyntaxUID.name)
    except header_errors() as error:
        raise_own_slip(error)
        return None
