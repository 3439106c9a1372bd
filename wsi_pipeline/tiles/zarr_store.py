"""Tile stores as Zarr v3.

One tile is one chunk, so that any tile is read alone; 128 of them are one shard, so that a slide
is few files. A CRC-32C per chunk tells damage from data. Plain ``zarr.open`` reads all of it.

Zarr reads a chunk that is not there as zeros, and a lost file would become black tiles. So every
chunk is written whatever is in it, and a store is sealed: the root's attribute ``seal`` has size
and digest of each file but the shards, of those the digest of the index and the checksum of each
chunk, and the digest of ``zarr.json`` itself, with zeros in that digest's place. All but the chunks
is checked when the store is opened, a chunk when it is read.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.atomic import PARTIAL, atomic_folder
from wsi_pipeline.digests import digest_of, file_digest
from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.tiles.packed import JPEG, OFFSET, PackedTiles, pack_jpeg
from wsi_pipeline.tiles.shards import Packing, Shards, ShardWriter, chunk_of, write_array
from wsi_pipeline.tiles.store import (
    AGAIN,
    Columns,
    Packed,
    StoreFile,
    TileArray,
    TileStore,
    check_marks,
)
from wsi_pipeline.types import Coords, RgbTiles

SHARD: Final = 128  # tiles in a file
PACKED_CHUNK: Final = 1 << 16  # bytes read for a tile, about
PACKED_SHARD: Final = 1 << 24  # bytes in a file
ZSTD_LEVEL: Final = 1  # scanned tissue hardly compresses; more effort buys nothing
FILES: Final = "files"  # root attribute of older stores: the size of every file but its own, bytes
SEAL: Final = "seal"
ROOT: Final = "zarr.json"
OWN: Final = '"own": "{}"'  # how the digest of zarr.json stands in it
NO_DIGEST: Final = "0" * 32
PLAIN: Final = ("int32", "int64", "uint64", "float32")  # what columns are kept as


@contextmanager
def create_store(path: Path, tile_px: int, _capacity: int, codec: str) -> Iterator[StoreFile]:
    """Yield the writing half of a folder that takes ``path``'s place on leaving."""
    with atomic_folder(path) as folder:
        if codec == "jpeg":
            packing = Packing(row=(), chunk=PACKED_CHUNK, shard=PACKED_SHARD // PACKED_CHUNK)
            with ShardWriter(folder / JPEG, packing) as shards:
                yield _JpegFile(folder, shards)
            return
        level = None if codec == "none" else ZSTD_LEVEL
        packing = Packing(
            row=(tile_px, tile_px, 3), chunk=1, shard=SHARD, zstd=level,
            names=("tile", "y", "x", "channel"),
        )  # fmt: skip
        with ShardWriter(folder / "tiles", packing) as shards:
            yield _TileFile(folder, shards, level)


class _TileFile:
    """Writes tiles as chunks of one array."""

    def __init__(self, folder: Path, shards: ShardWriter, level: int | None) -> None:
        self._folder = folder
        self._shards = shards
        self._level = level

    def pack(self, tiles: RgbTiles) -> Packed:
        if self._level is None:
            return [chunk_of(tile.tobytes()) for tile in tiles]
        rows = np.ascontiguousarray(tiles).reshape(len(tiles), -1)
        streams = (imagecodecs.zstd_encode(row.data, level=self._level) for row in rows)  # type: ignore[arg-type]  # it takes any buffer
        return [chunk_of(bytes(stream)) for stream in streams]

    def write(self, packed: Packed) -> None:
        for chunk in packed:
            self._shards.write(chunk)

    def finish(self, coords: Coords, columns: Columns, attributes: Mapping[str, Any]) -> None:
        self._shards.finish(len(coords))
        _finish(self._folder, {"coords": coords, **columns}, attributes)


class _JpegFile:
    """Writes tiles' JPEG streams, one after the other, as one array of bytes."""

    def __init__(self, folder: Path, shards: ShardWriter) -> None:
        self._folder = folder
        self._shards = shards
        self._sizes = [0]
        self._rest = bytearray()  # less than a chunk

    def pack(self, tiles: RgbTiles) -> Packed:
        return pack_jpeg(tiles)

    def write(self, packed: Packed) -> None:
        self._sizes += map(len, packed)
        self._rest += b"".join(packed)
        whole = len(self._rest) - len(self._rest) % PACKED_CHUNK
        stream = bytes(self._rest[:whole])
        del self._rest[:whole]
        for begin in range(0, whole, PACKED_CHUNK):
            self._shards.write(chunk_of(stream[begin : begin + PACKED_CHUNK]))

    def finish(self, coords: Coords, columns: Columns, attributes: Mapping[str, Any]) -> None:
        if self._rest:
            self._shards.write(chunk_of(bytes(self._rest.ljust(PACKED_CHUNK, b"\0"))))
        offsets = np.cumsum(self._sizes, dtype=np.int64)
        self._shards.finish(int(offsets[-1]))
        _finish(self._folder, {"coords": coords, **columns, OFFSET: offsets}, attributes)


def _finish(
    folder: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> None:
    """Write all of a store but its tiles; completion last."""
    for name, values in arrays.items():
        write_array(folder / name, values)
    told = {"attributes": {**attributes, "complete": True}, "zarr_format": 3, "node_type": "group"}
    (folder / ROOT).write_text(json.dumps(told, indent=2), "utf-8")
    seal_store(folder)


def seal_store(path: Path) -> None:
    """Give a store digests of its bytes as they are."""
    files = sorted(file for file in path.glob("*/**/*") if file.is_file())
    shards: dict[str, Shards] = {}
    for name in ("tiles", JPEG):
        if (path / name).is_dir():
            shards |= dict.fromkeys(map(str, (found := Shards(path, name)).files), found)
    seal = {
        "own": NO_DIGEST,
        "files": {
            file.relative_to(path).as_posix(): [file.stat().st_size, file_digest(file)]
            for file in files
            if str(file) not in shards
        },
        "shards": {
            Path(file).relative_to(path).as_posix(): [Path(file).stat().st_size, *found.told(file)]
            for file, found in shards.items()
        },
    }
    root = path / ROOT
    told = json.loads(root.read_text("utf-8"))
    attributes = told["attributes"]
    complete = attributes.pop("complete")
    attributes |= {SEAL: seal, "complete": complete}
    text = json.dumps(told, indent=2, ensure_ascii=False)
    sealed = text.replace(OWN.format(NO_DIGEST), OWN.format(digest_of(text.encode())))
    new = path / f".{ROOT}{PARTIAL}"
    new.write_text(sealed, "utf-8")
    new.replace(root)


def open_store(path: Path) -> TileStore:
    """Open a Zarr tile store; see :func:`wsi_pipeline.tiles.open_tiles`."""
    attributes, seal = _read_root(path)
    check_marks(path, attributes)
    if seal is not None:
        told = {**seal["files"], **seal["shards"]}
        _check_files(path, {name: size for name, (size, *_) in told.items()})
        _check_digests(path, seal["files"])
    with _library_errors(path):
        arrays = _read_columns(path, sealed=seal is not None)
        coords = arrays.pop("coords")
        offsets = arrays.pop(OFFSET) if attributes.get("codec") == "jpeg" else None
    files = attributes.pop(FILES, None)
    tiles: TileArray
    shards = None if seal is None else seal["shards"]
    if offsets is None:
        tiles = _ZarrTiles(path, Shards(path, "tiles", shards))
    else:
        stream = _Stream(Shards(path, JPEG, shards))
        tiles = PackedTiles(path, attributes["tile_px"], offsets, stream)
    store = TileStore(
        path=path, tiles=tiles, coords=coords, columns=arrays, attributes=attributes,
        sealed=seal is not None,
    )  # fmt: skip
    if seal is None:
        _check_files(path, files or _least_files(store))
    return store


def _read_columns(path: Path, *, sealed: bool) -> dict[str, NDArray[Any]]:
    """Return every array of a store but its tiles."""
    # not group.arrays(), which leaves out what is damaged
    names = {folder.name for folder in path.iterdir() if folder.is_dir()} - {"tiles", JPEG}
    if sealed:
        plain = {name: _read_plain(path / name) for name in names}
        found = {name: values for name, values in plain.items() if values is not None}
        if len(found) == len(names):
            return found
    import zarr  # slow to import, and what is written today is read without it

    group = zarr.open_group(path, mode="r", zarr_format=3)
    return {name: np.asarray(group[name][...]) for name in names}


def _read_plain(array: Path) -> NDArray[Any] | None:
    """Read an array as stores have them; None where it is of another kind, for zarr-python to read.

    Of a sealed store, whose files have been held against their digests. zarr-python takes some
    5 ms an array, eight of them a store.
    """
    about = json.loads((array / ROOT).read_text("utf-8"))
    shape = tuple(about["shape"])
    plain = (
        about["codecs"] == [{"name": "bytes", "configuration": {"endian": "little"}}]
        and about["chunk_grid"]["configuration"]["chunk_shape"] == about["shape"]
        and about["chunk_key_encoding"]["configuration"]["separator"] == "/"
        and about["data_type"] in PLAIN
    )
    if not plain:
        return None
    dtype = np.dtype(about["data_type"]).newbyteorder("<")
    values = np.fromfile(array.joinpath("c", *["0"] * len(shape)), dtype)
    return values.reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def store_attributes(path: Path) -> Mapping[str, Any]:
    """Return a store's attributes; see :func:`wsi_pipeline.tiles.tile_attributes`."""
    attributes = _read_root(path)[0]
    check_marks(path, attributes)
    return attributes


def _read_root(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the store's attributes, and its seal, which is none in older stores.

    Raises:
        StoreCorruptError: They cannot be read, or are not those that were written.
    """
    with _library_errors(path):
        text = (path / ROOT).read_bytes()
        attributes = dict(json.loads(text)["attributes"])
        seal = attributes.pop(SEAL, None)
        if seal is None:
            return attributes, None
        stored, blank = (OWN.format(each).encode() for each in (seal["own"], NO_DIGEST))
    if digest_of(text.replace(stored, blank)) != seal["own"]:
        raise StoreCorruptError(f"{path}: damaged: {ROOT} was changed; {AGAIN}")
    return attributes, seal


def _check_digests(path: Path, files: Mapping[str, Any]) -> None:
    """Hold files against their digests.

    Raises:
        StoreCorruptError: One is another.
    """
    for name, (_, digest) in files.items():
        if file_digest(path / name) != digest:
            raise StoreCorruptError(f"{path}: damaged: {name} was changed; {AGAIN}")


@contextmanager
def _library_errors(path: Path) -> Iterator[None]:
    """Tell what zarr-python raises on files that it can make no sense of.

    Raises:
        StoreCorruptError: As said.
    """
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise StoreCorruptError(f"{path}: damaged: {error}; {AGAIN}") from error


def _check_files(path: Path, sizes: Mapping[str, int | None]) -> None:
    """Look for a store's files.

    Raises:
        StoreCorruptError: One is missing, or of another size than it had.
    """
    for name, size in sizes.items():
        try:
            found = (path / name).stat().st_size
        except OSError:
            raise StoreCorruptError(f"{path}: damaged: {name} is missing; {AGAIN}") from None
        if size is not None and found != size:
            raise StoreCorruptError(
                f"{path}: damaged: {name} has {found} bytes instead of {size}; {AGAIN}"
            )


def _least_files(store: TileStore) -> dict[str, None]:
    """Return what a store from before its files were noted must have; zeros were not written."""
    return {"coords/c/0/0": None} if store.coords.any() or len(store) > 1 else {}


class _ZarrTiles(TileArray):
    def __init__(self, path: Path, shards: Shards) -> None:
        super().__init__(path, shards.shape[0], shards.shape[1])
        self._shards = shards

    def read_run(self, first: int, out: RgbTiles) -> None:
        self._shards.fill(first, out.reshape(len(out), -1))

    def check(self) -> None:
        self._shards.check()


class _Stream:
    """The bytes of packed tiles."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def __len__(self) -> int:
        return self._shards.shape[0]

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        size = self._shards.chunk_rows
        first = start // size
        chunks = np.empty((-(-stop // size) - first, size), np.uint8)
        self._shards.fill(first, chunks)
        return chunks.reshape(-1)[start - first * size : stop - first * size]
