"""Where a tiled JPEG TIFF keeps its compressed tiles, and how to make each a whole JPEG."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.slides.reader import LIBRARY_ERRORS, reason

_JPEG = 7  # TIFF compression "new-style JPEG"; 6 is another thing
_RGB, _YCBCR = 2, 6  # TIFF photometric interpretation
_SOI = b"\xff\xd8"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # APP14 up to its transform byte
_SOS, _EOI = 0xDA, 0xD9


class UnsuitableError(Exception):
    """The fast reader does not apply; ``suspicious`` when the file contradicts itself."""

    def __init__(self, text: str, *, suspicious: bool = False) -> None:
        super().__init__(text)
        self.suspicious = suspicious


@dataclass(frozen=True, kw_only=True, eq=False)
class TileTable:
    """One level's tiles.

    Attributes:
        width, height: Of the level, in pixels.
        tile_width, tile_height: Of a native tile.
        columns: Tiles across.
        offsets, byte_counts: (N,) int64, row-major; a byte count of 0 is a missing tile.
        preamble: What every tile lacks to be a whole JPEG: colour marker and shared tables.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    columns: int
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    preamble: bytes


def read_tile_tables(
    path: Path, level_dimensions: tuple[tuple[int, int], ...]
) -> tuple[TileTable, ...]:
    """Find each level's tiles.

    Args:
        path: A TIFF file.
        level_dimensions: (width, height) of the levels; each must belong to one TIFF directory.

    Raises:
        UnsuitableError: A level is not made of 8-bit RGB or YCbCr JPEG tiles, or the tables
            cannot be true.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
            size = path.stat().st_size
            return tuple(_level_table(pages, wanted, size) for wanted in level_dimensions)
    except LIBRARY_ERRORS as error:
        raise UnsuitableError(
            f"its directories cannot be read ({reason(error)})", suspicious=True
        ) from error


def _level_table(
    pages: list[tifffile.TiffPage], wanted: tuple[int, int], file_size: int
) -> TileTable:
    matches = [p for p in pages if p.is_tiled and (p.imagewidth, p.imagelength) == wanted]
    if len(matches) != 1:
        raise UnsuitableError(
            f"{len(matches)} tiled directories have the size {wanted[0]} × {wanted[1]}"
        )
    page = matches[0]
    if int(page.compression) != _JPEG:
        raise UnsuitableError(f"its compression is {page.compression!r}, not JPEG")
    if (page.samplesperpixel, page.bitspersample, int(page.planarconfig)) != (3, 8, 1):
        raise UnsuitableError("its pixels are not 3 × 8 bit, interleaved")
    if int(page.photometric) not in (_RGB, _YCBCR):
        raise UnsuitableError(f"its colours are {page.photometric!r}")
    columns, rows = -(-wanted[0] // page.tilewidth), -(-wanted[1] // page.tilelength)
    offsets = np.asarray(page.dataoffsets, np.int64)
    byte_counts = np.asarray(page.databytecounts, np.int64)
    if not len(offsets) == len(byte_counts) == columns * rows:
        raise UnsuitableError(
            f"{columns} × {rows} tiles need {columns * rows} entries, but the tables hold"
            f" {len(offsets)} offsets and {len(byte_counts)} sizes",
            suspicious=True,
        )
    if (byte_counts < 0).any() or (offsets + byte_counts > file_size).any():
        raise UnsuitableError("some tiles lie beyond the end of the file", suspicious=True)
    transform = b"\x00" if int(page.photometric) == _RGB else b"\x01"
    return TileTable(
        width=wanted[0],
        height=wanted[1],
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        columns=columns,
        offsets=offsets,
        byte_counts=byte_counts,
        preamble=_SOI + _ADOBE + transform + without_app_markers(page.jpegtables or b""),
    )


def whole_jpeg(table: TileTable, tile: bytes) -> bytes:
    """A tile as a JPEG that any decoder shows in the colours the TIFF promises.

    Shared tables and an Adobe marker naming the colour transform go first; the tile's own
    application markers go out, for a JFIF marker would outrank the TIFF's colour tag.

    Raises:
        ValueError: The tile is no JPEG.
    """
    return table.preamble + without_app_markers(tile)


def without_app_markers(stream: bytes) -> bytes:
    """A JPEG stream behind its start marker, without APPn segments and, if only tables, its end.

    Raises:
        ValueError: The stream is no JPEG.
    """
    if not stream:
        return b""
    if stream[:2] != _SOI:
        raise ValueError("a tile does not begin with a JPEG start marker")
    cuts = [2]  # alternately where a kept stretch begins and ends
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            raise ValueError(f"a JPEG marker is expected at byte {at} of a tile")
        marker = stream[at + 1]
        if marker == _SOS:
            break
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if 0xE0 <= marker <= 0xEF:
            cuts += [at, end]
        at = end
    tables_only = stream[at : at + 2] == bytes((0xFF, _EOI))
    cuts.append(at if tables_only else len(stream))
    return b"".join(stream[a:b] for k, (a, b) in enumerate(pairwise(cuts)) if k % 2 == 0)
