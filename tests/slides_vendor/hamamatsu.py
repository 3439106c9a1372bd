"""A Hamamatsu NDPI: a TIFF with 64-bit links between its directories, a JPEG a level."""

import struct
from pathlib import Path

from slides_vendor.picture import jpeg, level_of

ASCII, SHORT, LONG, RATIONAL, SIGNED, FLOAT = 2, 3, 4, 5, 9, 11
Entry = tuple[int, int, int, bytes]  # tag, type, count, value


def write_ndpi(path: Path, mpp: float = 0.5, steps: tuple[int, ...] = (1, 2, 4)) -> None:
    """Write a level for each of ``steps``, and a macro image."""
    data = bytearray(b"II*\0" + bytes(8))
    link = 4  # where the next directory's place is written, as 64 bits
    for step, lens in [*((step, 20.0 / step) for step in steps), (8, -1.0)]:
        rgb = level_of(step)
        stored = jpeg(rgb)
        strip = _append(data, stored)
        resolution = _append(data, struct.pack("<II", round(10_000 / (mpp * step) * 100), 100))
        make = _append(data, b"Hamamatsu\0")
        model = _append(data, b"NanoZoomer\0")
        entries = [
            _long(254, 0), _long(256, rgb.shape[1]), _long(257, rgb.shape[0]),
            _short(259, 7), _short(262, 6),
            (271, ASCII, 10, struct.pack("<I", make)), (272, ASCII, 11, struct.pack("<I", model)),
            _long(273, strip), _short(277, 3), _long(278, rgb.shape[0]), _long(279, len(stored)),
            (282, RATIONAL, 1, struct.pack("<I", resolution)),
            (283, RATIONAL, 1, struct.pack("<I", resolution)), _short(296, 3),
            _long(65420, 1), (65421, FLOAT, 1, struct.pack("<f", lens)),
            *((tag, SIGNED, 1, bytes(4)) for tag in (65422, 65423, 65424)),  # offsets
        ]  # fmt: skip
        place = _append(data, b"")
        struct.pack_into("<Q", data, link, place)
        data += struct.pack("<H", len(entries))
        for tag, kind, count, value in entries:
            data += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
        link = len(data)
        data += bytes(8 + 4 * len(entries))  # no next one yet; then the high words of all values
    path.write_bytes(data)


def _append(data: bytearray, more: bytes) -> int:
    data += bytes(-len(data) % 8)
    place = len(data)
    data += more
    return place


def _long(tag: int, value: int) -> Entry:
    return tag, LONG, 1, struct.pack("<I", value)


def _short(tag: int, value: int) -> Entry:
    return tag, SHORT, 1, struct.pack("<H", value)
