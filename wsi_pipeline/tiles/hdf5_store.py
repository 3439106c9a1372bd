"""Tile stores as HDF5: one chunk a tile, not compressed.

h5py serialises all readers behind one lock and is slow at scattered rows. As chunks are not
compressed, their bytes are read from the file itself, where HDF5's own index says they are.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.digests import Parts, part_digest, seal_file
from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.hdf5 import SEALED, find_chunks, open_hdf5, stream_hdf5
from wsi_pipeline.tiles.packed import JPEG, OFFSET, PackedTiles, pack_jpeg
from wsi_pipeline.tiles.store import (
    AGAIN,
    Columns,
    Packed,
    StoreFile,
    TileArray,
    TileStore,
    check_marks,
    store_damaged,
)
from wsi_pipeline.types import Coords, RgbTiles

JSON_NAMES: Final = "json_attributes"  # the root attributes that hold JSON text
PACKED_CHUNK: Final = 1 << 20  # bytes


@contextmanager
def create_store(path: Path, tile_px: int, capacity: int, codec: str) -> Iterator[StoreFile]:
    """Yield the writing half of a file that takes ``path``'s place on leaving."""
    with stream_hdf5(path, parts=JPEG if codec == "jpeg" else "tiles") as (file, check):
        if codec == "jpeg":
            yield _Hdf5File(file, _create(file, JPEG, 0, (), PACKED_CHUNK), check)
        else:
            tile = (tile_px, tile_px, 3)
            yield _Hdf5File(file, _create(file, "tiles", capacity, tile, 1), check)


def _create(
    file: h5py.File, name: str, rows: int, row: tuple[int, ...], chunk_rows: int
) -> h5py.Dataset:
    return file.create_dataset(
        name, shape=(rows, *row), maxshape=(None, *row), chunks=(chunk_rows, *row), dtype="uint8"
    )


class _Hdf5File:
    """Writes tiles, or their packed bytes, as rows of one dataset."""

    def __init__(self, file: h5py.File, dataset: h5py.Dataset, check: Callable[[], None]) -> None:
        self._file = file
        self._dataset = dataset
        self._check = check  # raises once the file cannot be written
        self._jpeg = dataset.ndim == 1
        self._sizes = [0]
        self._rows = 0

    def pack(self, tiles: RgbTiles) -> Packed:
        return pack_jpeg(tiles) if self._jpeg else list(np.ascontiguousarray(tiles))

    def write(self, packed: Packed) -> None:
        if self._jpeg:
            self._sizes += map(len, packed)
            stream = np.frombuffer(b"".join(packed), np.uint8)
            self._dataset.resize(self._rows + len(stream), axis=0)
            self._dataset[self._rows :] = stream
            self._rows += len(stream)
        else:
            for tile in packed:
                self._dataset.id.write_direct_chunk((self._rows, 0, 0, 0), tile)
                self._rows += 1
        self._check()

    def finish(self, coords: Coords, columns: Columns, attributes: Mapping[str, Any]) -> None:
        self._dataset.resize(self._rows, axis=0)
        arrays = {"coords": coords, **columns}
        if self._jpeg:
            arrays[OFFSET] = np.cumsum(self._sizes, dtype=np.int64)
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


def open_store(path: Path) -> TileStore:
    """Open an HDF5 tile store; see :func:`wsi_pipeline.tiles.open_tiles`."""
    try:
        with open_hdf5(path) as checked:
            file, parts = checked.file, checked.parts
            attributes = _attributes(file)
            check_marks(path, attributes)
            names = [name for name in file if name not in ("tiles", JPEG)]
            arrays = {name: np.asarray(file[name][()]) for name in names}
            tiles: TileArray
            if attributes.get("codec") == "jpeg":
                stream = _Chunks(path, file[JPEG], parts)
                tiles = PackedTiles(path, attributes["tile_px"], arrays.pop(OFFSET), stream)
            else:
                tiles = _Hdf5Tiles(_Chunks(path, file["tiles"], parts))
            coords = arrays.pop("coords")
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, StoreCorruptError):
            raise store_damaged(error) from error
        raise StoreCorruptError(f"{path}: damaged: {error}; {AGAIN}") from error
    return TileStore(
        path=path, tiles=tiles, coords=coords, columns=arrays, attributes=attributes,
        sealed=checked.seal is not None,
    )  # fmt: skip


