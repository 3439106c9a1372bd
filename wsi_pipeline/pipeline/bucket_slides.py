"""The slides below a bucket's prefix, found by the rules by which a folder's are.

A key stands for a path below the folder, so ids are those that the same files would have on a disk.
Objects are read by ranges, of TIFFs alone; other slides of one file come through a cache, and those
of several files are refused by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from wsi_pipeline.cohort import CohortSlide, in_folder, is_remote
from wsi_pipeline.errors import BucketError, ConfigError
from wsi_pipeline.remote import Bucket
from wsi_pipeline.slides import DICOM_SUFFIXES, READERS, companion_of, printable, slide_suffixes
from wsi_pipeline.types import LONGEST_ID
from wsi_pipeline.verbs.tiles import TileConfig

ATTEMPTS: Final = 4  # to list: nobody waits a minute to hear that an address is wrong
AT_ONCE: Final = 8
SIGNATURE: Final = (128, b"DICM")  # of a DICOM file, and where
OF_SEVERAL_FILES: Final = (".mrxs", ".vsi", ".vms", ".vmu")
NO_ADDRESS: Final = ("::", "?versionId=")  # which mean something else where URLs are read
SEVERAL: Final = (
    "is a slide of several files, which are read from a disk alone; copy them here (aws s3 sync) "
    "and name that folder"
)


@dataclass(frozen=True, kw_only=True)
class BucketSlides:
    """What is below ``root``: paths of slides, and by path why what else is there is none."""

    root: str
    paths: list[Path] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)


def slides_in_bucket(config: TileConfig, url: str) -> BucketSlides:
    """List the slides below a URL, ``s3://bucket/folder``, or the one slide that it names.

    Raises:
        ConfigError: It cannot be listed, is a table, or slices of CT are asked for.
    """
    _refuse_ct(config, url)
    folder, _, name = url.rpartition("/")
    if name.casefold().endswith(".csv"):
        raise ConfigError(
            f"{url}: a cohort table is read from this machine; fetch it, and say where its slides "
            "are with --slides s3://bucket/folder"
        )
    if _suffix(name) in slide_suffixes() and "://" in folder:
        bucket = _bucket(folder)
        sizes = _sizes(bucket, name)
        if name in sizes:
            return _sorted(config, bucket, {name: sizes[name]})
    bucket = _bucket(url)
    return _sorted(config, bucket, _sizes(bucket))


def absent_from_bucket(
    config: TileConfig, root: str, rows: Sequence[CohortSlide]
) -> dict[str, str]:
    """Say by id which rows name what is not below a bucket's folder, or cannot be used from there.

    Raises:
        ConfigError: It cannot be listed, or slices of CT are asked for.
    """
    _refuse_ct(config, root)
    mine = [row for row in rows if not is_remote(row.path)]
    sizes = _sizes(_bucket(root)) if mine else {}
    folders = {str(above) for key in sizes for above in PurePosixPath(key).parents}
    said: dict[str, str] = {}
    for row in mine:
        key, url = row.path.removeprefix("./"), in_folder(root, row.path)
        if key.rstrip("/") in folders or _suffix(key) in DICOM_SUFFIXES:
            said[row.slide_id] = f"{url} {SEVERAL}"
        elif key not in sizes:
            said[row.slide_id] = f"no object {url}; put it there, or take the row out"
        elif problem := _unusable(config, key, sizes[key]):
            said[row.slide_id] = f"{url} {problem}"
    return said


def _refuse_ct(config: TileConfig, url: str) -> None:
    if config.modality == "ct":
        raise ConfigError(f"{url}: slices of CT are read from a disk alone; copy the folder here")


def _bucket(url: str) -> Bucket:
    try:
        return Bucket(url, attempts=ATTEMPTS, whole=True)
    except BucketError as error:
        raise ConfigError(f"{error}; nothing was begun") from None


def _sizes(bucket: Bucket, below: str = "") -> dict[str, int]:
    """Return the objects below a key, with their bytes; what stands for a folder is left out.

    Raises:
        ConfigError: They cannot be listed.
    """
    try:
        found = bucket.sizes(below)
    except BucketError as error:
        raise ConfigError(f"{error}; nothing was begun") from None
    return {key: size for key, size in found.items() if key and not key.endswith("/")}


def _sorted(config: TileConfig, bucket: Bucket, sizes: Mapping[str, int]) -> BucketSlides:
    """Tell the slides from what else is there."""
    problems: dict[Path, str] = {}
    paths: list[Path] = []
    seen = [key for key in sizes if not any(_is_hidden(part) for part in _parts(key))]
    slides = [key for key in seen if _suffix(key) in slide_suffixes()]
    companions = {folder for key in slides if (folder := companion_of(Path(key)))}
    dicom = [key for key in seen if _suffix(key) in DICOM_SUFFIXES]
    unnamed = [key for key in seen if not _suffix(key) and sizes[key] > SIGNATURE[0]]
    for key in (*dicom, *_unnamed_dicom(bucket, unnamed)):
        folder = Path(key).parent
        problems[folder if folder.parts else Path(key)] = SEVERAL
    for key in slides:
        if companions.isdisjoint(Path(key).parents):
            if problem := _unusable(config, key, sizes[key]):
                problems[Path(key)] = problem
            else:
                paths.append(Path(key))
    return BucketSlides(root=bucket.url, paths=sorted(paths), problems=problems)


def _unusable(config: TileConfig, key: str, size: int) -> str | None:
    """Say why an object named like a slide cannot be used; None where it can."""
    odd = next((text for text in NO_ADDRESS if text in key), None)
    if printable(key) != key or "\r" in key:
        return "has a name that no table can hold (not UTF-8, or with a line break); rename it"
    if str(PurePosixPath(key)) != key or ".." in _parts(key):
        return "has a key with a part that is empty, . or .., as no path on a disk has; rename it"
    if odd is not None:
        return f"has {odd!r} in its key, which means something else in a URL; rename it"
    if len(PurePosixPath(key).stem.encode()) > LONGEST_ID:
        return f"has a name of more than {LONGEST_ID} bytes, and names are made from it; rename it"
    if size == 0:
        return "is empty; put it there again"
    if _suffix(key) in OF_SEVERAL_FILES:
        return SEVERAL
    by_ranges = {suffix for each in READERS.values() if each.urls for suffix in each.suffixes}
    if _suffix(key) not in by_ranges and config.cache is None and ":" not in config.reader:
        return "is no TIFF, of which alone parts are read from a bucket; give --cache DIR"
    return None


def _unnamed_dicom(bucket: Bucket, keys: Sequence[str]) -> Iterator[str]:
    """Yield a key a folder whose first object without a suffix is DICOM by its signature."""
    first: dict[Path, str] = {}
    for key in sorted(keys):
        if not any(above.suffix == ".zarr" for above in Path(key).parents):
            first.setdefault(Path(key).parent, key)
    start, word = SIGNATURE

    def is_dicom(key: str) -> bool:
        return bucket.head(key, start + len(word))[start:] == word

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            found = list(pool.map(is_dicom, first.values()))
        except BucketError as error:
            raise ConfigError(f"{error}; nothing was begun") from None
    yield from (key for key, is_one in zip(first.values(), found, strict=True) if is_one)


def _is_hidden(part: str) -> bool:
    return part.startswith(".") and part not in (".", "..")  # those are refused by name


def _parts(key: str) -> list[str]:
    return key.split("/")


def _suffix(key: str) -> str:
    return PurePosixPath(key).suffix.lower()
