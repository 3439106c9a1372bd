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
from wsi_pipeline.tiles.contract import (
    Backend,
    Columns,
    TileArray,
    TileStore,
    check_marks,
)
from wsi_pipeline.tiles.packed import JPEG, OFFSET, PackedTiles, Packer
from wsi_pipeline.tiles.settings import Codec
from wsi_pipeline.types import Coords, RgbTiles

JSON_NAMES: Final = "json_attributes"  # the root attributes that hold JSON text
PACKED_CHUNK: Final = 1 << 20  # bytes


@contextmanager
def writing_hdf5(path: Path, tile_px: int, capacity: int, codec: Codec) -> Iterator[Backend]:
    """Yield the writing half of a file that takes ``path``'s place on leaving."""
    if codec == "zstd":
        raise StoreError(
            f"{path}: plain HDF5 readers know no zstd; use codec none or jpeg, or a Zarr store"
        )
    with atomic_file(path) as partial, h5py.File(partial, "w") as file:
        if codec == "jpeg":
            yield _Hdf5Backend(file, _create(file, JPEG, 0, (), PACKED_CHUNK), Packer())
        else:
            tile = (tile_px, tile_px, 3)
            yield _Hdf5Backend(file, _create(file, "tiles", capacity, tile, 1), None)


def _create(
    file: h5py.File, name: str, rows: int, row: tuple[int, ...], chunk_rows: int
) -> h5py.Dataset:
    return file.create_dataset(
        name, shape=(rows, *row), maxshape=(None, *row), chunks=(chunk_rows, *row), dtype="uint8"
    )


class _Hdf5Backend:
    """Writes tiles, or their packed bytes, as rows of one dataset."""

    def __init__(self, file: h5py.File, dataset: h5py.Dataset, packer: Packer | None) -> None:
        self._file = file
        self._dataset = dataset
        self._packer = packer
        self._rows = 0

    @property
    def encode_s(self) -> float:
        return 0.0 if self._packer is None else self._packer.seconds

    def write(self, tiles: RgbTiles) -> None:
        if self._packer is None:
            for tile in np.ascontiguousarray(tiles):
                self._dataset.id.write_direct_chunk((self._rows, 0, 0, 0), tile)
                self._rows += 1
            return
        packed = self._packer.pack(tiles)
        self._dataset.resize(self._rows + len(packed), axis=0)
        self._dataset[self._rows :] = packed
        self._rows += len(packed)

    def finish(self, coords: Coords, columns: Columns, attributes: Mapping[str, Any]) -> None:
        self._dataset.resize(self._rows, axis=0)
        arrays = {"coords": coords, **columns}
        if self._packer is not None:
            arrays[OFFSET] = self._packer.offsets
        for name, values in arrays.items():
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
            names = [name for name in file if name not in ("tiles", JPEG)]
            arrays = {name: np.asarray(file[name][()]) for name in names}
            tiles: TileArray
            if attributes.get("codec") == "jpeg":
                stream = _Chunks(path, file[JPEG])
                tiles = PackedTiles(path, attributes["tile_px"], arrays.pop(OFFSET), stream.read)
            else:
                tiles = _Hdf5Tiles(_Chunks(path, file["tiles"]))
            coords = arrays.pop("coords")
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, StoreCorruptError):
            raise
        raise StoreCorruptError(f"{path}: cannot be read: {error}; cut the slide again") from error
    return TileStore(
        path=path,
        tiles=tiles,
        coords=coords,
        columns=arrays,
        attributes=attributes,
        reopen=open_hdf5,
    )


def _attributes(file: h5py.File) -> dict[str, Any]:
    """Return the root attributes as they were given: JSON text parsed, NumPy scalars plain."""
    stored = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in file.attrs.items()
    }
    nested = json.loads(stored.pop(JSON_NAMES, "[]"))
    return {name: json.loads(v) if name in nested else v for name, v in stored.items()}


class _Chunks:
    """Rows of a chunked, uncompressed dataset, read from the file without HDF5's lock."""

    def __init__(self, path: Path, dataset: h5py.Dataset) -> None:
        self.shape = dataset.shape
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._chunk_rows = dataset.chunks[0]
        self._row_bytes = int(np.prod(dataset.shape[1:], dtype=np.int64))
        self._offsets = np.full(-(-dataset.shape[0] // self._chunk_rows), -1, np.int64)
        dataset.id.chunk_iter(self._note)
        if (self._offsets < 0).any():
            raise StoreCorruptError(
                f"{path}: {(self._offsets < 0).sum()} of its chunks are missing; "
                "cut the slide again"
            )

    def _note(self, chunk: Any) -> None:
        index = chunk.chunk_offset[0] // self._chunk_rows
        if index < len(self._offsets):
            self._offsets[index] = chunk.byte_offset

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows ``start`` to ``stop``."""
        rows = np.empty((stop - start, *self.shape[1:]), np.uint8)
        done = start
        while done < stop:
            chunk, within = divmod(done, self._chunk_rows)
            end = min(stop, (chunk + 1) * self._chunk_rows)
            part = rows[done - start : end - start]
            offset = int(self._offsets[chunk]) + within * self._row_bytes
            if os.preadv(self._file.fileno(), [part.data], offset) != part.nbytes:
                raise StoreCorruptError(f"{self._path}: the file ends in the middle of its tiles")
            done = end
        return rows


class _Hdf5Tiles(TileArray):
    def __init__(self, chunks: _Chunks) -> None:
        self._chunks = chunks
        self.shape = chunks.shape

    def _range(self, start: int, stop: int) -> RgbTiles:
        return self._chunks.read(start, stop)

    def _gather(self, indices: NDArray[np.int64]) -> RgbTiles:
        rows = [self._chunks.read(row, row + 1) for row in indices.tolist()]
        return np.concatenate(rows) if rows else self._chunks.read(0, 0)
