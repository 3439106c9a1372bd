"""Digests of bytes, and the seal that a file carries behind its own contents.

XXH3 finds damage, not malice, at some 10 GB/s. A seal is one piece with its file: written before
the file takes its place, moved and copied along, and read before any library parses the contents,
which could hang on damaged ones. HDF5 does not look behind the end that it has noted itself.

A sealed file is ``contents | seal | 8 bytes: length of the seal | 16 bytes: its digest | mark``.
The seal is JSON. Large parts of equal size, such as tiles, have digests of their own and are
checked when they are read; all the rest is checked when the file is opened.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError

MARK: Final = b"wsi-seal"
LENGTH_BYTES: Final = 8
DIGEST_BYTES: Final = 16
FOOTER_BYTES: Final = LENGTH_BYTES + DIGEST_BYTES + len(MARK)
BLOCK: Final = 1 << 20  # bytes read at once: they stay in the processor's cache


def digest_of(data: bytes | memoryview) -> str:
    """Return the XXH3 digest of 128 bits as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(data)


def part_digest(data: bytes | memoryview) -> int:
    """Return the XXH3 digest of 64 bits, of a part among many."""
    return xxhash.xxh3_64_intdigest(data)


def file_digest(path: Path) -> str:
    """Return the digest of a file's bytes.

    Raises:
        OSError: It cannot be read.
    """
    return _digest_of_spans(path, [(0, path.stat().st_size)])


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts of a file with digests of their own.

    Attributes:
        offsets: (n,) int64, where they begin, ascending.
        size: Of each, bytes.
        digests: (n,) uint64.
    """

    offsets: NDArray[np.int64]
    size: int
    digests: NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What a file's bytes were when it was written.

    Attributes:
        body: Bytes of its contents.
        digest: Of all contents but the parts.
        parts: None where there are none.
    """

    body: int
    digest: str
    parts: Parts | None = None

    def rest(self) -> Iterator[tuple[int, int]]:
        """Yield where all contents but the parts begin and end."""
        done = 0
        for offset in [] if self.parts is None else self.parts.offsets.tolist():
            if offset > done:
                yield done, offset
            done = offset + (self.parts.size if self.parts else 0)
        if done < self.body:
            yield done, self.body

    def to_bytes(self) -> bytes:
        """Return the seal as it stands behind the contents."""
        told: dict[str, Any] = {"body": self.body, "digest": self.digest}
        if self.parts is not None:
            told["parts"] = {
                "size": self.parts.size,
                "offsets": np.ascontiguousarray(self.parts.offsets, "<i8").tobytes().hex(),
                "digests": np.ascontiguousarray(self.parts.digests, "<u8").tobytes().hex(),
            }
        text = json.dumps(told).encode()
        own = xxhash.xxh3_128_digest(text)
        return text + len(text).to_bytes(LENGTH_BYTES, "little") + own + MARK


def seal_file(path: Path, offsets: Iterable[int] = (), size: int = 0) -> None:
    """Seal a finished file, which nobody reads yet.

    Args:
        path: The file.
        offsets: Where its parts begin; each has a digest of its own.
        size: Of each part, bytes.
    """
    body = path.stat().st_size
    places = np.array(sorted(offsets), np.int64)
    parts = None
    if len(places):
        digests = np.array(list(_part_digests(path, places, size)), np.uint64)
        parts = Parts(offsets=places, size=size, digests=digests)
    open_seal = Seal(body=body, digest="", parts=parts)
    seal = Seal(body=body, digest=_digest_of_spans(path, open_seal.rest()), parts=parts)
    with path.open("ab") as file:
        file.write(seal.to_bytes())


def read_seal(path: Path) -> Seal | None:
    """Return a file's seal; None where there is no mark of one.

    Raises:
        StoreCorruptError: The seal itself is damaged, or does not end the file that it was made of.
        OSError: The file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        footer = _footer(file)
        if footer is None:
            return None
        length = int.from_bytes(footer[:LENGTH_BYTES], "little")
        begin = file.tell() - FOOTER_BYTES - length
        file.seek(max(0, begin))
        text = file.read(length) if begin >= 0 else b""
    if xxhash.xxh3_128_digest(text) != footer[LENGTH_BYTES : LENGTH_BYTES + DIGEST_BYTES]:
        raise StoreCorruptError(f"{path}: damaged: its digests are themselves")
    told = json.loads(text)
    if told["body"] != begin:
        raise StoreCorruptError(
            f"{path}: damaged: {begin} bytes where {told['body']} had been written"
        )
    if (parts := told.get("parts")) is not None:
        parts = Parts(
            offsets=np.frombuffer(bytes.fromhex(parts["offsets"]), "<i8"),
            size=parts["size"],
            digests=np.frombuffer(bytes.fromhex(parts["digests"]), "<u8"),
        )
    return Seal(body=told["body"], digest=told["digest"], parts=parts)


def check_rest(path: Path, seal: Seal) -> None:
    """Hold all contents but the parts against the seal.

    Raises:
        StoreCorruptError: They are others.
        OSError: The file cannot be read.
    """
    if _digest_of_spans(path, seal.rest()) != seal.digest:
        raise StoreCorruptError(f"{path}: damaged: its bytes are not those that were written")


def damaged_parts(path: Path, seal: Seal) -> list[int]:
    """Return the positions of the parts that are not what they were."""
    if seal.parts is None:
        return []
    found = _part_digests(path, seal.parts.offsets, seal.parts.size)
    pairs = zip(found, seal.parts.digests.tolist(), strict=True)
    return [position for position, (now, then) in enumerate(pairs) if now != then]


def artifact_digest(path: Path) -> str:
    """Return what tells a file from every other, without reading all of a sealed one.

    The digest of a sealed file is that of its seal, which holds the digests of its contents.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        footer = _footer(file)
    if footer is None:
        return file_digest(path)
    return footer[LENGTH_BYTES : LENGTH_BYTES + DIGEST_BYTES].hex()


def _footer(file: FileIO) -> bytes | None:
    """Read what ends a sealed file, and the file to its end; None where there is no mark."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - FOOTER_BYTES))
    footer = file.read(FOOTER_BYTES)
    return footer if len(footer) == FOOTER_BYTES and footer.endswith(MARK) else None


def _part_digests(path: Path, offsets: NDArray[np.int64], size: int) -> Iterator[int]:
    buffer = memoryview(bytearray(size))
    with path.open("rb", buffering=0) as file:
        for offset in offsets.tolist():
            count = os.preadv(file.fileno(), [buffer], offset)
            yield part_digest(buffer[:count])


def _digest_of_spans(path: Path, spans: Iterable[tuple[int, int]]) -> str:
    """Return the digest of the bytes from each begin to each end, one after the other."""
    found = xxhash.xxh3_128()
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        for begin, end in spans:
            while begin < end:
                count = os.preadv(file.fileno(), [buffer[: min(BLOCK, end - begin)]], begin)
                if not count:
                    break
                found.update(buffer[:count])
                begin += count
    return found.hexdigest()
