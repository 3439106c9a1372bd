"""Tile stores as HDF5: one chunk a tile, not compressed.

h5py serialises all readers behind one lock and is slow at scattered rows. As chunks are not
compressed, their bytes are read from the file itself, where HDF5's own index says they are.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.errors import StoreCorruptError, StoreError
from wsi_pipeline.tiles.store import Backend, Codec, Columns, TileArray, TileStore, check_marks
from wsi_pipeline.types import Coords, RgbTiles

JSON_NAMES: Final = "json_attributes"  # the root attributes that hold JSON text


@contextmanager
def writing_hdf5(path: Path, tile_px: int, capacity: int, codec: Codec) -> Iterator[Backend]:
    """Yield the writing half of a file that takes ``path``'s place on leaving."""
    if codec not in ("auto", "none"):
        raise StoreError(
            f"{path}: plain HDF5 readers know no {codec!r}; use codec none, or a Zarr store"
        )
    with atomic_file(path) as partial, h5py.File(partial, "w") as file:
        tile = (tile_px, tile_px, 3)
        file.create_dataset(
            "tiles", shape=(capacity, *tile), maxshape=(None, *tile), chunks=(1, *tile),
            dtype="uint8", fillvalue=0,
        )  # fmt: skip
        yield _Hdf5Backend(file)


class _Hdf5Backend:
    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._rows = 0

    def write(self, tiles: RgbTiles) -> None:
        dataset = self._file["tiles"]
        for tile in np.ascontiguousarray(tiles):
            dataset.id.write_direct_chunk((self._rows, 0, 0, 0), tile)
            self._rows += 1

    def finish(self, coords: Coords, columns: Columns, attributes: Mapping[str, Any]) -> None:
        self._file["tiles"].resize(len(coords), axis=0)
        for name, values in {"coords": coords, **columns}.items():
            self._file.create_dataset(name, data=values)
        nested = [name for name, value in attributes.items() if not _is_scalar(value)]
        for name, value in attributes.items():
            text = json.dumps(value, ensure_ascii=False) if name in nested else value
            self._file.attrs[name] = text
        self._file.attrs[JSON_NAMES] = json.dumps(nested)
        self._file.attrs["complete"] = True


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | bool | int | float)


def open_hdf5(path: Path) -> TileStore:
    """Open an HDF5 tile store; see :func:`wsi_pipeline.tiles.open_tiles`."""
    try:
        with h5py.File(path, "r") as file:
            attributes = _attributes(file)
            check_marks(path, attributes)
            names = [name for name in file if name != "tiles"]
            arrays = {name: np.asarray(file[name][()]) for name in names}
            tiles = _Hdf5Tiles(path, file["tiles"])
            coords = arrays.pop("coords")
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, StoreCorruptError):
            raise
        raise StoreCorruptError(f"{path}: cannot be read: {error}") from error
    return TileStore(path=path, tiles=tiles, coords=coords, columns=arrays, attributes=attributes)


def _attributes(file: h5py.File) -> dict[str, Any]:
    """Return the root attributes as they were given: JSON text parsed, NumPy scalars plain."""
    stored = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in file.attrs.items()
    }
    nested = json.loads(stored.pop(JSON_NAMES, "[]"))
    return {name: json.loads(v) if name in nested else v for name, v in stored.items()}


class _Hdf5Tiles(TileArray):
    def __init__(self, path: Path, dataset: h5py.Dataset) -> None:
        self._path = path
        self.shape = dataset.shape
        self._file = path.open("rb", buffering=0)
        self._offsets = np.full(len(dataset), -1, np.int64)
        dataset.id.chunk_iter(self._note)
        if (self._offsets < 0).any():
            raise StoreCorruptError(f"{path}: {(self._offsets < 0).sum()} tiles were not written")

    def _note(self, chunk: Any) -> None:
        row = chunk.chunk_offset[0]
        if row < len(self._offsets):
            self._offsets[row] = chunk.byte_offset

    def _range(self, start: int, stop: int) -> RgbTiles:
        return self._gather(np.arange(start, stop))

    def _gather(self, indices: NDArray[np.int64]) -> RgbTiles:
        tiles = np.empty((*indices.shape, *self.shape[1:]), np.uint8)
        for tile, offset in zip(tiles, self._offsets[indices].tolist(), strict=True):
            if os.preadv(self._file.fileno(), [tile], offset) != tile.nbytes:
                raise StoreCorruptError(f"{self._path}: the file ends in the middle of its tiles")
        return tiles
