"""Where a tiled TIFF keeps its JPEG or JPEG 2000 tiles, and what sizes these claim to have."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple, Self

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
from wsi_pipeline.slides.tile_codec import (
    HEAD_BYTES,
    JpegTiles,
    decode_jpeg2000,
    expect_jpeg2000,
    jpeg_preamble,
)
from wsi_pipeline.types import RgbImage

Decode = Callable[[bytes, RgbImage], None]  # a tile as stored, and where its pixels go
Box = tuple[int, int, int, int]  # left, top, right, bottom

_JPEG = 7  # TIFF compression "new-style JPEG"; 6 is another thing
_JPEG2000_YCBCR = 33003  # Aperio's; OpenSlide converts it in its own way
_JPEG2000_RGB = 33005
HOLE = bytes(1024)
NATIVE = (_JPEG, _JPEG2000_RGB)
JPEG2000 = (_JPEG2000_YCBCR, _JPEG2000_RGB)
_RGB, _YCBCR = 2, 6  # TIFF photometric interpretation
_NUMBERS = (
    "compression", "photometric", "planarconfig", "samplesperpixel", "imagewidth", "imagelength",
    "tilewidth", "tilelength",
)  # fmt: skip


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
        factor: Tiles are decoded to that fraction of their size; all sizes here are then.
        empty_is_glass: A missing tile is white; else OpenSlide knows what it is.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    columns: int
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    preamble: bytes | None
    factor: int = 1
    empty_is_glass: bool = False

    def corner(self, number: int) -> tuple[int, int]:
        """A tile's left and top, pixels of the level."""
        row, column = divmod(number, self.columns)
        return column * self.tile_width, row * self.tile_height

    @property
    def worth_keeping(self) -> int:
        """Decoded tiles that a neighbouring read may want again.

        Two rows of them: rows of a grid meet on one, and its ends stay behind. Of tiles that are
        read beyond their edges, those that two such rows touch.
        """
        return (4 if self.read_beyond else 2) * self.columns

    @property
    def read_beyond(self) -> bool:
        """Whether a rectangle takes pixels around it too, so that parts of tiles are read twice."""
        return self.preamble is None and self.factor > 1

    def stored(self, files: Sequence[int], number: int) -> bytes:
        """Read a tile as it is in the slide's files, open descriptors; here the only one."""
        return os.pread(files[0], self.byte_counts.item(number), self.offsets.item(number))

    def decoder(self) -> Decode:
        """Make what decodes its tiles; several threads may use it."""
        if self.preamble is None:
            return partial(decode_jpeg2000, factor=self.factor)
        return JpegTiles(self.preamble, self.factor).decode

    def reduced(self, factor: int) -> Self | None:
        """The same tiles at a half, a quarter or an eighth of their size; None where none are."""
        if self.tile_width % factor or self.tile_height % factor:
            return None
        return replace(
            self, width=self.width // factor, height=self.height // factor,
            tile_width=self.tile_width // factor, tile_height=self.tile_height // factor,
            factor=self.factor * factor,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Area:
    """Tiles, and where they lie on their level; what no area covers is glass.

    Attributes:
        table: The tiles.
        left, top: Of the first tile, pixels of the level; may lie outside.
        box: The part of the level that they fill.
    """

    table: TileTable
    left: int = 0
    top: int = 0
    box: Box

    @classmethod
    def whole(cls, table: TileTable) -> Self:
        """Tiles that are the level."""
        return cls(table=table, box=(0, 0, table.width, table.height))


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
    with tiff_pages(path) as pages:
        pages += [below for page in pages for below in _below(page)]
        return tuple(_level_table(pages, wanted, compressions) for wanted in level_dimensions)


@contextmanager
def tiff_pages(path: Path, *, ndpi: bool = False) -> Iterator[list[tifffile.TiffPage]]:
    """The directories of a TIFF, in order; what a library stumbles on in them, too, is told.

    Args:
        path: A TIFF file.
        ndpi: It has the long offsets of an NDPI.

    Raises:
        UnsuitableError: They cannot be read.
    """
    try:
        with tifffile.TiffFile(path, **({"is_ndpi": True} if ndpi else {})) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
            if not pages:
                raise UnsuitableError("it has no directories")
            yield [_require_numbers(page) for page in pages]
    except library_errors() as error:
        raise_own_slip(error)
        raise UnsuitableError(
            f"its directories cannot be read ({reason(error)})", suspicious=True
        ) from error


def _below(page: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    """What hangs below a directory, as OME-TIFF keeps its pyramids."""
    below = [] if page.pages is None else page.pages
    return [_require_numbers(each) for each in below if isinstance(each, tifffile.TiffPage)]


def _require_numbers(page: tifffile.TiffPage) -> tifffile.TiffPage:
    """Refuse a directory of which a tag that is one whole number holds something else.

    Raises:
        UnsuitableError: As said; tifffile hands on whatever a damaged tag holds.
    """
    for name in _NUMBERS:
        if not isinstance(getattr(page, name), int):
            raise UnsuitableError(f"its tag {name} is no whole number", suspicious=True)
    return page


def check_areas(areas: Sequence[Area], size: tuple[int, int]) -> tuple[Area, ...]:
    """Return the areas of a level of ``size``, which must be parts of their tiles and of the level.

    Raises:
        UnsuitableError: They are not, or overlap, so that it matters which is drawn last.
    """
    for area in areas:
        left, top, right, bottom = area.box
        table = area.table
        if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]) or not (
            area.left <= left < right <= area.left + table.width
            and area.top <= top < bottom <= area.top + table.height
        ):
            raise UnsuitableError("an area reaches beyond its tiles or its level")
    for one, other in combinations(areas, 2):
        (x0, y0, x1, y1), (left, top, right, bottom) = one.box, other.box
        if max(x0, left) < min(x1, right) and max(y0, top) < min(y1, bottom):
            raise UnsuitableError("its areas overlap")
    return tuple(areas)


