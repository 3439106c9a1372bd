"""Tiled TIFF and SVS with JPEG or JPEG 2000 tiles, decoded natively without the GIL."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from logging import getLogger
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slides.codestream import BEFORE, BEHIND, recentred
from wsi_pipeline.slides.overview import reduce_area
from wsi_pipeline.slides.reader import (
    DamagedError,
    ReducedLevel,
    SlideReader,
    UnsuitableError,
    reason,
)
from wsi_pipeline.slides.tile_codec import VERSION
from wsi_pipeline.slides.tile_layout import Levels, exact_levels, find_areas, open_judge
from wsi_pipeline.slides.tile_memory import TileMemory
from wsi_pipeline.slides.tile_table import (
    HOLE,
    Area,
    Decode,
    Span,
    TileTable,
    covering,
    require_inside,
)
from wsi_pipeline.types import RgbImage

REMEMBERED_BYTES = 96 << 20  # at most, of decoded tiles that a neighbouring read will want again
PROBES = 3  # native tiles of an area, of which one must be whole
FEW = 32  # native tiles: a read of no more is done before threads would have been told of it

log = getLogger(__name__)


class NativeReader(SlideReader):
    """A slide whose tiles are read from its files and decoded by libjpeg-turbo or OpenJPEG.

    A judge, most often OpenSlide, has opened it and stays beside: it tells the metadata and the
    associated images, and delivers what is wanted of a tile that is missing or does not decode
    cleanly. Where OpenSlide does not interpolate, the pixels are the same to the bit; on levels
    whose downsample is no whole number they are the level's own pixels, where OpenSlide's lie
    between them.

    Args:
        judge: The slide; it is closed with this reader, also where that cannot be made.
        name: Of the reader.
        levels: Where each level's tiles lie.
        files: Those that hold the tiles.
        threads: Tiles decoded at a time within one ``read``, if it is a large one.

    Raises:
        UnsuitableError: A probe differs from the judge's pixels.
    """

    decodes_once = True

    def __init__(
        self, judge: SlideReader, name: str, levels: Levels, files: Sequence[Path], threads: int
    ) -> None:
        self._judge = judge
        info = judge.info
        self._exact = exact_levels(info)
        self._levels = tuple(
            tuple(_Native.of(level, area) for area in areas) for level, areas in enumerate(levels)
        )
        self._whole = tuple(
            natives[0] if natives[0].fills(size) else None
            for natives, size in zip(self._levels, info.level_dimensions, strict=True)
        )
        self._reduced: dict[tuple[int, int], _Native] = {}
        version = f"{VERSION}, {info.reader} {info.reader_version}"
        self.info = replace(info, reader=name, reader_version=version)
        self._files = [os.open(each, os.O_RDONLY) for each in files]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._complained = False
        try:
            self._probe()
        except UnsuitableError:
            self.close()
            raise

    def read_inside(self, level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        rgb = np.empty((height, width, 3), np.uint8)
        self._fill_level(level, x, y, rgb)
        return rgb

    def read_into(self, level: int, x: int, y: int, out: RgbImage) -> None:
        width, height = self.info.level_dimensions[level] if level < len(self._levels) else (0, 0)
        inside = 0 <= x <= width - out.shape[1] and 0 <= y <= height - out.shape[0]
        if level < 0 or not inside or self.recolour is not None:
            super().read_into(level, x, y, out)
        else:
            self._fill_level(level, x, y, out)

    def reduced(self, level: int, factor: int) -> ReducedLevel | None:
        """A level decoded straight to a half, a quarter or an eighth of its size.

        Returns:
            None where that cannot be: native tiles that do not divide or do not fill the level,
            JPEG 2000 that is not ordered by resolution, or colours that are to be changed, which is
            done on the level's own pixels.
        """
        native = self._whole[level]
        table = None if native is None or self.recolour else native.table.reduced(factor)
        if table is None:
            return None
        reduced = _Native.of(level, Area.whole(table), factor)
        if table.preamble is None and not self._decodes(reduced):
            return None
        reduced = self._reduced.setdefault((level, factor), reduced)
        fill = self._fill if table.preamble is not None else self._fill_recentred
        return ReducedLevel(self, lambda x, y, out: fill(reduced, x, y, out))

    def averaged(self, level: int, factor: int) -> ReducedLevel | None:
        """A level averaged straight from its native tiles, if its pixels go into these evenly."""
        native = self._whole[level]
        sides = () if native is None else (native.table.tile_width, native.table.tile_height)
        if native is None or self.recolour or any(side % factor for side in sides):
            return None

        def fill(x: int, y: int, out: RgbImage) -> None:
            height, width = out.shape[:2]
            place = (each * factor for each in (x, y, width, height))
            rows, columns = covering(native.table, *place)
            for row in rows:
                self._copy(native, row, columns, out, factor)

        return ReducedLevel(self, fill)

    def _fill_recentred(self, native: "_Native", x: int, y: int, rgb: RgbImage) -> None:
        """Fill a rectangle of JPEG 2000 without its finest resolutions."""
        height, width = rgb.shape[:2]
        left, top = max(x - BEFORE, 0), max(y - BEFORE, 0)
        right = min(x + width + BEHIND, native.table.width)
        bottom = min(y + height + BEHIND, native.table.height)
        near = np.empty((bottom - top, right - left, 3), np.uint8)
        self._fill(native, left, top, near)
        moved = recentred(near, native.factor.bit_length() - 1)
        rgb[...] = moved[y - top : y - top + height, x - left : x - left + width]

    def _decodes(self, native: "_Native") -> bool:
        """Whether one of the fullest tiles decodes at that size; the others are made alike."""
        table = native.table
        out = np.empty((table.tile_height, table.tile_width, 3), np.uint8)
        for number in np.argsort(-table.byte_counts, kind="stable")[:PROBES].tolist():
            try:
                self._decode(native, number, out)
            except (DamagedError, OSError):
                continue
            return True
        return False

    def _fill_level(self, level: int, x: int, y: int, rgb: RgbImage) -> None:
        """Fill a rectangle that lies inside a level."""
        whole = self._whole[level]
        if whole is not None:
            self._fill(whole, x, y, rgb)
            return
        rgb[...] = 255
        height, width = rgb.shape[:2]
        for native in self._levels[level]:
            area = native.area
            left, top = max(x, area.box[0]), max(y, area.box[1])
            right, bottom = min(x + width, area.box[2]), min(y + height, area.box[3])
            if left < right and top < bottom:
                part = rgb[top - y : bottom - y, left - x : right - x]
                self._fill(native, left - area.left, top - area.top, part)

    def _fill(self, native: "_Native", x: int, y: int, rgb: RgbImage) -> None:
        """Fill a rectangle that lies inside an area's tiles, from (x, y) of these."""
        rows, columns = covering(native.table, x, y, rgb.shape[1], rgb.shape[0])
        if self._pool is None or len(rows) * len(columns) <= FEW:
            for row in rows:
                self._copy(native, row, columns, rgb)
        else:
            places = product(rows, columns)
            list(self._pool.map(lambda at: self._copy(native, at[0], at[1:], rgb), places))

    def read_associated(self, name: str) -> RgbImage:
        return self._judge.associated_image(name)

    def icc_profile(self) -> bytes:
        return self._judge.icc_profile()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        for natives in (*self._levels, tuple(self._reduced.values())):
            for native in natives:
                native.memory.clear()
        while self._files:
            os.close(self._files.pop())
        self._judge.close()

    def _copy(
        self, native: "_Native", row: Span, columns: Sequence[Span], rgb: RgbImage, factor: int = 1
    ) -> None:
        """Copy what a rectangle has of a row of native tiles, or its averages."""
        table = native.table
        before = row.number * table.columns
        for column in columns:
            number = before + column.number
            wanted = rgb[_part(row.of_read, factor), _part(column.of_read, factor)]
            if table.empty_is_glass and not table.byte_counts.item(number):
                wanted[...] = 255
                continue
            tile, known = native.memory.take(number)
            if known or self._decoded_whole(native, number, tile):
                _put(tile[row.of_tile, column.of_tile], wanted)
                copied, whole = row.pixels * column.pixels, row.visible * column.visible
                if table.read_beyond:
                    copied = 0  # kept for its neighbours' rectangles, until room is short
            else:
                _put(self._by_judge(native, row, column), wanted)
                copied = whole = 0
            native.memory.give_back(number, tile, copied, whole)

    def _decoded_whole(self, native: "_Native", number: int, out: RgbImage) -> bool:
        """Decode a native tile into ``out``; False if it is missing or damaged."""
        if not native.table.byte_counts.item(number):
            return False
        try:
            self._decode(native, number, out)
        except (DamagedError, OSError) as error:
            self._refuse_hole(native, number)
            self._complain(f"tile {number} of level {native.level}: {reason(error)}")
            return False
        return True

    def _refuse_hole(self, native: "_Native", number: int) -> None:
        """Refuse a damaged tile that has what a bad disk block leaves: OpenSlide may show it grey.

        Raises:
            SlideReadError: It has.
        """
        try:
            hole = HOLE in native.table.stored(self._files, number)
        except (DamagedError, OSError):
            return
        if hole:
            x, y = native.table.corner(number)
            raise SlideReadError(
                f"{self.info.path}: level {native.level} cannot be decoded near"
                f" x={x + native.area.left}, y={y + native.area.top} (a hole of {len(HOLE)} or more"
                " zero bytes); the file is damaged, so fetch it again or leave it out."
            )

    def _decode(self, native: "_Native", number: int, out: RgbImage) -> None:
        """Decode a native tile into ``out``, which has its size."""
        begun = time.perf_counter()
        stored = native.table.stored(self._files, number)
        self.file_s += time.perf_counter() - begun
        native.decode(stored, out)

    def _by_judge(self, native: "_Native", row: Span, column: Span) -> RgbImage:
        """What is wanted of one native tile."""
        area, factor = native.area, native.factor
        x = area.left + column.number * area.table.tile_width + column.of_tile.start
        y = area.top + row.number * area.table.tile_height + row.of_tile.start
        place = (each * factor for each in (x, y, column.pixels, row.pixels))
        pixels = self._judge.read(native.level, *place)
        return pixels if factor == 1 else reduce_area(pixels, factor)

    def _complain(self, text: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("%s: read through OpenSlide instead: %s", self.info.path, text)

    def _probe(self) -> None:
        """Compare tiles with OpenSlide's, the fullest of each area, where it never interpolates.

        One that is damaged says nothing of the others; the next is taken.

        Raises:
            UnsuitableError: A tile differs, or none decodes.
        """
        for native in (native for natives in self._levels for native in natives):
            refusal: UnsuitableError | None = None
            for number in self._to_probe(native):
                try:
                    self._compare(native, number)
                    refusal = None
                except UnsuitableError as error:
                    refusal = error
                    if isinstance(error.__cause__, DamagedError):
                        continue
                break
            if refusal is not None:
                raise refusal

    def _compare(self, native: "_Native", number: int) -> None:
        area, table = native.area, native.table
        x, y = table.corner(number)
        x, y = x + area.left, y + area.top
        left, top = max(x, area.box[0]), max(y, area.box[1])
        right = min(x + table.tile_width, area.box[2])
        bottom = min(y + table.tile_height, area.box[3])
        ours = np.empty((table.tile_height, table.tile_width, 3), np.uint8)
        try:
            self._decode(native, number, ours)
            theirs = self._judge.read(native.level, left, top, right - left, bottom - top)
        except (DamagedError, OSError, SlideReadError) as error:
            raise UnsuitableError(
                f"tile {number} of level {native.level} does not decode ({reason(error)})",
                suspicious=True,
            ) from error
        if not np.array_equal(ours[top - y : bottom - y, left - x : right - x], theirs):
            raise UnsuitableError(
                f"tile {number} of level {native.level} differs from OpenSlide's", suspicious=True
            )

    def _to_probe(self, native: "_Native") -> Sequence[int]:
        """Stored tiles of which OpenSlide gives the pixels that are stored, the best first."""
        area, counts = native.area, native.table.byte_counts
        if self._exact[native.level]:
            fullest = np.argsort(-counts, kind="stable")[:PROBES]
            return [number for number in fullest.tolist() if counts[number]]
        return [0] if area.left == area.top == 0 and counts[0] else []


def _part(pixels: slice, factor: int) -> slice:
    return pixels if factor == 1 else slice(pixels.start // factor, pixels.stop // factor)


def _put(pixels: RgbImage, wanted: RgbImage) -> None:
    """Copy pixels, or average them to what is wanted."""
    if pixels.shape == wanted.shape:
        wanted[...] = pixels
    else:
        cv2.resize(pixels, wanted.shape[1::-1], dst=wanted, interpolation=cv2.INTER_AREA)


class JpegTiffReader(NativeReader):
    """A TIFF whose tiles are decoded natively.

    Beside an OME-TIFF with a pyramid, of which OpenSlide sees level 0, stays TiffSlide.

    Args:
        path: A tiled TIFF.
        threads: Tiles decoded at a time within one ``read``, if it is a large one.

    Raises:
        SlideOpenError: OpenSlide cannot open it.
        UnsuitableError: Its tiles are of other kinds, or a probe differs from OpenSlide's pixels.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        judge = open_judge(Path(path))
        try:
            levels = find_areas(Path(path), judge.info)
            tables = (area.table for areas in levels for area in areas)
            require_inside(tables, Path(path).stat().st_size)
        except UnsuitableError:
            judge.close()
            raise
        super().__init__(judge, "jpeg-tiff", levels, [Path(path)], threads)


@dataclass(frozen=True, kw_only=True)
class _Native:
    """An area's native tiles; ``factor`` is how much smaller they are than OpenSlide's level."""

    level: int
    factor: int
    area: Area
    decode: Decode
    memory: TileMemory

    @classmethod
    def of(cls, level: int, area: Area, factor: int = 1) -> Self:
        decode, memory = area.table.decoder(), _memory(area.table)
        return cls(level=level, factor=factor, area=area, decode=decode, memory=memory)

    @property
    def table(self) -> TileTable:
        return self.area.table

    def fills(self, size: tuple[int, int]) -> bool:
        """Whether the area is the whole of a level of this (width, height)."""
        return self.area.left == self.area.top == 0 and self.area.box == (0, 0, *size)


def _memory(table: TileTable) -> TileMemory:
    most = REMEMBERED_BYTES // (table.tile_width * table.tile_height * 3)
    return TileMemory(table.tile_width, table.tile_height, min(table.worth_keeping, most))
