"""Is a run folder in a bucket sound? Every object is held against the digest it was put with."""

import csv
import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import xxhash

from wsi_pipeline.errors import BucketError, ConfigError
from wsi_pipeline.events import Event, Note, SlideDone, SlideFailed, StageStarted, Unmatched
from wsi_pipeline.mirror import COHORT, JOURNALS, MARK
from wsi_pipeline.mirror_entries import (
    AT_ONCE,
    ENTRIES,
    Entry,
    entries_of,
    entry_names,
    ids_of,
)
from wsi_pipeline.mirror_settings import TILES
from wsi_pipeline.remote import Bucket

BLOCK: Final = 1 << 20
AGAIN: Final = (
    "the stage that makes it does so anew, or brings it from a scratch folder that has it"
)


def verify_bucket(url: str, *, fast: bool) -> Iterator[Event]:
    """Check every artifact of a run in a bucket; what is wrong with one is a failure.

    Args:
        url: The run.
        fast: Whether sizes alone are compared, from listings.

    Raises:
        ConfigError: There is no such run, or it cannot be read.
    """
    bucket = Bucket(url)
    try:
        objects = bucket.sizes()
        entries = entries_of(bucket, entry_names(bucket))
    except BucketError as error:
        raise ConfigError(str(error)) from None
    if MARK not in objects:
        raise ConfigError(f"{bucket.url}: there is no run of ours")
    yield StageStarted(stage="verify", total=len(entries), unit="files and stores")

    def check(name: str) -> SlideDone | SlideFailed:
        return _check(bucket, name, entries[name], objects, fast=fast)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(check, entries)
    loose = [COHORT, *(key for key in objects if key.startswith(JOURNALS))]
    for key in loose:
        try:
            bucket.read(key)
        except BucketError as error:
            yield SlideFailed(slide_id=key, error=str(error))
    yield from _strays(bucket, entries, objects)
    yield from _rows(bucket, entries)


def _check(
    bucket: Bucket, name: str, entry: Entry | None, objects: Mapping[str, int], *, fast: bool
) -> SlideDone | SlideFailed:
    """Hold one artifact against its entry."""
    if entry is None:
        return _lost(bucket, name, "its entry in the inventory is damaged")
    for file, (size, digest) in entry.files.items():
        key = f"{name}/{file}" if file else name
        if key not in objects:
            return _lost(bucket, key, "is missing")
        if objects[key] != size:
            return _lost(bucket, key, f"has {objects[key]} bytes where {size} had been put")
        if fast:
            continue
        found = xxhash.xxh3_128()
        try:
            for piece in bucket.pieces(key, BLOCK):
                found.update(piece)
        except BucketError as error:
            return SlideFailed(slide_id=name, error=str(error))
        if found.hexdigest() != digest:
            return _lost(bucket, key, "is not what was put there")
    return SlideDone(slide_id=name, counts={"objects": len(entry.files)})


def _lost(bucket: Bucket, key: str, what: str) -> SlideFailed:
    return SlideFailed(slide_id=key, error=f"{bucket.url}/{key} {what}; {AGAIN}")


def _strays(
    bucket: Bucket, entries: Mapping[str, Entry | None], objects: Mapping[str, int]
) -> Iterator[SlideFailed]:
    """Name objects that belong to no whole artifact: its entry is lost, or never came."""
    known = {COHORT, MARK} | {
        f"{name}/{file}" if file else name
        for name, entry in entries.items()
        for file in (entry.files if entry else ())
    }
    strays: dict[str, list[str]] = {}
    for key in objects:
        if key not in known and not key.startswith((ENTRIES, JOURNALS)):
            strays.setdefault("/".join(key.split("/")[:2]), []).append(key)
    for where, keys in strays.items():
        if any(name.startswith(where) and entry is None for name, entry in entries.items()):
            continue  # which was told
        yield SlideFailed(
            slide_id=where,
            error=f"{bucket.url}/{keys[0]} stands in no entry of the inventory ({len(keys)} "
            f"objects): a job was killed as it put them, or the entry is lost; {AGAIN}",
        )


def _rows(bucket: Bucket, entries: Mapping[str, Entry | None]) -> Iterator[Event]:
    """Name rows of the table without tiles, and tiles without a row."""
    try:
        found = bucket.read(COHORT)
    except BucketError:
        return
    if found is None:
        yield Note(text=f"{bucket.url} has no {COHORT}")
        return
    rows = [row["slide_id"] for row in csv.DictReader(io.StringIO(found[0].decode()))]
    stores = ids_of(entries, TILES)
    if not stores:
        return
    without = tuple(name for name in rows if name not in set(stores))
    strangers = tuple(name for name in stores if name not in set(rows))
    if without or strangers:
        yield Unmatched(
            table=f"{bucket.url}/{COHORT}",
            what="tile store",
            without_store=without,
            without_row=strangers,
        )
