"""Arrays of a Zarr v3 store in shards: files of many chunks with an index behind them.

Both halves are ours. What zarr-python writes and reads is the same, to the byte; but it takes
milliseconds a chunk, and tensorstore, which is fast, packs by threads of its own what has long left
the cache, and ends a process that was forked after it had been used, as workers of a ``DataLoader``
are. Here a chunk is packed by whoever made it, and written as it comes.

Source: the Zarr v3 specification, codec ``sharding_indexed`` 1.0.
"""

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Any, Final, Self

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.digests import digest_of
from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.tiles.store import AGAIN

CHECKSUM_BYTES: Final = 4
BEHIND: Final = 4  # full shards that the disk may still owe
NO_CHUNK: Final = 2**64 - 1  # stands in a shard's index for a chunk that holds fill values


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How the chunks of an array lie in its shards.

    Attributes:
        row: Shape of one row of the array; ``()`` where it is a stream of bytes.
        chunk: Rows in a chunk.
        shard: Chunks in a shard.
        zstd: Level of compression; None leaves chunks as they are.
        names: Of the dimensions.
    """

    row: tuple[int, ...]
    chunk: int
    shard: int
    zstd: int | None = None
    names: Sequence[str] = ()

    def document(self, rows: int) -> dict[str, Any]:
        """Return what ``zarr.json`` says of an array of so many rows, uint8."""
        zstd = [] if self.zstd is None else [_codec("zstd", level=self.zstd, checksum=False)]
        sharding = _codec(
            "sharding_indexed",
            chunk_shape=[self.chunk, *self.row],
            codecs=[_codec("bytes"), *zstd, _codec("crc32c")],
            index_codecs=[_codec("bytes", endian="little"), _codec("crc32c")],
            index_location="end",
        )
        shape = [self.chunk * self.shard, *self.row]
        return array_document("uint8", [rows, *self.row], shape, [sharding], self.names)


def array_document(
    data_type: str,
    shape: Sequence[int],
    chunk: Sequence[int],
    codecs: Sequence[Any] = (),
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what ``zarr.json`` says of an array, in the words and the order of zarr-python 3.1."""
    return {
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": _codec("regular", chunk_shape=list(chunk)),
        "chunk_key_encoding": _codec("default", separator="/"),
        "fill_value": 0.0 if data_type.startswith("float") else 0,
        "codecs": list(codecs) or [_codec("bytes", endian="little")],
        "attributes": {},
        **({"dimension_names": list(names)} if names else {}),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def write_array(array: Path, values: NDArray[Any]) -> None:
    """Write an array that is one chunk, as it is."""
    values = np.asarray(values, values.dtype.newbyteorder("<"))
    path = array.joinpath("c", *["0"] * values.ndim)
    path.parent.mkdir(parents=True)
    path.write_bytes(values.tobytes())
    text = json.dumps(array_document(values.dtype.name, values.shape, values.shape), indent=2)
    (array / "zarr.json").write_text(text, "utf-8")


def _codec(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, **({"configuration": configuration} if configuration else {})}


def chunk_of(packed: bytes) -> bytes:
    """Return a chunk as it stands in a shard: its packed bytes and their checksum."""
    checksum = google_crc32c.value(packed)
    return b"".join((packed, checksum.to_bytes(CHECKSUM_BYTES, "little")))


class ShardWriter:
    """Writes an array's chunks one after the other, so many to a file.

    A file that is full goes to the disk while the next one fills.
    """

    def __init__(self, array: Path, packing: Packing) -> None:
        self._array = array
        self._packing = packing
        self._index: list[tuple[int, int]] = []
        self._file: BufferedWriter | None = None
        self._count = 0  # of shards
        self._at = 0
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="sync-shards")
        self._syncing: deque[Future[None]] = deque()
        array.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._disk.shutdown()

    def write(self, chunk: bytes) -> None:
        """Add a chunk, see :func:`chunk_of`.

        Raises:
            OSError: The disk refuses.
        """
        file = self._file or self._begin()
        file.write(chunk)
        self._index.append((self._at, len(chunk)))
        self._at += len(chunk)
        if len(self._index) == self._packing.shard:
            self._end(file)

    def finish(self, rows: int) -> None:
        """Write what is left, and what the array says of itself: it has so many rows.

        Raises:
            OSError: The disk refuses.
        """
        if self._file is not None:
            self._end(self._file)
        for each in self._syncing:
            each.result()
        text = json.dumps(self._packing.document(rows), indent=2)
        (self._array / "zarr.json").write_text(text, "utf-8")

    def _begin(self) -> BufferedWriter:
        within = ["0"] * len(self._packing.row)
        path = self._array.joinpath("c", str(self._count), *within)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        return self._file

    def _end(self, file: BufferedWriter) -> None:
        index = np.full((self._packing.shard, 2), NO_CHUNK, "<u8")
        index[: len(self._index)] = self._index
        file.write(chunk_of(index.tobytes()))
        self._syncing.append(self._disk.submit(_to_disk, file))
        while len(self._syncing) > BEHIND or (self._syncing and self._syncing[0].done()):
            self._syncing.popleft().result()
        self._file, self._index, self._at = None, [], 0
        self._count += 1


def _to_disk(file: BufferedWriter) -> None:
    with file:
        file.flush()
        os.fsync(file.fileno())


class Shards:
    """The chunks of one array, to be read.

    Nothing is kept open. The indices are read at once, each with its checksum.

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
