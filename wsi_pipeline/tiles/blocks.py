"""Tiles' pixels, read tile by tile or in blocks that span many tiles.

A reader that decodes each native tile once, however it is asked, is asked for one tile after the
other: what is in work then fits a core's cache. From any other, tile rows are taken in bands, and
a band is read in blocks of about ``block_px``, each block once. Either way a band's tiles are
reduced into one array, which is given out in canonical order, and nothing is read for tiles that
nobody wants. Decoding lets go of the interpreter, so the next band is read in a thread while the
caller works on the present one.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tiles.grid import Grid
from wsi_pipeline.timing import Stopwatch
from wsi_pipeline.types import RgbImage, RgbTiles

BLOCK_PX: Final = 1024  # small enough for a cache
BAND_BYTES: Final = 128 << 20  # finished tiles of one band
BANDS: Final = 2  # one is read while the caller works on the other
GIVEN_OUT: Final = 64  # tiles given out at once, at most: few enough for a cache
WHITE: Final = 255

Indices = NDArray[np.int64]


class PixelSource(Protocol):
    """What is needed of a slide."""

    @property
    def decodes_once(self) -> bool: ...

    def read_into(self, level: int, x: int, y: int, out: RgbImage) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive wanted tiles.

    Attributes:
        indices: (n,) int64, ascending; a tile's index in its grid.
        tiles: (n, tile_px, tile_px, 3) uint8 RGB at the target mpp.
    """

    indices: Indices
    tiles: RgbTiles


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A rectangle of tile places, bounds exclusive at the end."""

    row: int
    row_end: int
    column: int
    column_end: int


def read_blocks(  # noqa: PLR0913  what to read, and how
    slide: PixelSource,
    grid: Grid,
    wanted: NDArray[Any],
    *,
    block_px: int | None = None,
    prefetch: bool = True,
    reuse: bool = False,
    watch: Stopwatch | None = None,
) -> Iterator[Block]:
    """Yield the wanted tiles in canonical order; the pixels do not depend on ``block_px``.

    Args:
        slide: Opened; only one thread reads it at a time.
        grid: From :func:`plan_grid` for this slide.
        wanted: (len(grid),) bool, or tile indices in any order.
        block_px: About the side of what is read at once, pixels of the level read; None is one
            tile where no pixel is decoded twice for that.
        prefetch: Read the next band in a thread meanwhile.
        reuse: A block's tiles are overwritten once the next block has been asked for.
        watch: Told how long reading, decoding and resampling take.

    Raises:
        SlideReadError: The slide's pixels cannot be decoded.
    """
    wide = _tiles_along(grid, _suitable_px(slide, grid) if block_px is None else block_px)
    bands = _bands(grid, _as_indices(wanted, len(grid)), wide)
    clock = watch or Stopwatch()
    memory = _Memory(grid, max(map(len, bands), default=0) if reuse else None)

    def read(band: Indices) -> Block:
        return _read_band(slide, grid, band, wide, memory, clock)

    for block in _ahead(read, bands) if prefetch else map(read, bands):
        yield from _portions(block)


def _as_indices(wanted: NDArray[Any], count: int) -> Indices:
    wanted = np.asarray(wanted)
    if wanted.dtype == np.bool_:
        if wanted.shape != (count,):
            raise ValueError(f"wanted has shape {wanted.shape}, the grid has {count} tiles")
        return np.flatnonzero(wanted).astype(np.int64)
    indices = np.unique(wanted.astype(np.int64))
    if len(indices) and (indices[0] < 0 or indices[-1] >= count):
        raise ValueError(f"wanted reaches beyond the grid's {count} tiles")
    return indices


def _suitable_px(slide: PixelSource, grid: Grid) -> int:
    apart = grid.stride_px_level >= grid.tile_px_level
    return grid.tile_px_level if slide.decodes_once and apart else BLOCK_PX


def _bands(grid: Grid, indices: Indices, wide: int) -> list[Indices]:
    """Cut the wanted tiles into bands: a few tiles, or whole rows if ``wide`` are read at once."""
    if not len(indices):
        return []
    if wide == 1:
        return np.split(indices, range(GIVEN_OUT, len(indices), GIVEN_OUT))
    rows = indices // grid.columns
    per_row = np.bincount(rows)
    most = max(1, BAND_BYTES // (3 * grid.tile_px**2))
    starts = [int(rows[0])]
    held = 0
    for row in range(starts[0], len(per_row)):
        held += int(per_row[row])
        if row > starts[-1] and (held > most or row - starts[-1] >= wide):
            starts.append(row)
            held = int(per_row[row])
    bands = np.split(indices, np.searchsorted(rows, starts[1:]))
    return [band for band in bands if len(band)]


def _tiles_along(grid: Grid, block_px: int) -> int:
    """Return how many tiles fit side by side in ``block_px``; at least one."""
    return max(1, (block_px - grid.tile_px_level) // grid.stride_px_level + 1)


class _Memory:
    """What bands are read into, used again and again: new memory costs more than copying.

    Args:
        grid: Of the tiles.
        most: Tiles of the longest band; None gives each band memory of its own.
    """

    def __init__(self, grid: Grid, most: int | None) -> None:
        self._tile = (grid.tile_px, grid.tile_px, 3)
        self._bands: list[RgbTiles] = []
        self._most = most
        self._given = 0
        self._window = np.empty(0, np.uint8)

    def band(self, count: int) -> RgbTiles:
        """Return (count, tile_px, tile_px, 3) to read a band into."""
        if self._most is None:
            return np.empty((count, *self._tile), np.uint8)
        place = self._given % BANDS
        self._given += 1
        if place == len(self._bands):
            self._bands.append(np.empty((self._most, *self._tile), np.uint8))
        return self._bands[place][:count]

    def window(self, height: int, width: int) -> RgbImage:
        """Return (height, width, 3) to read a block into."""
        size = height * width * 3
        if self._window.size < size:
            self._window = np.empty(size, np.uint8)
        return self._window[:size].reshape(height, width, 3)


def _read_band(
    slide: PixelSource, grid: Grid, band: Indices, wide: int, memory: _Memory, watch: Stopwatch
) -> Block:
    tiles = memory.band(len(band))
    before = _file_s(slide)
    with watch.phase("decode"):
        read = _read_singly if wide == 1 else partial(_read_windows, wide=wide)
        resampling = read(slide, grid, band, memory, tiles)
    watch.move(_file_s(slide) - before, "decode", "read")
    watch.move(resampling, "decode", "resample")
    return Block(indices=band, tiles=tiles)


def _file_s(slide: PixelSource) -> float:
    """Return the seconds a reader spent on the file; of most the library does not tell."""
    return float(getattr(slide, "file_s", 0.0))


def _read_singly(
    slide: PixelSource, grid: Grid, band: Indices, memory: _Memory, tiles: RgbTiles
) -> float:
    """Read one tile after the other; return the seconds spent on reducing them."""
    side, seconds = grid.tile_px_level, 0.0
    for (x, y), tile in zip(grid.corners(band).tolist(), tiles, strict=True):
        if side == grid.tile_px:
            _read_seen(slide, grid, x, y, tile)
            continue
        pixels = memory.window(side, side)
        _read_seen(slide, grid, x, y, pixels)
        begun = time.perf_counter()
        _reduce(pixels, tile)
        seconds += time.perf_counter() - begun
    return seconds


def _read_windows(
    slide: PixelSource, grid: Grid, band: Indices, memory: _Memory, tiles: RgbTiles, *, wide: int
) -> float:
    """Read windows of many tiles; return the seconds spent on cutting and reducing them."""
    side, stride, seconds = grid.tile_px_level, grid.stride_px_level, 0.0
    rows, columns = np.divmod(band, grid.columns)
    for window in _windows(rows, columns, wide):
        pixels = memory.window(
            (window.row_end - window.row - 1) * stride + side,
            (window.column_end - window.column - 1) * stride + side,
        )
        x = grid.area_level.x + window.column * stride
        y = grid.area_level.y + window.row * stride
        _read_seen(slide, grid, x, y, pixels)
        begun = time.perf_counter()
        for slot in np.flatnonzero((columns >= window.column) & (columns < window.column_end)):
            left = (columns[slot] - window.column) * stride
            top = (rows[slot] - window.row) * stride
            _reduce(pixels[top : top + side, left : left + side], tiles[slot])
        seconds += time.perf_counter() - begun
    return seconds


def _windows(rows: Indices, columns: Indices, wide: int) -> list[_Window]:
    """Cover a band's tiles: runs of neighbouring columns, at most ``wide``, trimmed in height."""
    used = np.unique(columns)
    windows: list[_Window] = []
    first = 0
    for i in range(1, len(used) + 1):
        if i < len(used) and used[i] == used[i - 1] + 1 and used[i] - used[first] < wide:
            continue
        column, column_end = int(used[first]), int(used[i - 1]) + 1
        own = rows[(columns >= column) & (columns < column_end)]
        top, bottom = int(own.min()), int(own.max()) + 1
        windows.append(_Window(row=top, row_end=bottom, column=column, column_end=column_end))
        first = i
    return windows


