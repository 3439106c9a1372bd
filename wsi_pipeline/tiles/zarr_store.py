"""Tile stores as Zarr v3: metadata by zarr-python, tiles written in bulk by tensorstore.

One tile is one chunk, so that any tile is read alone; 128 of them are one shard, so that a slide
is few files. A CRC-32C per chunk tells damage from data. Plain ``zarr.open`` reads all of it.

Zarr reads a chunk that is not there as zeros, and a lost file would become black tiles. So every
chunk is written whatever is in it, and a store is sealed: the root's attribute ``seal`` has size
and digest of each file but the shards, of those the digest of the index and the checksum of each
chunk, and the digest of ``zarr.json`` itself, with zeros in that digest's place. All but the chunks
is checked when the store is opened, a chunk when it is read.

Shards are read here: tensorstore ends a process that was forked after it had been used, as workers
of a ``DataLoader`` are.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Final

import google_crc32c
import imagecodecs
import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from wsi_pipeline.atomic import PARTIAL, atomic_folder
from wsi_pipeline.digests import digest_of, file_digest
from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.tiles.packed import JPEG, OFFSET, PackedTiles, Packer
from wsi_pipeline.tiles.store import AGAIN, Columns, StoreFile, TileArray, TileStore, check_marks
from wsi_pipeline.types import Coords, RgbTiles

SHARD: Final = 128  # tiles in a file
PACKED_CHUNK: Final = 1 << 16  # bytes read for a tile, about
PACKED_SHARD: Final = 1 << 24  # bytes in a file, and twice in memory
MOST_PER_PIXEL: Final = 4  # bytes: no JPEG is larger
ZSTD_LEVEL: Final = 1  # scanned tissue hardly compresses; more effort buys nothing
FILES: Final = "files"  # root attribute of older stores: the size of every file but its own, bytes
SEAL: Final = "seal"
ROOT: Final = "zarr.json"
OWN: Final = '"own": "{}"'  # how the digest of zarr.json stands in it
NO_DIGEST: Final = "0" * 32
CHECKSUM_BYTES: Final = 4
PLAIN: Final = ("int32", "int64", "uint64", "float32")  # what columns are kept as
NO_CHUNK: Final = 2**64 - 1  # stands in a shard's index for a chunk that holds fill values


@contextmanager
def create_store(path: Path, tile_px: int, capacity: int, codec: str) -> Iterator[StoreFile]:
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
            yield _ZarrFile(folder, group, JPEG, Packer())
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
        yield _ZarrFile(folder, group, "tiles", None)


class _ZarrFile:
    """Writes tiles, or their packed bytes, as rows of one array."""

    def __init__(self, folder: Path, group: zarr.Group, name: str, packer: Packer | None) -> None:
        self._folder = folder
        self._group = group
        self._name = name
        self._packer = packer
        self._rows = _Rows(folder / name, group[name].shards[0])

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
            self._group.create_array(
                name, data=values, chunks=values.shape, compressors=None,
                config={"write_empty_chunks": True},
            )  # fmt: skip
        self._group.attrs.put({**attributes, "complete": True})  # in one go, not one by one
        seal_store(self._folder)


class _Rows:
    """Gathers rows to whole shards; one is written in the background while the next fills."""

    def __init__(self, array: Path, shard: int) -> None:
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(array.absolute())},
            "store_data_equal_to_fill_value": True,
        }
        self._array = ts.open(spec, open=True, write=True).result()
        row = self._array.shape[1:]
        self._shard, self._other = (np.empty((shard, *row), np.uint8) for _ in range(2))
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


def seal_store(path: Path) -> None:
    """Give a store digests of its bytes as they are."""
    files = sorted(file for file in path.glob("*/**/*") if file.is_file())
    shards: dict[str, _Shards] = {}
    for name in ("tiles", JPEG):
        if (path / name).is_dir():
            shards |= dict.fromkeys(map(str, (found := _Shards(path, name)).files), found)
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
        tiles = _ZarrTiles(path, _Shards(path, "tiles", shards))
    else:
        stream = _Stream(_Shards(path, JPEG, shards))
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


class _Shards:
    """The chunks of one array, which lie in files of many with an index behind them.

    Nothing is kept open. The indices are read at once, each with its checksum.

    Source: the Zarr v3 specification, codec ``sharding_indexed`` 1.0.

    Attributes:
        shape: Of the array.
        chunk_rows: Rows of a chunk.

    Raises:
        StoreCorruptError: A shard is missing or cut short, or the array was packed by another.
    """

    def __init__(self, path: Path, name: str, sealed: Mapping[str, Any] | None = None) -> None:
        """``sealed`` has each shard's size, its index's digest and its chunks' checksums."""
        self._path = path
        self._array = path / name
        self._sealed = sealed
        try:
            about = json.loads((self._array / "zarr.json").read_text("utf-8"))
            (sharding,) = about["codecs"]
            packing = sharding["configuration"]
            self.shape = tuple(map(int, about["shape"]))
            shard_rows = int(about["chunk_grid"]["configuration"]["chunk_shape"][0])
            self.chunk_rows = int(packing["chunk_shape"][0])
            codecs = [codec["name"] for codec in packing["codecs"]]
            self._chunks = shard_rows // self.chunk_rows
            count = -(-self.shape[0] // shard_rows)
        except (OSError, ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise self._damaged(f"{name}/zarr.json cannot be read ({error})") from error
        self._zstd = "zstd" in codecs
        if sharding["name"] != "sharding_indexed" or codecs not in (
            ["bytes", "crc32c"],
            ["bytes", "zstd", "crc32c"],
        ):
            raise self._damaged(f"{name} was packed by another program")
        within = ["0"] * (len(self.shape) - 1)
        self.files = [self._array.joinpath("c", str(shard), *within) for shard in range(count)]
        self._index: list[NDArray[np.uint64]] = []
        self._checksums: list[bytes] = []
        for file in self.files:
            stored = self._read_index(file)
            if sealed is not None:
                _, digest, checksums = sealed[self._name(file)]
                self._checksums.append(bytes.fromhex(checksums))
                if digest_of(stored) != digest:
                    raise self._damaged(f"{self._name(file)} is another shard than was written")
            self._index.append(np.frombuffer(stored[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2))

    def told(self, name: str) -> tuple[str, str]:
        """Return the digest of a shard's index, and its chunks' checksums, in hexadecimal."""
        file = Path(name)
        shard = self.files.index(file)
        with file.open("rb", buffering=0) as opened:
            checksums = [
                bytes(CHECKSUM_BYTES)
                if offset == NO_CHUNK
                else os.pread(opened.fileno(), CHECKSUM_BYTES, offset + size - CHECKSUM_BYTES)
                for offset, size in self._index[shard].tolist()
            ]
        return digest_of(self._read_index(file)), b"".join(checksums).hex()

    def check(self) -> None:
        """Hold every chunk against its checksum.

        Raises:
            StoreCorruptError: One cannot be read, or is damaged.
        """
        for shard, index in enumerate(self._index):
            with self._reading(shard) as file:
                for place, where in enumerate(index.tolist()):
                    self._read_chunk(file, shard, place, where)

    def fill(self, first: int, out: NDArray[np.uint8]) -> None:
        """Fill the rows of ``out`` (n, bytes of a chunk) with the chunks from ``first`` on.

        Raises:
            StoreCorruptError: One cannot be read, or its checksum is wrong.
        """
        done = 0
        while done < len(out):
            shard, place = divmod(first + done, self._chunks)
            rows = out[done : done + self._chunks - place]
            with self._reading(shard) as file:
                where = self._index[shard][place : place + len(rows)].tolist()
                for row, (n, each) in zip(rows, enumerate(where, place), strict=True):
                    packed = self._read_chunk(file, shard, n, each)
                    if packed is None:
                        row[...] = 0
                    elif not self._zstd:
                        row[...] = np.frombuffer(packed, np.uint8)
                    elif len(imagecodecs.zstd_decode(packed, out=row.data)) != len(row):
                        raise ValueError(f"a chunk is too small at byte {each[0]}")
            done += len(rows)

    @contextmanager
    def _reading(self, shard: int) -> Iterator[FileIO]:
        """Open a shard.

        Raises:
            StoreCorruptError: The block found it damaged.
        """
        try:
            with self.files[shard].open("rb", buffering=0) as file:
                yield file
        except (OSError, ValueError, imagecodecs.ZstdError) as error:
            name = self._name(self.files[shard])
            raise self._damaged(f"tiles in {name} ({error})") from error

    def _read_chunk(self, file: FileIO, shard: int, place: int, where: list[int]) -> bytes | None:
        """Return a chunk as it is packed, None if it was never written.

        Raises:
            ValueError: It is not what was written.
        """
        offset, size = where
        if offset == NO_CHUNK:
            return None
        stored = os.pread(file.fileno(), size, offset)
        packed, checksum = stored[:-CHECKSUM_BYTES], stored[-CHECKSUM_BYTES:]
        if len(stored) != size or not _intact(packed, checksum):
            raise ValueError(f"a checksum is wrong at byte {offset}")
        if self._checksums and checksum != self._checksums[shard][4 * place : 4 * place + 4]:
            raise ValueError(f"another tile than was written at byte {offset}")
        return packed

    def _read_index(self, file: Path) -> bytes:
        """Return a shard's index as it stands there: offsets and sizes, and its checksum."""
        length = 16 * self._chunks + CHECKSUM_BYTES
        try:
            with file.open("rb", buffering=0) as opened:
                end = opened.seek(0, 2)
                opened.seek(max(0, end - length))
                stored = opened.read(length)
        except OSError as error:
            raise self._damaged(f"{self._name(file)} is missing ({error.strerror})") from error
        packed = stored[:-CHECKSUM_BYTES]
        if len(stored) != length or not _intact(packed, stored[-CHECKSUM_BYTES:]):
            raise self._damaged(f"{self._name(file)} is cut short, or its index is damaged")
        return stored

    def _name(self, file: Path) -> str:
        return file.relative_to(self._path).as_posix()

    def _damaged(self, what: str) -> StoreCorruptError:
        return StoreCorruptError(f"{self._path}: damaged: {what}; {AGAIN}")


def _intact(data: bytes, checksum: bytes) -> bool:
    return bool(google_crc32c.value(data) == int.from_bytes(checksum, "little"))


class _ZarrTiles(TileArray):
    def __init__(self, path: Path, shards: _Shards) -> None:
        super().__init__(path, shards.shape[0], shards.shape[1])
        self._shards = shards

    def read_run(self, first: int, out: RgbTiles) -> None:
        self._shards.fill(first, out.reshape(len(out), -1))

    def check(self) -> None:
        self._shards.check()


class _Stream:
    """The bytes of packed tiles."""

    def __init__(self, shards: _Shards) -> None:
        self._shards = shards

    def __len__(self) -> int:
        return self._shards.shape[0]

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        size = self._shards.chunk_rows
        first = start // size
        chunks = np.empty((-(-stop // size) - first, size), np.uint8)
        self._shards.fill(first, chunks)
        return chunks.reshape(-1)[start - first * size : stop - first * size]
