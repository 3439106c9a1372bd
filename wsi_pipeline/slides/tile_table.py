"""Where a tiled TIFF keeps its JPEG or JPEG 2000 tiles, and what sizes these claim to have."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.slides.reader import (
    DamagedError,
    UnsuitableError,
    library_errors,
    raise_own_slip,
    reason,
)
from wsi_pipeline.slides.tiff_header import TiffDirectory, read_directories
from wsi_pipeline.slides.tile_codec import HEAD_BYTES, expect_jpeg2000, jpeg_preamble

_JPEG = 7  # TIFF compression "new-style JPEG"; 6 is another thing
_JPEG2000_YCBCR = 33003  # Aperio's; OpenSlide converts it in its own way
_JPEG2000_RGB = 33005
HOLE = bytes(1024)
NATIVE = (_JPEG, _JPEG2000_RGB)
JPEG2000 = (_JPEG2000_YCBCR, _JPEG2000_RGB)
_RGB, _YCBCR = 2, 6  # TIFF photometric interpretation


@dataclass(frozen=True, kw_only=True, eq=False)
class TileTable:
    """One level's tiles.

    Attributes:
        width, height: Of the level, in pixels.
        tile_width, tile_height: Of a native tile.
        columns: Tiles across.
        offsets, byte_counts: (N,) int64, row-major; a byte count of 0 is a missing tile.
        preamble: What every tile lacks to be a whole JPEG, see ``jpeg_preamble``; None when
            the tiles are JPEG 2000, which lack nothing.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    columns: int
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    preamble: bytes | None

    def corner(self, number: int) -> tuple[int, int]:
        """A tile's left and top, pixels of the level."""
        row, column = divmod(number, self.columns)
        return column * self.tile_width, row * self.tile_height


class Span(NamedTuple):
    """The part of one row, or column, of native tiles that a read covers.

    Attributes:
        number: Of the row or column.
        of_tile: Pixels of the tiles that are covered.
        of_read: Pixels of the rectangle read that they fill.
        pixels: How many those are.
        visible: How many of the tiles' pixels lie inside the level.
    """

    number: int
    of_tile: slice
    of_read: slice
    pixels: int
    visible: int


