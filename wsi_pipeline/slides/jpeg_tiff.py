"""Tiled TIFF and SVS with JPEG or JPEG 2000 tiles, decoded natively without the GIL."""

import os
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from threading import Lock

import numpy as np

from wsi_pipeline.errors import SlideOpenError, SlideReadError
from wsi_pipeline.slides.openslide_reader import OpenSlideReader
from wsi_pipeline.slides.reader import SlideReader, reason
from wsi_pipeline.slides.tile_codec import VERSION, decode_jpeg, decode_jpeg2000
from wsi_pipeline.slides.tile_table import (
    Piece,
    TileTable,
    UnsuitableError,
    covering,
    read_tile_tables,
    require_inside,
)
from wsi_pipeline.types import RgbImage

VENDORS = ("aperio", "generic-tiff")  # others crop, stitch or overlap their TIFF tiles
REMEMBERED_BYTES = 64 << 20  # of decoded tiles that a neighbouring read will want again

log = getLogger(__name__)


class JpegTiffReader(SlideReader):
    """A slide whose tiles are read from the file and decoded by libjpeg-turbo or OpenJPEG.

    OpenSlide opens it first and stays beside: it tells the metadata and the associated images,
    and delivers any tile that is missing or does not decode cleanly. Where OpenSlide does not
    interpolate, the pixels are the same to the bit; on levels whose downsample is no whole
    number they are the level's own pixels, where OpenSlide's lie between them.

    Args:
        path: A tiled TIFF.
        threads: Tiles decoded at a time within one ``read``.

    Raises:
        SlideOpenError: OpenSlide cannot open it.
        UnsuitableError: Its tiles are of other kinds, or a probe differs from OpenSlide's pixels.
    """

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
        version = f"{VERSION}, openslide {info.reader_version}"
        self.info = replace(info, reader="jpeg-tiff", reader_version=version)
        self._file = os.open(path, os.O_RDONLY)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._lock = Lock()
        self._remembered: OrderedDict[tuple[int, int], RgbImage] = OrderedDict()
        self._room = REMEMBERED_BYTES
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
        table = self._tables[level]

        def fill(piece: Piece) -> None:
            tile = self._tile(level, table, piece)
            rgb[piece.top - y : piece.bottom - y, piece.left - x : piece.right - x] = tile[
                piece.top - piece.tile_y : piece.bottom - piece.tile_y,
                piece.left - piece.tile_x : piece.right - piece.tile_x,
            ]

        pieces = covering(table, x, y, rgb.shape[1], rgb.shape[0])
        for _ in map(fill, pieces) if self._pool is None else self._pool.map(fill, pieces):
            pass

    def read_associated(self, name: str) -> RgbImage:
        return self._openslide.associated_image(name)

    def icc_profile(self) -> bytes:
        return self._openslide.icc_profile()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        with self._lock:
            self._remembered.clear()
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
        self._openslide.close()

    def _tile(self, level: int, table: TileTable, piece: Piece) -> RgbImage:
        """A native tile, at least as much of it as lies inside the level."""
        key = (level, piece.number)
        with self._lock:
            known = self._remembered.get(key)
            if known is not None:
                self._remembered.move_to_end(key)
                return known
        if table.byte_counts[piece.number] == 0:
            return self._tile_by_openslide(level, table, piece)
        try:
            tile = self._decode(table, piece.number)
        except (ValueError, OSError) as error:
            self._complain(f"tile {piece.number} of level {level}: {reason(error)}")
            return self._tile_by_openslide(level, table, piece)
        if _is_partly_covered(table, piece):
            self._remember(key, tile)
        return tile

    def _decode(self, table: TileTable, index: int) -> RgbImage:
        size = int(table.byte_counts[index])
        begun = time.perf_counter()
        stored = os.pread(self._file, size, int(table.offsets[index]))
        self.file_s += time.perf_counter() - begun
        tile_size = (table.tile_width, table.tile_height)
        if table.preamble is None:
            tile = decode_jpeg2000(stored, tile_size)
        else:
            tile = decode_jpeg(stored, table.preamble, tile_size)
        if tile.shape != (table.tile_height, table.tile_width, 3):
            raise ValueError(f"the samples are {tile.shape}, not RGB")
        return tile

    def _tile_by_openslide(self, level: int, table: TileTable, piece: Piece) -> RgbImage:
        return self._openslide.read(
            level, piece.tile_x, piece.tile_y, table.tile_width, table.tile_height
        )

    def _remember(self, key: tuple[int, int], tile: RgbImage) -> None:
        with self._lock:
            if key in self._remembered or tile.nbytes > REMEMBERED_BYTES:
                return
            self._remembered[key] = tile
            self._room -= tile.nbytes
            while self._room < 0:
                self._room += self._remembered.popitem(last=False)[1].nbytes

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
            row, column = divmod(index, table.columns)
            x, y = column * table.tile_width, row * table.tile_height
            width, height = (
                min(table.tile_width, table.width - x),
                min(table.tile_height, table.height - y),
            )
            try:
                ours = self._decode(table, index)[:height, :width]
                theirs = self._openslide.read(level, x, y, width, height)
            except (ValueError, OSError, SlideReadError) as error:
                raise UnsuitableError(
                    f"tile {index} of level {level} does not decode ({reason(error)})",
                    suspicious=True,
                ) from error
            if not np.array_equal(ours, theirs):
                raise UnsuitableError(
                    f"tile {index} of level {level} differs from OpenSlide's", suspicious=True
                )


def open_jpeg_tiff(path: str | Path, threads: int = 1) -> JpegTiffReader:
    """Open with this reader or refuse with a SlideOpenError that says why."""
    try:
        return JpegTiffReader(path, threads)
    except UnsuitableError as error:
        raise SlideOpenError(
            f"{path}: the jpeg-tiff reader does not apply, because {error}; use --reader auto."
        ) from error


def open_fastest(path: str | Path, threads: int = 1) -> SlideReader:
    """Open with this reader if it applies, else with OpenSlide; a self-contradiction is logged."""
    try:
        return JpegTiffReader(path, threads)
    except UnsuitableError as error:
        if error.suspicious:
            log.warning("%s: read through OpenSlide, because %s", path, error)
        return OpenSlideReader(path)


def _is_partly_covered(table: TileTable, piece: Piece) -> bool:
    """Whether a neighbouring read will want the rest of this tile."""
    return (
        piece.left > piece.tile_x
        or piece.top > piece.tile_y
        or piece.right < min(piece.tile_x + table.tile_width, table.width)
        or piece.bottom < min(piece.tile_y + table.tile_height, table.height)
    )
