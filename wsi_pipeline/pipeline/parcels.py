"""Slides on their way through a disk: what is fetched together, the room it takes, who is next."""

import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

from wsi_pipeline import remote
from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.settings import digest

LOOK_S: Final = 0.5

Item = TypeVar("Item")


@dataclass(kw_only=True, eq=False)
class Parcel:
    """What is fetched together, and the rows of the cohort that are cut from it."""

    files: list[remote.RemoteFile] = field(default_factory=list)
    rows: list[CohortSlide] = field(default_factory=list)
    coming: int = 0
    uncut: set[str] | None = None
    whole: bool = True
    handed: bool = False

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def content(self) -> str:
        """Digest of what its source says that it is."""
        return digest([[file.filename, file.md5, file.size] for file in self.files])


class Room:
    """The bytes that slides' files may take; who wants more waits until some have gone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Parcel, int] = {}
        self._stuck: set[Parcel] = set()
        self._changed = threading.Condition()

    def take(self, parcel: Parcel, stop: threading.Event) -> str | None:
        """Wait for room; return why there will be none.

        Raises:
            StoppedError: ``stop`` was set.
        """
        with self._changed:
            while parcel not in self._held:
                if sum(self._held.values()) + parcel.size <= self._limit:
                    self._held[parcel] = parcel.size
                elif len(self._stuck) == len(self._held):
                    return (
                        f"not tried: {remote.size_text(self._limit)} are taken by "
                        f"{len(self._stuck)} slides that failed and are kept; mend or remove them, "
                        "or give more room by --disk-gb"
                    )
                elif stop.is_set():
                    raise remote.StoppedError("stopped while waiting for room on the disk")
                else:
                    self._changed.wait(LOOK_S)
        return None

    def give(self, parcel: Parcel) -> None:
        """The files have gone."""
        with self._changed:
            self._held.pop(parcel, None)
            self._stuck.discard(parcel)
            self._changed.notify_all()

    def keep(self, parcel: Parcel) -> None:
        """The files stay: something failed."""
        with self._changed:
            if parcel in self._held:
                self._stuck.add(parcel)
            self._changed.notify_all()


class Handed(Generic[Item]):
    """What one thread has finished and the next takes up."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._closed = False
        self._changed = threading.Condition()

    def put(self, items: Sequence[Item]) -> None:
        with self._changed:
            self._items += items
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drop(self) -> None:
        """Nothing more is wanted."""
        with self._changed:
            self._items.clear()
            self._closed = True
            self._changed.notify_all()

    def take(self, most: int) -> list[Item]:
        """Wait for the first and return what is there; nothing once all has been taken."""
        with self._changed:
            while not self._items and not self._closed:
                self._changed.wait()
        return self.take_now(most)

    def take_now(self, most: int | None = None) -> list[Item]:
        """Return what is there, at most so many."""
        with self._changed:
            most = len(self._items) if most is None else most
            taken, self._items = self._items[:most], self._items[most:]
        return taken


def parcels_of(
    files: Sequence[remote.RemoteFile],
    rows: Sequence[CohortSlide],
    out: Path,
    slides: Path | str | None,
) -> tuple[list[Parcel], list[remote.RemoteFile]]:
    """Match files with the rows that name them, or the folder that they are in.

    Args:
        files: What a source has.
        rows: The cohort.
        out: The folder that the files go to.
        slides: The folder that the rows' paths start from, where one was given.

    Returns:
        One parcel for each slide's files, and the files that no row names.
    """
    parcels: dict[Path, Parcel] = {}
    by_place: dict[Path, list[CohortSlide]] = {}
    for row in rows:
        path = row.locate(slides)
        if isinstance(path, Path):
            by_place.setdefault(_absolute(path), []).append(row)
    strays = []
    for file in files:
        path = _absolute(out / file.relative_path)
        place = next((each for each in (path, path.parent) if each in by_place), None)
        if place is None:
            strays.append(file)
        else:
            parcels.setdefault(place, Parcel(rows=by_place[place])).files.append(file)
    return list(parcels.values()), strays


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (links stay: files are compared as named)


def room_for(out: Path, disk_gb: float | None) -> int:
    """Return the bytes that slides may take where ``out`` is: as given, or half of what is free."""
    if disk_gb is not None:
        return round(disk_gb * 1e9)
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free // 2
