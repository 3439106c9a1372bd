"""Tiled TIFF and SVS with JPEG or JPEG 2000 tiles, decoded natively without the GIL."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from logging import getLogger
from pathlib import Path

import numpy as np

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slides.openslide_reader import OpenSlideReader
from wsi_pipeline.slides.reader import DamagedError, SlideReader, UnsuitableError, reason
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
            self._tables = read_tile_tables(Path(path), info.level_dimensions)
            require_inside(self._tables, Path(path).stat().st_size)
        except UnsuitableError:
            self._openslide.close()
            raise
        self._decoders = tuple(map(_decoder, self._tables))
        version = f"{VERSION}, openslide {info.reader_version}"
        self.info = replace(info, reader="jpeg-tiff", reader_version=version)
        self._file = os.open(path, os.O_RDONLY)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._decoded = tuple(map(_memory, self._tables))
        self._complained = False
        try:
            self._probe()
        except UnsuitableError:
            self.close()
            raise

    def read_inside(self, level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        rgb = np.empty((height, width, 3), np.uint8)
        self._fill(level, x, y, rgb)
        return rgb

    def read_into(self, level: int, x: int, y: int, out: RgbImage) -> None:
        width, height = self.info.level_dimensions[level] if level < len(self._tables) else (0, 0)
        inside = 0 <= x <= width - out.shape[1] and 0 <= y <= height - out.shape[0]
        if level < 0 or not inside or self.recolour is not None:
            super().read_into(level, x, y, out)
        else:
            self._fill(level, x, y, out)

    def _fill(self, level: int, x: int, y: int, rgb: RgbImage) -> None:
        """Fill a rectangle that lies inside the level."""
        rows, columns = covering(self._tables[level], x, y, rgb.shape[1], rgb.shape[0])
        if self._pool is None or len(rows) * len(columns) <= FEW:
            for row in rows:
                self._copy(level, row, columns, rgb)
        else:
            places = product(rows, columns)
            list(self._pool.map(lambda at: self._copy(level, at[0], at[1:], rgb), places))

    def read_associated(self, name: str) -> RgbImage:
        return self._openslide.associated_image(name)

    def icc_profile(self) -> bytes:
        return self._openslide.icc_profile()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        for memory in self._decoded:
            memory.clear()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._openslide.close()

    def _copy(self, level: int, row: Span, columns: Sequence[Span], rgb: RgbImage) -> None:
        """Copy what a rectangle has of a row of native tiles."""
        memory = self._decoded[level]
        before = row.number * self._tables[level].columns
        for column in columns:
            number = before + column.number
            tile, known = memory.take(number)
            if known or self._decoded_whole(level, number, tile):
                pixels = tile
                copied, whole = row.pixels * column.pixels, row.visible * column.visible
            else:
                pixels = self._tile_by_openslide(level, number)
                copied = whole = 0
            rgb[row.of_read, column.of_read] = pixels[row.of_tile, column.of_tile]
            memory.give_back(number, tile, copied, whole)

    def _decoded_whole(self, level: int, number: int, out: RgbImage) -> bool:
        """Decode a native tile into ``out``; False if it is missing or damaged."""
        if not self._tables[level].byte_counts.item(number):
            return False
        try:
            self._decode(level, number, out)
        except (DamagedError, OSError) as error:
            self._complain(f"tile {number} of level {level}: {reason(error)}")
            return False
        return True

    def _decode(self, level: int, number: int, out: RgbImage) -> None:
        """Decode a native tile into ``out``, which has its size."""
        table = self._tables[level]
        begun = time.perf_counter()
        stored = os.pread(self._file, table.byte_counts.item(number), table.offsets.item(number))
        self.file_s += time.perf_counter() - begun
        self._decoders[level](stored, out)

    def _tile_by_openslide(self, level: int, number: int) -> RgbImage:
        table = self._tables[level]
        x, y = table.corner(number)
        return self._openslide.read(level, x, y, table.tile_width, table.tile_height)

    def _complain(self, text: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("%s: read through OpenSlide instead: %s", self.info.path, text)

    def _probe(self) -> None:
        """Compare tiles with OpenSlide's: the fullest of level 0, the first of each other level.

        These are the places where OpenSlide never interpolates.
        """
        for level, table in enumerate(self._tables):
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
                self._decode(level, index, ours)
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


def _decoder(table: TileTable) -> Callable[[bytes, RgbImage], None]:
    return decode_jpeg2000 if table.preamble is None else JpegTiles(table.preamble).decode


def _memory(table: TileTable) -> TileMemory:
    """Room for two rows of native tiles: rows of a grid meet on one, and its ends stay behind."""
    most = REMEMBERED_BYTES // (table.tile_width * table.tile_height * 3)
    return TileMemory(table.tile_width, table.tile_height, min(2 * table.columns, most))
