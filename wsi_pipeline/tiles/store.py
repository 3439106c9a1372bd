"""Tile stores: one per slide, the same names in each format; what a format has to provide.

``tiles`` (N, tile_px, tile_px, 3) uint8, ``coords`` (N, 2) int64 level-0 (x, y) in canonical order,
one (N,) float32 array per measure (``tissue_fraction``, ``background_fraction``, ``focus``,
``pen_fraction``, ``fold_fraction``, ``blood_fraction``), and what is known about them as root
attributes, ``complete`` last. Where regions were drawn, ``annotation_class`` is (N,) int32: the
position of the tile's class in the attribute ``annotation_classes``, or -1. A store is whole or
absent: it is written beside its place and renamed.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError, StoreError
from wsi_pipeline.settings import MOST_THREADS, digest, usable_cores
from wsi_pipeline.types import Coords, RgbTiles

SCHEMA: Final = "wsi_pipeline.tiles"
SCHEMA_VERSION: Final = 1
AGAIN: Final = "cut the slide again with --overwrite, or repair the run folder"

CHECKED_AT_ONCE: Final = 256  # tiles

CODES: Final = ("annotation_class",)  # columns of codes, whose names an attribute holds

Columns = Mapping[str, NDArray[np.float32 | np.int32]]
Packed = Sequence[Any]  # tiles as their format keeps them, one by one


class TileArray(ABC):
    """Tiles on disk, read on demand: an (N, tile_px, tile_px, 3) uint8 array to index by row.

    Several threads may read it, and so may processes that were forked or that it was sent to, as
    the workers of a ``DataLoader`` are: a format keeps nothing open that dies with its process, and
    nothing that cannot be pickled.

    Attributes:
        path: The store.
        threads: That share in reading many tiles.
    """

    dtype: Final = np.dtype(np.uint8)

    def __init__(self, path: Path, count: int, tile_px: int, threads: int | None = None) -> None:
        """``threads`` None are the cores at hand."""
        self.path = path
        self.shape = (count, tile_px, tile_px, 3)
        self.threads = min(MOST_THREADS, usable_cores()) if threads is None else threads

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | NDArray[Any]) -> NDArray[np.uint8]:
        """Return one tile for an int, (n, tile_px, tile_px, 3) for a slice or an index array."""
        if isinstance(key, slice):
            return self._gather(np.arange(*key.indices(len(self))))
        indices = np.asarray(key)
        if indices.dtype == np.bool_:
            if indices.shape != (len(self),):
                raise IndexError(f"mask of shape {indices.shape} for {len(self)} tiles")
            indices = np.flatnonzero(indices)
        if indices.size and not np.issubdtype(indices.dtype, np.integer):
            raise IndexError(f"tiles are indexed by integers, not {indices.dtype}")
        indices = indices.astype(np.int64)
        if indices.size and not -len(self) <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"index {indices.min()}…{indices.max()} outside of {len(self)} tiles")
        indices = np.where(indices < 0, indices + len(self), indices)
        return self._gather(indices.reshape(1))[0] if indices.ndim == 0 else self._gather(indices)

    @abstractmethod
    def read_run(self, first: int, out: RgbTiles) -> None:
        """Fill ``out`` with consecutive tiles from ``first`` on; called from several threads.

        Raises:
            StoreCorruptError: They are damaged.
        """

    def check(self) -> None:
        """Read all that is stored of the tiles, and hold it against its digests.

        Raises:
            StoreCorruptError: Some of it is damaged.
        """
        for start in range(0, len(self), CHECKED_AT_ONCE):
            self[start : start + CHECKED_AT_ONCE]

    def _gather(self, indices: NDArray[np.int64]) -> RgbTiles:
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        runs = _runs(indices, self.threads)
        if self.threads == 1 or len(indices) < 2 * self.threads:
            for start, stop in runs:
                self.read_run(int(indices[start]), out[start:stop])
        else:  # a pool of the call's own: threads that are kept are not there after a fork
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(lambda r: self.read_run(int(indices[r[0]]), out[slice(*r)]), runs))
        return out


def _runs(indices: NDArray[np.int64], threads: int) -> list[tuple[int, int]]:
    """Cut rows of ``indices`` where they are not consecutive, and into parts for the threads."""
    ends = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
    longest = -(-len(indices) // threads) or 1
    return [
        (start, min(start + longest, end))
        for begin, end in pairwise(ends)
        for start in range(begin, end, longest)
    ]


@dataclass(frozen=True, kw_only=True)
class TileStore:
    """An open, complete store; safe to read from several threads and processes.

    Attributes:
        path: The ``.zarr`` folder or ``.h5`` file.
        tiles: (N, tile_px, tile_px, 3) uint8, read on demand.
        coords: (N, 2) int64, level-0 (x, y).
        columns: Measure name to (N,) float32; codes are int32, in older stores too.
        attributes: Everything else that was recorded.
        sealed: Whether it has digests of all its bytes; stores of older versions have not.
    """

    path: Path
    tiles: TileArray
    coords: Coords
    columns: Columns
    attributes: Mapping[str, Any]
    sealed: bool = False

    def __post_init__(self) -> None:
        """Refuse a store whose parts are not of the same tiles.

        Raises:
            StoreCorruptError: As said.
        """
        lengths = {"tiles": len(self.tiles), "coords": len(self)}
        lengths |= {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            raise StoreCorruptError(f"{self.path}: row counts differ: {lengths}; {AGAIN}")

    def __len__(self) -> int:
        return len(self.coords)

    def batches(self, size: int = 256) -> Iterator[RgbTiles]:
        """Yield all tiles in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.tiles[start : start + size]


