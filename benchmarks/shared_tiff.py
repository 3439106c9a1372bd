"""A tiled TIFF whose equal tiles share their bytes, which no library writes."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

ASCII: Final = 2
SHORT: Final = 3
LONG: Final = 4
TYPES: Final = {SHORT: "<u2", LONG: "<u4"}
JPEG: Final = 7
YCBCR: Final = 6


@dataclass(frozen=True, kw_only=True)
class SharedLevel:
    """One level.

    Attributes:
        side: Width and height, px.
        tile_px: Side of a tile.
        tiles: JPEG streams, YCbCr with 4:2:0.
        places: (rows, columns) int64: which of the ``tiles`` lies there.
        description: What the directory says.
    """

    side: int
    tile_px: int
    tiles: Sequence[bytes]
    places: NDArray[np.int64]
    description: str


def write_tiff(path: Path, levels: Sequence[SharedLevel]) -> None:
    """Write a classic TIFF: each level's streams, then its directory."""
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, 0))
        link = 4  # where the next directory's place is to be written
        for level in levels:
            starts = np.cumsum([file.tell(), *map(len, level.tiles)])[:-1]
            file.write(b"".join(level.tiles))
            link = _write_directory(file, link, level, starts)


def _write_directory(
    file: BinaryIO, link: int, level: SharedLevel, starts: NDArray[np.int64]
) -> int:
    places = level.places.ravel()
    sizes = np.array([len(tile) for tile in level.tiles])
    tags = {
        254: (LONG, _packed(LONG, [0])),
        256: (LONG, _packed(LONG, [level.side])),
        257: (LONG, _packed(LONG, [level.side])),
        258: (SHORT, _packed(SHORT, [8, 8, 8])),
        259: (SHORT, _packed(SHORT, [JPEG])),
        262: (SHORT, _packed(SHORT, [YCBCR])),
        270: (ASCII, level.description.encode() + b"\0"),
        277: (SHORT, _packed(SHORT, [3])),
        284: (SHORT, _packed(SHORT, [1])),
        322: (SHORT, _packed(SHORT, [level.tile_px])),
        323: (SHORT, _packed(SHORT, [level.tile_px])),
        324: (LONG, _packed(LONG, starts[places])),
        325: (LONG, _packed(LONG, sizes[places])),
        530: (SHORT, _packed(SHORT, [2, 2])),
    }
    entries = b""
    for code, (kind, data) in tags.items():
        count = len(data) // (1 if kind == ASCII else np.dtype(TYPES[kind]).itemsize)
        if len(data) > 4:  # too long for the entry itself
            data = struct.pack("<I", _append(file, data))
        entries += struct.pack("<HHI4s", code, kind, count, data.ljust(4, b"\0"))
    start = _append(file, struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))
    file.seek(link)
    file.write(struct.pack("<I", start))
    file.seek(0, 2)
    return start + 2 + len(entries)


def _packed(kind: int, values: Sequence[int] | NDArray[np.int64]) -> bytes:
    return np.asarray(values, TYPES[kind]).tobytes()


def _append(file: BinaryIO, data: bytes) -> int:
    """Write at the end, at an even place as TIFF has it; return the place."""
    end = file.seek(0, 2)
    file.write(b"\0" * (end % 2) + data)
    return end + end % 2
