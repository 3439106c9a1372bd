"""Tile stores as Zarr v3: metadata by zarr-python, tiles in bulk by tensorstore.

One tile is one chunk, so that any tile is read alone; 128 of them are one shard, so that a slide
is few files. A CRC-32C per chunk tells damage from data. Plain ``zarr.open`` reads all of it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from wsi_pipeline.atomic import atomic_folder
from wsi_pipeline.errors import StoreCorruptError
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

SHARD: Final = 128  # tiles in a file
PACKED_CHUNK: Final = 1 << 16  # bytes read for a tile, about
PACKED_SHARD: Final = 1 << 24  # bytes in a file, and twice in memory
MOST_PER_PIXEL: Final = 4  # bytes: no JPEG is larger
ZSTD_LEVEL: Final = 1  # scanned tissue hardly compresses; more effort buys nothing


@contextmanager
def writing_zarr(path: Path, tile_px: int, capacity: int, codec: Codec) -> Iterator[Backend]:
    """Yield the writing half of a folder that takes ``path``'s place on leaving."""
    with atomic_folder(path) as folder:
        group = zarr.create_group(folder, zarr_format=3)
        if codec == "jpeg":
            group.create_array(
                JPEG,
                shape=(capacity * (MOST_PER_PIXEL * tile_px**2 + 4096),),
                chunks=(PACKED_CHUNK,),
                shards=(PACKED_SHARD,),
                dtype="uint8",
                compressors=[Crc32cCodec()],
            )
            yield _ZarrBackend(folder, group, JPEG, Packer())
            return
        zstd = [] if codec == "none" else [ZstdCodec(level=ZSTD_LEVEL)]
        group.create_array(
            "tiles",
            shape=(capacity, tile_px, tile_px, 3),
            chunks=(1, tile_px, tile_px, 3),
            shards=(SHARD, tile_px, tile_px, 3),
            dtype="uint8",
            compressors=[*zstd, Crc32cCodec()],
            dimension_names=("tile", "y", "x", "channel"),
        )
        yield _ZarrBackend(folder, group, "tiles", None)


class _ZarrBackend:
    """Writes tiles, or their packed bytes, as rows of one array."""

    def __init__(self, folder: Path, group: zarr.Group, name: str, packer: Packer | None) -> None:
        self._group = group
        self._name = name
        self._packer = packer
        self._rows = _Rows(_tensorstore(folder / name, write=True), group[name].shards[0])

    @property
    def encode_s(self) -> float:
        return 0.0 if self._packer is None else self._packer.seconds

    def write(self, tiles: RgbTiles) -> None:
        self._rows.write(tiles if self._packer is None else self._packer.pack(tiles))

    def finish(self, coords: Coords, columns: Columns, attributes: Mapping[str, Any]) -> None:
        count = self._rows.close()
        array = self._group[self._name]
        array.resize((count, *array.shape[1:]))
        arrays: dict[str, NDArray[Any]] = {"coords": coords, **columns}
        if self._packer is not None:
            arrays[OFFSET] = self._packer.offsets
        for name, values in arrays.items():
            self._group.create_array(name, data=values, chunks=values.shape, compressors=None)
        self._group.attrs.put({**attributes, "complete": True})  # in one go, not one by one


class _Rows:
    """Gathers rows to whole shards; one is written in the background while the next fills."""

    def __init__(self, array: ts.TensorStore, shard: int) -> None:
        self._array = array
        self._shard, self._other = (np.empty((shard, *array.shape[1:]), np.uint8) for _ in range(2))
        self._begin = 0
        self._filled = 0
        self._pending: ts.WriteFutures | None = None

    def write(self, rows: NDArray[np.uint8]) -> None:
        taken = 0
        while taken < len(rows):
            part = rows[taken : taken + len(self._shard) - self._filled]
            self._shard[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            taken += len(part)
            if self._filled == len(self._shard):
                self._flush()

    def close(self) -> int:
        """Write the rest; return how many rows there are."""
        self._flush()
        self._wait()
        return self._begin

    def _flush(self) -> None:
        self._wait()
        if not self._filled:
            return
        end = self._begin + self._filled
        self._pending = self._array[self._begin : end].write(self._shard[: self._filled])
        self._shard, self._other = self._other, self._shard  # it is the write's until that ends
        self._begin, self._filled = end, 0

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def open_zarr(path: Path) -> TileStore:
    """Open a Zarr tile store; see :func:`wsi_pipeline.tiles.open_tiles`."""
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attributes = dict(group.attrs)
        check_marks(path, attributes)
        arrays = {
            name: np.asarray(array[...])
            for name, array in group.arrays()
            if name not in ("tiles", JPEG)
        }
        tiles: TileArray
        if attributes.get("codec") == "jpeg":
            stream = _ZarrRows(path, JPEG)
            tiles = PackedTiles(path, attributes["tile_px"], arrays.pop(OFFSET), stream.read)
        else:
            tiles = _ZarrTiles(path)
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
        reopen=open_zarr,
    )


class _ZarrRows:
    """An array whose rows are read by tensorstore."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self.array = _tensorstore(path / name, write=False)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        return self.fetch(self.array[start:stop])

    def fetch(self, view: ts.TensorStore) -> NDArray[np.uint8]:
        try:
            return np.asarray(view.read().result())
        except ValueError as error:
            raise StoreCorruptError(f"{self._path}: damaged tiles: {error}") from error


class _ZarrTiles(TileArray):
    def __init__(self, path: Path) -> None:
        self._rows = _ZarrRows(path, "tiles")
        count, height, width, channels = self._rows.array.shape
        self.shape = (count, height, width, channels)

    def _range(self, start: int, stop: int) -> RgbTiles:
        return self._rows.read(start, stop)

    def _gather(self, indices: NDArray[np.int64]) -> RgbTiles:
        return self._rows.fetch(self._rows.array[indices])


def _tensorstore(array: Path, *, write: bool) -> ts.TensorStore:
    """Open one array of a Zarr folder."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array.absolute())}}
    return ts.open(spec, open=True, read=True, write=write).result()


def missing_shards(path: Path) -> list[str]:
    """Name the shard files that the store must have and has not."""
    group = zarr.open_group(path, mode="r", zarr_format=3)
    name = JPEG if JPEG in group else "tiles"
    array = group[name]
    tail = "/0" * (array.ndim - 1)
    names = [f"{name}/c/{i}{tail}" for i in range(-(-array.shape[0] // array.shards[0]))]
    return [name for name in names if not (path / name).is_file()]