class StoreFile(Protocol):
    """One format's writing half, at work on a temporary."""

    def pack(self, tiles: RgbTiles) -> Packed:
        """Return what :meth:`write` takes of tiles; called from several threads.

        It may be the tiles themselves, if that is what is kept.
        """

    def write(self, packed: Packed) -> None:
        """Take tiles as the next rows."""

    def finish(self, coords: Coords, columns: Columns, attributes: Mapping[str, Any]) -> None:
        """Cut the tile array to ``len(coords)`` rows and write all the rest; completion last."""


class Backend(Protocol):
    """What writes and reads one format: a module with these functions."""

    def create_store(
        self, path: Path, tile_px: int, capacity: int, codec: str, /
    ) -> AbstractContextManager[StoreFile]:
        """Write into a temporary that takes ``path``'s place on leaving without an error."""

    def seal_store(self, path: Path, /) -> None:
        """Give a store that has no digests those of its bytes as they are."""

    def store_attributes(self, path: Path, /) -> Mapping[str, Any]:
        """Read what a complete store says of itself."""

    def open_store(self, path: Path, /) -> TileStore:
        """Open a complete store.

        Raises:
            StoreError, StoreCorruptError: As :func:`open_tiles`; call :func:`check_marks`.
        """


class TileWriter:
    """Takes a slide's tiles in canonical order; the store appears with :meth:`commit` or never."""

    def __init__(
        self,
        path: Path,
        opening: AbstractContextManager[StoreFile],
        *,
        tile_px: int,
        capacity: int,
        codec: str,
    ) -> None:
        self.path = path
        self._opening = opening
        self._tile = (tile_px, tile_px, 3)
        self._capacity = capacity
        self._codec = codec
        self._coords: list[Coords] = []
        self._columns: list[Columns] = []
        self._committed = False

    def __enter__(self) -> Self:
        self._file = self._opening.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._committed:
            return
        given_up = error or _GivenUpError()
        try:
            self._opening.__exit__(type(given_up), given_up, trace)
        except _GivenUpError:
            return

    def __len__(self) -> int:
        return sum(map(len, self._coords))

    def pack(self, tiles: RgbTiles) -> Packed:
        """Pack tiles for :meth:`append_packed`, which several threads may do.

        Args:
            tiles: (n, tile_px, tile_px, 3) uint8; not to be changed before they are appended.

        Raises:
            StoreError: They are of another shape or type.
        """
        if tiles.shape[1:] != self._tile or tiles.dtype != np.uint8:
            raise StoreError(
                f"{self.path}: cannot append tiles {tiles.shape} {tiles.dtype}, expected "
                f"{('n', *self._tile)} uint8"
            )
        return self._file.pack(tiles)

    def append(self, tiles: RgbTiles, coords: Coords, columns: Columns) -> None:
        """Add tiles with their level-0 (x, y) and measures.

        Args:
            tiles: (n, tile_px, tile_px, 3) uint8; may be reused afterwards.
            coords: (n, 2) int64, following those before in canonical order.
            columns: Measure name to (n,) float32, codes int32; the same names each time.

        Raises:
            StoreError: The shapes or names disagree, or the capacity is exceeded.
        """
        self.append_packed(self.pack(tiles), coords, columns)

    def append_packed(self, packed: Packed, coords: Coords, columns: Columns) -> None:
        """Add what :meth:`pack` made of tiles; else as :meth:`append`."""
        count = len(packed)
        shapes = {"coords": coords.shape, **{name: each.shape for name, each in columns.items()}}
        asked = {"coords": (count, 2), **dict.fromkeys(columns, (count,))}
        if shapes != asked:
            raise StoreError(f"{self.path}: cannot append {shapes}, expected {asked}")
        if self._columns and self._columns[0].keys() != columns.keys():
            raise StoreError(
                f"{self.path}: measures {sorted(columns)} after {sorted(self._columns[0])}"
            )
        if len(self) + count > self._capacity:
            raise StoreError(f"{self.path}: more than the {self._capacity} tiles announced")
        if not count:
            return
        self._file.write(packed)
        self._coords.append(np.array(coords, np.int64))
        self._columns.append(
            {name: np.array(column, column_dtype(name)) for name, column in columns.items()}
        )

    def commit(self, attributes: Mapping[str, Any]) -> None:
        """Write ``attributes`` (JSON-ready) and put the store in its place.

        Raises:
            StoreError: No tile was appended.
        """
        if not self._coords:
            raise StoreError(f"{self.path}: a store needs at least one tile")
        coords = np.concatenate(self._coords)
        names = self._columns[0]
        columns = {name: np.concatenate([part[name] for part in self._columns]) for name in names}
        marks = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "tile_px": self._tile[0],
            "codec": self._codec,
        }
        self._file.finish(coords, columns, {**attributes, **marks})
        self._opening.__exit__(None, None, None)
        self._committed = True


