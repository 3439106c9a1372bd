"""A Hamamatsu NDPI: a TIFF with 64-bit links between its directories, a JPEG a level."""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from slides_vendor.picture import PICTURE, jpeg

from wsi_pipeline.types import RgbImage

ASCII, SHORT, LONG, RATIONAL, SIGNED, FLOAT = 2, 3, 4, 5, 9, 11
Entry = tuple[int, int, int, bytes]  # tag, type, count, value


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """How levels are cut into restart intervals.

    Attributes:
        across: Intervals beside each other.
        subsampling: Of the colours, as Pillow names it.
        table: The file says where the intervals begin.
        smallest: Levels from this step on are JPEGs without markers, as scanners store them.
    """

    across: int
    subsampling: str = "4:4:4"
    table: bool = True
    smallest: int = 99


def write_ndpi(
    path: Path,
    mpp: float = 0.5,
    steps: tuple[int, ...] = (1, 2, 4),
    *,
    restarts: Restarts | None = None,
    rgb: RgbImage = PICTURE,
) -> None:
    """Write a level for each of ``steps``, a focal plane of level 0 besides, and a macro image."""
    data = bytearray(b"II*\0" + bytes(8))
    link = 4  # where the next directory's place is written, as 64 bits
    levels = [(step, 20.0 / step, 0) for step in steps]
    for step, lens, focus in [levels[0], (1, 20.0, 100), *levels[1:], (8, -1.0, 0)]:
        pixels = np.ascontiguousarray(rgb[::step, ::step] if not focus else rgb[::-1])
        cut = restarts if lens > 0 and restarts and step < restarts.smallest else None
        stored = jpeg(pixels) if cut is None else _with_restarts(pixels, cut)
        strip = _append(data, stored)
        resolution = _append(data, struct.pack("<II", round(10_000 / (mpp * step) * 100), 100))
        make = _append(data, b"Hamamatsu\0")
        model = _append(data, b"NanoZoomer\0")
        starts = _interval_starts(stored) if cut is not None and cut.table else []
        listed = _append(data, struct.pack(f"<{len(starts)}I", *starts))
        entries = [
            _long(254, 0), _long(256, pixels.shape[1]), _long(257, pixels.shape[0]),
            _short(259, 7), _short(262, 6),
            (271, ASCII, 10, struct.pack("<I", make)), (272, ASCII, 11, struct.pack("<I", model)),
            _long(273, strip), _short(277, 3), _long(278, pixels.shape[0]),
            _long(279, len(stored)), (282, RATIONAL, 1, struct.pack("<I", resolution)),
            (283, RATIONAL, 1, struct.pack("<I", resolution)), _short(296, 3),
            _long(65420, 1), (65421, FLOAT, 1, struct.pack("<f", lens)),
            *((tag, SIGNED, 1, bytes(4)) for tag in (65422, 65423)),  # offsets
            (65424, SIGNED, 1, struct.pack("<i", focus)),
            *([(65426, LONG, len(starts), struct.pack("<I", listed))] if starts else []),
        ]  # fmt: skip
        place = _append(data, b"")
        struct.pack_into("<Q", data, link, place)
        data += struct.pack("<H", len(entries))
        for tag, kind, count, value in entries:
            data += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
        link = len(data)
        data += bytes(8 + 4 * len(entries))  # no next one yet; then the high words of all values
    path.write_bytes(data)


def _with_restarts(rgb: RgbImage, cut: Restarts) -> bytes:
    """A JPEG of as many intervals across; the picture must divide into them."""
    mcu = 8 if cut.subsampling == "4:4:4" else 16
    blocks, odd = divmod(rgb.shape[1], cut.across * mcu)
    assert not odd
    out = io.BytesIO()
    Image.fromarray(rgb).save(
        out, "JPEG", quality=85, subsampling=cut.subsampling, restart_marker_blocks=blocks
    )
    return out.getvalue()


def _interval_starts(stored: bytes) -> list[int]:
    """Where the samples begin, and behind each restart marker."""
    at = 2
    while stored[at + 1] != 0xDA:
        at += 2 + int.from_bytes(stored[at + 2 : at + 4])
    first = at + 2 + int.from_bytes(stored[at + 2 : at + 4])
    coded = np.frombuffer(stored, np.uint8)
    marks = np.flatnonzero((coded[first:-1] == 0xFF) & (coded[first + 1 :] & 0xF8 == 0xD0))
    return [first, *(int(mark) + first + 2 for mark in marks)]


def _append(data: bytearray, more: bytes) -> int:
    data += bytes(-len(data) % 8)
    place = len(data)
    data += more
    return place


def _long(tag: int, value: int) -> Entry:
    return tag, LONG, 1, struct.pack("<I", value)


def _short(tag: int, value: int) -> Entry:
    return tag, SHORT, 1, struct.pack("<H", value)