def require_inside(tables: Iterable[TileTable], file_size: int) -> None:
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
    return table_of(matches[0], wanted, compressions)


def table_of(
    page: tifffile.TiffPage,
    size: tuple[int, int],
    compressions: tuple[int, ...] = NATIVE,
    *,
    empty_is_glass: bool = False,
) -> TileTable:
    """The tiles of a directory.

    Args:
        page: The directory.
        size: (width, height) of what is shown of it.
        compressions: Those accepted.
        empty_is_glass: See :class:`TileTable`.

    Raises:
        UnsuitableError: See :func:`read_tile_tables`.
    """
    if not page.is_tiled:
        raise UnsuitableError("its pixels are in strips")
    compression, photometric = int(page.compression), int(page.photometric)
    if compression not in compressions:
        raise UnsuitableError(f"its compression is {page.compression!r}, not JPEG")
    if (page.samplesperpixel, page.bitspersample, int(page.planarconfig)) != (3, 8, 1):
        raise UnsuitableError("its pixels are not 3 × 8 bit, interleaved")
    if photometric != _RGB and (compression, photometric) != (_JPEG, _YCBCR):
        raise UnsuitableError(f"its colours are {page.photometric!r}")
    columns, rows = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    if size[0] > columns * page.tilewidth or size[1] > rows * page.tilelength:
        raise UnsuitableError(f"a level of {size[0]} × {size[1]} px is larger than its tiles")
    offsets = np.asarray(page.dataoffsets, np.int64)
    byte_counts = np.asarray(page.databytecounts, np.int64)
    if not len(offsets) == len(byte_counts) == columns * rows:
        raise UnsuitableError(
            f"{columns} × {rows} tiles need {columns * rows} entries, but the tables hold"
            f" {len(offsets)} offsets and {len(byte_counts)} sizes",
            suspicious=True,
        )
    return TileTable(
        width=size[0],
        height=size[1],
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
        empty_is_glass=empty_is_glass,
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
