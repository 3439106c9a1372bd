"""Tile stores: one per slide, Zarr v3 or HDF5, the same names in both.

``tiles`` (N, tile_px, tile_px, 3) uint8, ``coords`` (N, 2) int64 level-0 (x, y) in canonical order,
one (N,) float32 array per measure (``tissue_fraction``, ``background_fraction``, ``focus``,
``pen_fraction``, ``fold_fraction``, ``blood_fraction``), and what is known about them as root
attributes, ``complete`` last. A store is whole or absent: it is written beside its place and
renamed.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from wsi_pipeline.atomic import remove_partials
from wsi_pipeline.errors import StoreCorruptError, StoreError
from wsi_pipeline.tiles.contract import (
    SCHEMA,
    SCHEMA_VERSION,
    Backend,
    Columns,
    TileStore,
)
from wsi_pipeline.tiles.settings import Codec
from wsi_pipeline.types import Coords, RgbTiles

SUFFIXES: Final = {"zarr": ".zarr", "hdf5": ".h5"}


class TileWriter:
    """Takes a slide's tiles in canonical order; the store appears with :meth:`commit` or never."""

    def __init__(
        self,
        path: Path,
        opening: AbstractContextManager[Backend],
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
        self._backend = self._opening.__enter__()
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

    @property
    def encode_s(self) -> float:
        """Seconds spent on packing tiles; where the store's library does that, it does not tell."""
        return self._backend.encode_s

    def append(self, tiles: RgbTiles, coords: Coords, columns: Columns) -> None:
        """Add tiles with their level-0 (x, y) and measures.

        Args:
            tiles: (n, tile_px, tile_px, 3) uint8; may be reused afterwards.
            coords: (n, 2) int64, following those before in canonical order.
            columns: Measure name to (n,) float32; the same names each time.

        Raises:
            StoreError: The shapes or names disagree, or the capacity is exceeded.
        """
        count = len(tiles)
        shapes = {"tiles": tiles.shape, "coords": coords.shape}
        shapes |= {name: column.shape for name, column in columns.items()}
        asked = {"tiles": (count, *self._tile), "coords": (count, 2)}
        asked |= dict.fromkeys(columns, (count,))
        if shapes != asked or tiles.dtype != np.uint8:
            raise StoreError(f"{self.path}: cannot append {shapes}, expected {asked}")
        if self._columns and self._columns[0].keys() != columns.keys():
            raise StoreError(
                f"{self.path}: measures {sorted(columns)} after {sorted(self._columns[0])}"
            )
        if len(self) + count > self._capacity:
            raise StoreError(f"{self.path}: more than the {self._capacity} tiles announced")
        if not count:
            return
        self._backend.write(tiles)
        self._coords.append(np.array(coords, np.int64))
        self._columns.append(
            {name: np.array(column, np.float32) for name, column in columns.items()}
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
        self._backend.finish(coords, columns, {**attributes, **marks})
        self._opening.__exit__(None, None, None)
        self._committed = True


class _GivenUpError(Exception):
    """Tells the temporary's context that nothing was committed."""


def create_tiles(path: Path, *, tile_px: int, capacity: int, codec: Codec = "auto") -> TileWriter:
    """Begin a store; use the result in a ``with`` and commit it.

    Args:
        path: Ends in ``.zarr`` or ``.h5``. What an earlier, killed writer left beside it is
            removed, so the caller must be its only writer. A store there is replaced on commit.
        tile_px: Side of a tile.
        capacity: The most tiles that may come.
        codec: ``zstd`` and ``none`` keep every bit; ``auto`` is zstd in Zarr and none in HDF5.
            ``jpeg`` (quality 90) takes a fifth of the space, and only we read the tiles.

    Raises:
        StoreError: The suffix is unknown, or the format has no such codec.
    """
    remove_partials(path)
    opening: AbstractContextManager[Backend]
    if _format(path) == "zarr":
        from wsi_pipeline.tiles.zarr_store import writing_zarr

        codec = "zstd" if codec == "auto" else codec
        opening = writing_zarr(path, tile_px, capacity, codec)
    else:
        from wsi_pipeline.tiles.hdf5_store import writing_hdf5

        codec = "none" if codec == "auto" else codec
        opening = writing_hdf5(path, tile_px, capacity, codec)
    return TileWriter(path, opening, tile_px=tile_px, capacity=capacity, codec=codec)


def open_tiles(path: Path) -> TileStore:
    """Open a store for reading.

    Raises:
        StoreError: There is none, or a newer version wrote it.
        StoreCorruptError: It is incomplete or damaged.
    """
    if not path.exists():
        raise StoreError(f"{path}: there is no such tile store; cut the slide first")
    if _format(path) == "zarr":
        from wsi_pipeline.tiles.zarr_store import open_zarr

        store = open_zarr(path)
    else:
        from wsi_pipeline.tiles.hdf5_store import open_hdf5

        store = open_hdf5(path)
    lengths = {"tiles": len(store.tiles), "coords": len(store)}
    lengths |= {name: len(column) for name, column in store.columns.items()}
    if len(set(lengths.values())) != 1:
        raise StoreCorruptError(f"{path}: row counts differ: {lengths}; cut the slide again")
    return store


def find_store(folder: Path, slide_id: str) -> Path | None:
    """Return the slide's store in ``folder``, of whichever format; None if there is none."""
    paths = [folder / f"{slide_id}{suffix}" for suffix in SUFFIXES.values()]
    return next((path for path in paths if path.exists()), None)


def stores_of(folder: Path) -> dict[str, Path]:
    """Return the stores in ``folder`` by slide, those that are being written left out."""
    paths = (path for path in sorted(folder.glob("[!.]*")) if path.suffix in SUFFIXES.values())
    return {path.stem: path for path in paths}


def _format(path: Path) -> str:
    for name, suffix in SUFFIXES.items():
        if path.suffix == suffix:
            return name
    raise StoreError(f"{path}: a tile store ends in {' or '.join(SUFFIXES.values())}")