def store_attributes(path: Path) -> Mapping[str, Any]:
    """Return a store's attributes; see :func:`wsi_pipeline.tiles.tile_attributes`."""
    try:
        with open_hdf5(path) as checked:
            attributes = _attributes(checked.file)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise StoreCorruptError(f"{path}: damaged: {error}; {AGAIN}") from error
    check_marks(path, attributes)
    return attributes


def seal_store(path: Path) -> None:
    """Give a store of an older version its digests, as it is now."""
    with open_hdf5(path) as checked:
        packed = checked.file.attrs.get("codec") == "jpeg"
        offsets, size = find_chunks(checked.file, JPEG if packed else "tiles")
    seal_file(path, offsets, size)


def _attributes(file: h5py.File) -> dict[str, Any]:
    """Return the root attributes as they were given: JSON text parsed, NumPy scalars plain."""
    stored = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in file.attrs.items()
        if name != SEALED
    }
    nested = json.loads(stored.pop(JSON_NAMES, "[]"))
    return {name: json.loads(v) if name in nested else v for name, v in stored.items()}


class _Chunks:
    """Rows of a chunked, uncompressed dataset, read from the file without HDF5's lock.

    Each chunk is held against its digest, if ``parts`` has them. Nothing is kept open.
    """

    def __init__(self, path: Path, dataset: h5py.Dataset, parts: Parts | None) -> None:
        self.path = path
        self.shape = dataset.shape
        self._chunk_rows = dataset.chunks[0]
        self._row_bytes = int(np.prod(dataset.shape[1:], dtype=np.int64))
        self._offsets = np.full(-(-dataset.shape[0] // self._chunk_rows), -1, np.int64)
        dataset.id.chunk_iter(self._note)
        if (self._offsets < 0).any():
            missing = int((self._offsets < 0).sum())
            raise StoreCorruptError(f"{path}: damaged: {missing} chunks are missing; {AGAIN}")
        self._digests: list[int] | None = None
        if parts is not None:
            by_offset = dict(zip(parts.offsets.tolist(), parts.digests.tolist(), strict=True))
            self._digests = [by_offset[offset] for offset in self._offsets.tolist()]

    def __len__(self) -> int:
        return int(self.shape[0])

    def _note(self, chunk: Any) -> None:
        index = chunk.chunk_offset[0] // self._chunk_rows
        if index < len(self._offsets):
            self._offsets[index] = chunk.byte_offset

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows ``start`` to ``stop``."""
        rows = np.empty((stop - start, *self.shape[1:]), np.uint8)
        self.fill(start, rows)
        return rows

    def fill(self, start: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out`` with the rows from ``start`` on.

        Raises:
            StoreCorruptError: The file cannot be read, ends too early, or its bytes are others.
        """
        done, stop = start, start + len(out)
        try:
            with self.path.open("rb", buffering=0) as file:
                while done < stop:
                    chunk, within = divmod(done, self._chunk_rows)
                    part = out[done - start : min(stop, (chunk + 1) * self._chunk_rows) - start]
                    self._fill_part(file, chunk, within, part)
                    done += len(part)
        except OSError as error:
            if isinstance(error, StoreCorruptError):
                raise
            raise StoreCorruptError(f"{self.path}: damaged: {error}; {AGAIN}") from error

    def _fill_part(self, file: FileIO, chunk: int, within: int, part: NDArray[np.uint8]) -> None:
        """Fill ``part`` with rows of one chunk, of which all is read if it has a digest."""
        whole = part
        begin = int(self._offsets[chunk])
        if self._digests is None:
            begin += within * self._row_bytes
        elif len(part) != self._chunk_rows:
            whole = np.empty((self._chunk_rows, *self.shape[1:]), np.uint8)
        if os.preadv(file.fileno(), [whole.data], begin) != whole.nbytes:
            raise StoreCorruptError(
                f"{self.path}: damaged: it ends in the middle of its tiles; {AGAIN}"
            )
        if self._digests is not None and part_digest(whole.data) != self._digests[chunk]:
            raise StoreCorruptError(
                f"{self.path}: damaged: a digest is wrong at byte {begin}; {AGAIN}"
            )
        if whole is not part:
            part[...] = whole[within : within + len(part)]


class _Hdf5Tiles(TileArray):
    def __init__(self, chunks: _Chunks) -> None:
        super().__init__(chunks.path, len(chunks), chunks.shape[1], threads=1)  # only copies
        self._chunks = chunks

    def read_run(self, first: int, out: RgbTiles) -> None:
        self._chunks.fill(first, out)
