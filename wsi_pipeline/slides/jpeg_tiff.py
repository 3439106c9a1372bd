"""Tiled TIFF and SVS with JPEG or JPEG 2000 tiles, decoded natively without the GIL."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from logging import getLogger
from pathlib import Path
from typing import Self

import numpy as np

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slides.openslide_reader import OpenSlideReader
from wsi_pipeline.slides.overview import reduce_area
from wsi_pipeline.slides.reader import (
    DamagedError,
    ReducedLevel,
    SlideReader,
    UnsuitableError,
    reason,
)
from wsi_pipeline.slides.tile_codec import VERSION, JpegTiles, decode_jpeg2000
from wsi_pipeline.slides.tile_memory import TileMemory
from wsi_pipeline.slides.tile_table import (
    Span,
    TileTable,
    covering,
    read_tile_tables,
    require_inside,
)
from wsi_pipeline.types import RgbImage

VENDORS = ("aperio", "generic-tiff")  # others crop, stitch or overlap their TIFF tiles
REMEMBERED_BYTES = 96 << 20  # at most, of decoded tiles that a neighbouring read will want again
FEW = 32  # native tiles: a read of no more is done before threads would have been told of it

log = getLogger(__name__)


class JpegTiffReader(SlideReader):
    """A slide whose tiles are read from the file and decoded by libjpeg-turbo or OpenJPEG.

    OpenSlide opens it first and stays beside: it tells the metadata and the associated images,
    and delivers any tile that is missing or does not decode cleanly. Where OpenSlide does not
    interpolate, the pixels are the same to the bit; on levels whose downsample is no whole
    number they are the level's own pixels, where OpenSlide's lie between them.

    Args:
        path: A tiled TIFF.
        threads: Tiles decoded at a time within one ``read``, if it is a large one.

    Raises:
        SlideOpenError: OpenSlide cannot open it.
        UnsuitableError: Its tiles are of other kinds, or a probe differs from OpenSlide's pixels.
    """

    decodes_once = True

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self._openslide = OpenSlideReader(path)
        try:
            info = self._openslide.info
            if info.vendor not in VENDORS:
                raise UnsuitableError(f"the format is {info.vendor}")
            tables = read_tile_tables(Path(path), info.level_dimensions)
            require_inside(tables, Path(path).stat().st_size)
        except UnsuitableError:
            self._openslide.close()
            raise
        self._levels = tuple(_Native.of(level, table) for level, table in enumerate(tables))
        self._reduced: dict[tuple[int, int], _Native] = {}
        version = f"{VERSION}, openslide {info.reader_version}"
        self.info = replace(info, reader="jpeg-tiff", reader_version=version)
        self._file = os.open(path, os.O_RDONLY)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._complained = False
        try:
            self._probe()
        except UnsuitableError:
            self.close()
            raise

    def read_inside(self, level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        rgb = np.empty((height, width, 3), np.uint8)
        self._fill(self._levels[level], x, y, rgb)
        return rgb

    def read_into(self, level: int, x: int, y: int, out: RgbImage) -> None:
        width, height = self.info.level_dimensions[level] if level < len(self._levels) else (0, 0)
        inside = 0 <= x <= width - out.shape[1] and 0 <= y <= height - out.shape[0]
        if level < 0 or not inside or self.recolour is not None:
            super().read_into(level, x, y, out)
        else:
            self._fill(self._levels[level], x, y, out)

    def reduced(self, level: int, factor: int) -> ReducedLevel | None:
        """A level decoded straight to a half, a quarter or an eighth of its size.

        Returns:
            None where that cannot be: JPEG 2000, native tiles that do not divide, or colours that
            are to be changed, which is done on the level's own pixels.
        """
        native = self._levels[level]
        divides = native.table.tile_width % factor == native.table.tile_height % factor == 0
        if native.table.preamble is None or not divides or self.recolour is not None:
            return None
        reduced = self._reduced.setdefault((level, factor), _Native.of(level, native.table, factor))
        return ReducedLevel(self, lambda x, y, out: self._fill(reduced, x, y, out))

    def _fill(self, native: "_Native", x: int, y: int, rgb: RgbImage) -> None:
        """Fill a rectangle that lies inside the level."""
        rows, columns = covering(native.table, x, y, rgb.shape[1], rgb.shape[0])
        if self._pool is None or len(rows) * len(columns) <= FEW:
            for row in rows:
                self._copy(native, row, columns, rgb)
        else:
            places = product(rows, columns)
            list(self._pool.map(lambda at: self._copy(native, at[0], at[1:], rgb), places))

    def read_associated(self, name: str) -> RgbImage:
        return self._openslide.associated_image(name)

    def icc_profile(self) -> bytes:
        return self._openslide.icc_profile()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        for native in (*self._levels, *self._reduced.values()):
            native.memory.clear()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._openslide.close()

    def _copy(self, native: "_Native", row: Span, columns: Sequence[Span], rgb: RgbImage) -> None:
        """Copy what a rectangle has of a row of native tiles."""
        before = row.number * native.table.columns
        for column in columns:
            number = before + column.number
            tile, known = native.memory.take(number)
            if known or self._decoded_whole(native, number, tile):
                pixels = tile
                copied, whole = row.pixels * column.pixels, row.visible * column.visible
            else:
                pixels = self._tile_by_openslide(native, number)
                copied = whole = 0
            rgb[row.of_read, column.of_read] = pixels[row.of_tile, column.of_tile]
            native.memory.give_back(number, tile, copied, whole)

    def _decoded_whole(self, native: "_Native", number: int, out: RgbImage) -> bool:
        """Decode a native tile into ``out``; False if it is missing or damaged."""
        if not native.table.byte_counts.item(number):
            return False
        try:
            self._decode(native, number, out)
        except (DamagedError, OSError) as error:
            self._complain(f"tile {number} of level {native.level}: {reason(error)}")
            return False
        return True

    def _decode(self, native: "_Native", number: int, out: RgbImage) -> None:
        """Decode a native tile into ``out``, which has its size."""
        table = native.table
        begun = time.perf_counter()
        stored = os.pread(self._file, table.byte_counts.item(number), table.offsets.item(number))
        self.file_s += time.perf_counter() - begun
        native.decode(stored, out)

    def _tile_by_openslide(self, native: "_Native", number: int) -> RgbImage:
        table, factor = native.table, native.factor
        (x, y), size = table.corner(number), (table.tile_width, table.tile_height)
        whole = self._openslide.read(native.level, *(each * factor for each in (x, y, *size)))
        return whole if factor == 1 else reduce_area(whole, factor)

    def _complain(self, text: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("%s: read through OpenSlide instead: %s", self.info.path, text)

    def _probe(self) -> None:
        """Compare tiles with OpenSlide's: the fullest of level 0, the first of each other level.

        These are the places where OpenSlide never interpolates.
        """
        for native in self._levels:
            level, table = native.level, native.table
            index = int(table.byte_counts.argmax()) if level == 0 else 0
            if table.byte_counts[index] == 0:
                continue
            x, y = table.corner(index)
            width, height = (
                min(table.tile_width, table.width - x),
                min(table.tile_height, table.height - y),
            )
            ours = np.empty((table.tile_height, table.tile_width, 3), np.uint8)
            try:
                self._decode(native, index, ours)
                theirs = self._openslide.read(level, x, y, width, height)
            except (DamagedError, OSError, SlideReadError) as error:
                raise UnsuitableError(
                    f"tile {index} of level {level} does not decode ({reason(error)})",
                    suspicious=True,
                ) from error
            if not np.array_equal(ours[:height, :width], theirs):
                raise UnsuitableError(
                    f"tile {index} of level {level} differs from OpenSlide's", suspicious=True
                )


@dataclass(frozen=True, kw_only=True)
class _Native:
    """A level's native tiles, decoded to a ``factor``-th of their size; ``table`` has that size."""

    level: int
    factor: int
    table: TileTable
    decode: Callable[[bytes, RgbImage], None]
    memory: TileMemory

    @classmethod
    def of(cls, level: int, table: TileTable, factor: int = 1) -> Self:
        table = replace(
            table, width=table.width // factor, height=table.height // factor,
            tile_width=table.tile_width // factor, tile_height=table.tile_height // factor,
        )  # fmt: skip
        preamble = table.preamble
        decode = decode_jpeg2000 if preamble is None else JpegTiles(preamble, factor).decode
        return cls(level=level, factor=factor, table=table, decode=decode, memory=_memory(table))


def _memory(table: TileTable) -> TileMemory:
    """Room for two rows of native tiles: rows of a grid meet on one, and its ends stay behind."""
    most = REMEMBERED_BYTES // (table.tile_width * table.tile_height * 3)
    return TileMemory(table.tile_width, table.tile_height, min(2 * table.columns, most))
