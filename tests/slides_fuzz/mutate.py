"""Damage and malice done to TIFF files, seeded."""

import random
import struct
from collections.abc import Callable

HOSTILE = (0, 1, 2, 255, 65535, 1 << 16, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
SIZE_TAGS = (256, 257, 278, 322, 323)  # width, height, rows per strip, tile width and height
OTHER_TAGS = (258, 259, 262, 273, 277, 279, 284, 324, 325, 330, 347, 530, 34675)


def mutate(content: bytes, seed: int) -> bytes:
    """One damaged copy; the same seed gives the same."""
    rng = random.Random(seed)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(MUTATIONS)(data, rng)
    return bytes(data)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 32, 256))):
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(len(data)), rng.choice((1, 8, 100, 5000))
    filling = rng.choice((b"\0", b"\xff", rng.randbytes(1)))
    data[at : at + length] = filling * len(data[at : at + length])


def remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 7, 300))]
    if not data:
        data += b"II*\0"


def hostile_size(data: bytearray, rng: random.Random) -> None:
    """Several sizes at once, so that they agree with each other."""
    value = rng.choice(HOSTILE[4:])
    for entry in _entries(data):
        if entry.tag in SIZE_TAGS and rng.random() < 0.6:
            entry.write(data, value if rng.random() < 0.7 else rng.choice(HOSTILE))


def hostile_tag(data: bytearray, rng: random.Random) -> None:
    entries = [e for e in _entries(data) if e.tag in SIZE_TAGS + OTHER_TAGS]
    if entries:
        rng.choice(entries).write(data, rng.choice(HOSTILE) if rng.random() < 0.8 else 7)


def hostile_count(data: bytearray, rng: random.Random) -> None:
    entries = _entries(data)
    if entries:
        rng.choice(entries).write_count(data, rng.choice(HOSTILE))


def circle(data: bytearray, rng: random.Random) -> None:
    """The list of directories bites its own tail."""
    entries = _entries(data)
    if entries:
        entry = rng.choice(entries)
        entry.write(data, entry.directory)
        struct.pack_into("<I", data, min(entry.end, len(data) - 4), entry.directory)


def hostile_codestream(data: bytearray, rng: random.Random) -> None:
    """JPEG and JPEG 2000 tiles that promise an image of another size."""
    for marker, at, code in ((b"\xff\xc0\x00\x11", 5, ">HH"), (b"\xff\x4f\xff\x51", 8, ">II")):
        found = data.find(marker, rng.randrange(len(data)) // 2)
        if 0 <= found < len(data) - 32:
            most = 65535 if code == ">HH" else (1 << 32) - 1
            sides = [min(rng.choice(HOSTILE), most) for _ in "xy"]
            struct.pack_into(code, data, found + at, *sides)


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    truncate, flip_bits, overwrite, remove, hostile_size, hostile_size, hostile_tag, hostile_tag,
    hostile_count, circle, hostile_codestream,
)  # fmt: skip


class _Entry:
    def __init__(self, at: int, directory: int, end: int, *, big: bool) -> None:
        self.at, self.directory, self.end, self.big = at, directory, end, big
        self.tag = 0

    def write(self, data: bytearray, value: int) -> None:
        kind = 16 if self.big else 4  # whole numbers of the file's own width
        struct.pack_into("<H", data, self.at + 2, kind)
        if self.big:
            struct.pack_into("<Q", data, self.at + 12, value)
        else:
            struct.pack_into("<I", data, self.at + 8, value & 0xFFFFFFFF)

    def write_count(self, data: bytearray, count: int) -> None:
        struct.pack_into("<Q" if self.big else "<I", data, self.at + 4, count & 0xFFFFFFFF)


def _entries(data: bytearray) -> list[_Entry]:
    """The entries of all directories of a little-endian file, as far as they are whole."""
    if len(data) < 16 or data[:2] != b"II":
        return []
    big = data[2] == 43
    offset = struct.unpack_from("<Q", data, 8)[0] if big else struct.unpack_from("<I", data, 4)[0]
    width, head, link = (20, 8, 8) if big else (12, 2, 4)
    entries: list[_Entry] = []
    for _ in range(16):
        if not 0 < offset < len(data) - head:
            break
        count = struct.unpack_from("<Q" if big else "<H", data, offset)[0]
        end = offset + head + count * width
        if count > 100 or end + link > len(data):
            break
        for k in range(count):
            entry = _Entry(offset + head + k * width, offset, end, big=big)
            entry.tag = struct.unpack_from("<H", data, entry.at)[0]
            entries.append(entry)
        offset = struct.unpack_from("<Q" if big else "<I", data, end)[0]
    return entries