class _GivenUpError(Exception):
    """Tells the temporary's context that nothing was committed."""


def column_dtype(name: str) -> type[np.float32 | np.int32]:
    """Return what a column is kept as."""
    return np.int32 if name in CODES else np.float32


def store_damaged(error: StoreCorruptError) -> StoreCorruptError:
    """Return an error that also tells what to do about a damaged store."""
    text = str(error)
    return error if text.endswith(AGAIN) else StoreCorruptError(f"{text}; {AGAIN}")


def check_marks(path: Path, attributes: Mapping[str, Any]) -> None:
    """Refuse a store that is not ours, not complete, or newer than we are.

    Raises:
        StoreError, StoreCorruptError: As said.
    """
    if attributes.get("schema") != SCHEMA:
        raise StoreError(f"{path}: not a tile store (schema {attributes.get('schema')!r})")
    if attributes.get("schema_version", 0) > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema version {attributes['schema_version']} is newer than the "
            f"{SCHEMA_VERSION} known here; update the package"
        )
    if attributes.get("complete") is not True:
        raise StoreCorruptError(f"{path}: never completed; {AGAIN}")


def store_digest(store: TileStore) -> str:
    """Return a digest of what a tile store was made from and of where its tiles lie."""
    places = np.ascontiguousarray(store.coords, "<i8").tobytes().hex()
    return digest({"attributes": dict(store.attributes), "coords": places})