def read_tile_tables(
    path: Path,
    level_dimensions: tuple[tuple[int, int], ...],
    compressions: tuple[int, ...] = NATIVE,
) -> tuple[TileTable, ...]:
    """Find each level's tiles.

    Args:
        path: A TIFF file.
        level_dimensions: (width, height) of the levels; each must belong to one TIFF directory.
        compressions: Those accepted.

    Raises:
        UnsuitableError: A level is not made of 8-bit JPEG or JPEG 2000 tiles, or the tables
            cannot be true.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
            return tuple(_level_table(pages, wanted, compressions) for wanted in level_dimensions)
    except library_errors() as error:
        raise_own_slip(error)
        raise UnsuitableError(
            f"its directories cannot be read ({reason(error)})", suspicious=True
        ) from error


def require_inside(tables: tuple[TileTable, ...], file_size: int) -> None:
    """Refuse tables that point beyond the file.

    Raises:
        UnsuitableError: As said.
    """
    for table in tables:
        ends = table.offsets + table.byte_counts
        if (table.byte_counts < 0).any() or (ends > file_size).any():
            raise UnsuitableError("some tiles lie beyond the end of the file", suspicious=True)


def _level_table(
    pages: list[tifffile.TiffPage],
    wanted: tuple[int, int],
    compressions: tuple[int, ...],
) -> TileTable:
    matches = [p for p in pages if p.is_tiled and (p.imagewidth, p.imagelength) == wanted]
    if len(matches) != 1:
        raise UnsuitableError(
            f"{len(matches)} tiled directories have the size {wanted[0]} × {wanted[1]}"
        )
    page = matches[0]
    compression, photometric = int(page.compression), int(page.photometric)
    if compression not in compressions:
        raise UnsuitableError(f"its compression is {page.compression!r}, not JPEG")
    if (page.samplesperpixel, page.bitspersample, int(page.planarconfig)) != (3, 8, 1):
        raise UnsuitableError("its pixels are not 3 × 8 bit, interleaved")
    if photometric != _RGB and (compression, photometric) != (_JPEG, _YCBCR):
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
    return TileTable(
        width=wanted[0],
        height=wanted[1],
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        columns=columns,
        offsets=offsets,
        byte_counts=byte_counts,
        preamble=(
            jpeg_preamble(page.jpegtables or b"", rgb=photometric == _RGB)
            if compression == _JPEG
            else None
        ),
    )


def covering(
    table: TileTable, x: int, y: int, width: int, height: int
) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """The rows and the columns of native tiles under a rectangle inside the level."""
    rows = _spans(y, height, table.tile_height, table.height)
    return rows, _spans(x, width, table.tile_width, table.width)


@lru_cache(maxsize=4096)  # a grid of tiles asks for the same rows and columns again and again
def _spans(first: int, length: int, side: int, extent: int) -> tuple[Span, ...]:
    """Cut ``length`` pixels from ``first`` where tiles of ``side`` meet; the level ends at last."""
    spans = []
    for number in range(first // side, (first + length - 1) // side + 1):
        start = number * side
        low, high = max(start, first), min(start + side, first + length)
        spans.append(
            Span(
                number,
                slice(low - start, high - start),
                slice(low - first, high - first),
                high - low,
                min(side, extent - start),
            )
        )
    return tuple(spans)


class Jpeg2000Guard:
    """Looks at JPEG 2000 tiles before OpenSlide takes memory for whatever size they claim.

    Raises:
        UnsuitableError: The tile tables cannot be read.
    """

    def __init__(self, path: Path, level_dimensions: tuple[tuple[int, int], ...]) -> None:
        self._tables = read_tile_tables(path, level_dimensions, JPEG2000)
        self._file = os.open(path, os.O_RDONLY)

    def check(self, level: int, x: int, y: int, width: int, height: int) -> None:
        """Look at the tiles under a rectangle inside the level.

        Raises:
            DamagedError: One is no codestream of a tile's size.
        """
        table = self._tables[level]
        for row, column in product(*covering(table, x, y, width, height)):
            number = row.number * table.columns + column.number
            if table.byte_counts[number]:
                head = os.pread(self._file, HEAD_BYTES, int(table.offsets[number]))
                expect_jpeg2000(head, (table.tile_width, table.tile_height))

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class HoleGuard:
    """Looks for what a bad disk block leaves in JPEG tiles, of which some decoders say nothing.

    A run of so many zero bytes codes for nothing but empty glass.

    Raises:
        UnsuitableError: The tiles are no JPEGs, or their tables cannot be read.
    """

    def __init__(self, path: Path, level_dimensions: tuple[tuple[int, int], ...]) -> None:
        self._tables = read_tile_tables(path, level_dimensions, (_JPEG,))
        self._file = os.open(path, os.O_RDONLY)
        self._damaged: dict[tuple[int, int], bool] = {}

    def check(self, level: int, x: int, y: int, width: int, height: int) -> None:
        """Look at the tiles under a rectangle inside the level.

        Raises:
            DamagedError: There is a hole in one.
        """
        table = self._tables[level]
        for row, column in product(*covering(table, x, y, width, height)):
            number = row.number * table.columns + column.number
            if (level, number) not in self._damaged:
                size, start = int(table.byte_counts[number]), int(table.offsets[number])
                self._damaged[level, number] = HOLE in os.pread(self._file, size, start)
            if self._damaged[level, number]:
                raise DamagedError(f"tile {number} has a hole of {len(HOLE)} or more zero bytes")

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def hole_guard_for(path: Path, level_dimensions: tuple[tuple[int, int], ...]) -> HoleGuard | None:
    """A guard for a local TIFF with JPEG tiles; None for every other file."""
    if not path.is_file():
        return None
    try:
        return HoleGuard(path, level_dimensions)
    except UnsuitableError:
        return None


def guard_for(path: Path, level_dimensions: tuple[tuple[int, int], ...]) -> Jpeg2000Guard | None:
    """A guard for a TIFF with JPEG 2000 tiles; None for every other file."""
    if not path.is_file() or not _any_jpeg2000(read_directories(path)):
        return None
    try:
        return Jpeg2000Guard(path, level_dimensions)
    except UnsuitableError:
        return None


def _any_jpeg2000(directories: Sequence[TiffDirectory]) -> bool:
    return any(directory.compression in JPEG2000 for directory in directories)
