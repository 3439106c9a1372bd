"""Tile stores as Zarr v3: metadata by zarr-python, tiles in bulk by tensorstore.

One tile is one chunk, so that any tile is read alone; 128 of them are one shard, so that a slide
is few files. A CRC-32C per chunk tells damage from data. Plain ``zarr.open`` reads all of it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from wsi_pipeline.atomic import atomic_folder
from wsi_pipeline.errors import StoreCorruptError, StoreError
from wsi_pipeline.tiles.store import Backend, Codec, Columns, TileArray, TileStore, check_marks
from wsi_pipeline.types import Coords, RgbTiles

SHARD: Final = 128  # tiles in a file
ZSTD_LEVEL: Final = 1  # scanned tissue hardly compresses; more effort buys nothing


@contextmanager
def writing_zarr(path: Path, tile_px: int, capacity: int, codec: Codec) -> Iterator[Backend]:
    """Yield the writing half of a folder that takes ``path``'s place on leaving."""
    compressors: list[Any] = []
    if codec in ("auto", "zstd"):
        compressors.append(ZstdCodec(level=ZSTD_LEVEL))
    elif codec != "none":
        raise StoreError(f"{path}: codec {codec!r} is unknown to Zarr stores; use zstd or none")
    with atomic_folder(path) as folder:
        group = zarr.create_group(folder, zarr_format=3)
        group.create_array(
            "tiles",
            shape=(capacity, tile_px, tile_px, 3),
            chunks=(1, tile_px, tile_px, 3),
            shards=(SHARD, tile_px, tile_px, 3),
            dtype="uint8",
            compressors=[*compressors, Crc32cCodec()],
            dimension_names=("tile", "y", "x", "channel"),
        )
        yield _ZarrBackend(folder, group)


class _ZarrBackend:
    """Gathers whole shards; one is written in the background while the next fills."""

    def __init__(self, folder: Path, group: zarr.Group) -> None:
        self._group = group
        self._array = _tensorstore(folder / "tiles", write=True)
        self._shard = np.empty((SHARD, *self._array.shape[1:]), np.uint8)
        self._begin = 0
        self._filled = 0
        self._pending: ts.WriteFutures | None = None

    def write(self, tiles: RgbTiles) -> None:
        taken = 0
        while taken < len(tiles):
            part = tiles[taken : taken + SHARD - self._filled]
            self._shard[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            taken += len(part)
            if self._filled == SHARD:
                self._flush()

    def finish(self, coords: Coords, columns: Columns, attributes: Mapping[str, Any]) -> None:
        self._flush()
        self._wait()
        tiles = cast("zarr.Array[Any]", self._group["tiles"])
        tiles.resize((len(coords), *tiles.shape[1:]))
        arrays: dict[str, NDArray[Any]] = {"coords": coords, **columns}
        for name, values in arrays.items():
            self._group.create_array(name, data=values, chunks=values.shape, compressors=None)
        self._group.attrs.update(dict(attributes))
        self._group.attrs["complete"] = True

    def _flush(self) -> None:
        self._wait()
        if not self._filled:
            return
        end = self._begin + self._filled
        self._pending = self._array[self._begin : end].write(self._shard[: self._filled])
        self._shard = np.empty_like(self._shard)  # the old one belongs to the write until it ends
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
            if name != "tiles"
        }
        tiles = _ZarrTiles(path)
        coords = arrays.pop("coords")
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, StoreCorruptError):
            raise
        raise StoreCorruptError(f"{path}: cannot be read: {error}") from error
    return TileStore(path=path, tiles=tiles, coords=coords, columns=arrays, attributes=attributes)


class _ZarrTiles(TileArray):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._array = _tensorstore(path / "tiles", write=False)
        self.shape = cast("tuple[int, int, int, int]", self._array.shape)

    def _range(self, start: int, stop: int) -> RgbTiles:
        return self._read(self._array[start:stop])

    def _gather(self, indices: NDArray[np.int64]) -> RgbTiles:
        return self._read(self._array[indices])

    def _read(self, view: ts.TensorStore) -> RgbTiles:
        try:
            return np.asarray(view.read().result())
        except ValueError as error:
            raise StoreCorruptError(f"{self._path}: damaged tiles: {error}") from error


def _tensorstore(array: Path, *, write: bool) -> ts.TensorStore:
    """Open one array of a Zarr folder."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array.absolute())}}
    return ts.open(spec, open=True, read=True, write=write).result()


def missing_shards(path: Path, count: int) -> list[str]:
    """Name the shard files that a store of ``count`` tiles must have and has not."""
    names = [f"tiles/c/{shard}/0/0/0" for shard in range(-(-count // SHARD))]
    return [name for name in names if not (path / name).is_file()]