def _read_seen(slide: PixelSource, grid: Grid, x: int, y: int, out: RgbImage) -> None:
    """Fill ``out`` from (x, y) of the level read; what lies outside the grid's area is white."""
    height, width = out.shape[:2]
    seen_width = min(width, grid.area_level.x + grid.area_level.width - x)
    seen_height = min(height, grid.area_level.y + grid.area_level.height - y)
    if (seen_width, seen_height) == (width, height):
        slide.read_into(grid.level, x, y, out)
        return
    out[...] = WHITE
    seen = np.empty((seen_height, seen_width, 3), np.uint8)
    slide.read_into(grid.level, x, y, seen)
    out[:seen_height, :seen_width] = seen


def _reduce(pixels: RgbImage, tile: RgbImage) -> None:
    """Average pixels down to a tile."""
    if pixels.shape == tile.shape:
        tile[...] = pixels
    else:
        size = (tile.shape[1], tile.shape[0])
        cv2.resize(pixels, size, dst=tile, interpolation=cv2.INTER_AREA)


def _portions(block: Block) -> Iterator[Block]:
    """Give a band out in parts small enough for the caller's float arithmetic."""
    count = len(block.indices)
    for start in range(0, count, GIVEN_OUT):
        part = slice(start, min(start + GIVEN_OUT, count))
        yield Block(indices=block.indices[part], tiles=block.tiles[part])


def _ahead(read: Callable[[Indices], Block], bands: Sequence[Indices]) -> Iterator[Block]:
    """Map ``read`` over ``bands``, one ahead of the caller in a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-blocks") as pool:
        coming: deque[Future[Block]] = deque()
        for band in bands:
            coming.append(pool.submit(read, band))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
