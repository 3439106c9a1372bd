"""Tiles' pixels, read tile by tile or in blocks that span many tiles, and worked on beside that.

A reader that decodes each native tile once, however it is asked, is asked for one tile after the
other: what is in work then fits a core's cache. From any other, tile rows are taken in bands, and
a band is read in blocks of about ``block_px``, each block once. Either way a band's tiles are
reduced into one array, which is given out in canonical order, and nothing is read for tiles that
nobody wants.

Decoding, and nearly all that is done to tiles, lets go of the interpreter. So threads read ahead
of the caller and do its work on what they have read, which is then still in a cache.
New memory costs more than copying does: they work in arrays that go round.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.tiles.grid import Grid
from wsi_pipeline.timing import Stopwatch
from wsi_pipeline.types import RgbImage, RgbTiles


class Workspace:
    """Named arrays, each as large as the largest asked for. One thread uses it at a time."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, *shape: int) -> NDArray[np.uint8]:
        """Return an array of this shape, uint8; the next call with this name gives the same."""
        size = math.prod(shape)
        if name not in self._arrays or self._arrays[name].size < size:
            self._arrays[name] = np.empty(size, np.uint8)
        return self._arrays[name][:size].reshape(shape)

    def taken(self, name: str, tiles: RgbTiles, places: NDArray[np.int64]) -> RgbTiles:
        """Return the tiles at ``places``, ascending; the very tiles, if those are all."""
        if len(places) == len(tiles):
            return tiles
        out = self.array(name, len(places), *tiles.shape[1:])
        return np.take(tiles, places, axis=0, out=out, mode="clip")


BLOCK_PX: Final = 1024  # small enough for a cache
BAND_BYTES: Final = 128 << 20  # finished tiles of one band
GIVEN_OUT: Final = 16  # tiles given out at once, at most: few enough for a cache
AHEAD: Final = 2  # bands that each thread may have begun or done before their turn
WHITE: Final = 255
NOTHING: Final[Mapping[int, RgbImage]] = MappingProxyType({})

Indices = NDArray[np.int64]
Held = Mapping[int, RgbImage]
Made = TypeVar("Made")


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


class Unreadable:
    """Tiles that cannot be read, by index with the reason; more than ``most`` are too many.

    Threads that read share it.
    """

    def __init__(self, most: int = 0, told: str = "") -> None:
        """``told`` is said of ``most`` when there are more; without it the reason itself is."""
        self.reasons: dict[int, str] = {}
        self._most = most
        self._told = told
        self._lock = Lock()

    def add(self, index: int, error: SlideReadError) -> None:
        """Count a tile as lost.

        Raises:
            SlideReadError: It is one too many.
        """
        with self._lock:
            self.reasons[index] = str(error)
            if len(self.reasons) <= self._most:
                return
        if not self._told:
            raise error
        raise SlideReadError(f"{error} {self._told}") from error

    def indices(self) -> Indices:
        """Return (n,) int64, ascending."""
        return np.array(sorted(self.reasons), np.int64)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What tiles are taken from: so many are read side by side, and some are held already."""

    slide: PixelSource
    grid: Grid
    wide: int
    held: Held
    unreadable: Unreadable


def read_blocks(  # noqa: PLR0913  what to read, and how
    slide: PixelSource,
    grid: Grid,
    wanted: NDArray[Any],
    *,
    block_px: int | None = None,
    threads: int = 1,
    watch: Stopwatch | None = None,
    unreadable: Unreadable | None = None,
) -> Iterator[Block]:
    """Yield the wanted tiles in canonical order; the pixels do not depend on ``block_px``.

    Args:
        slide: Opened.
        grid: From :func:`plan_grid` for this slide.
        wanted: (len(grid),) bool, or tile indices in any order.
        block_px: About the side of what is read at once, pixels of the level read; None is one
            tile where no pixel is decoded twice for that.
        threads: That read ahead; 0 reads when the next block is asked for.
        watch: Told how long reading, decoding and resampling take.
        unreadable: Told which tiles cannot be read, which are left out then; by default the first
            ends it all.

    Raises:
        SlideReadError: The slide's pixels cannot be decoded.
    """
    return map_blocks(
        slide, grid, wanted, _copied, block_px=block_px, threads=threads, watch=watch,
        unreadable=unreadable,
    )  # fmt: skip


def _copied(block: Block, _: Workspace) -> Block:
    return Block(indices=block.indices, tiles=block.tiles.copy())


def map_blocks(  # noqa: PLR0913  what to read, and how
    slide: PixelSource,
    grid: Grid,
    wanted: NDArray[Any],
    work: Callable[[Block, Workspace], Made],
    *,
    held: Held = NOTHING,
    block_px: int | None = None,
    threads: int = 1,
    watch: Stopwatch | None = None,
    unreadable: Unreadable | None = None,
) -> Iterator[Made]:
    """Yield what ``work`` makes of the wanted tiles, a block at a time, in canonical order.

    The work is done by the threads that read. It may use the workspace, as reading does, and what
    it returns may lie there: it is overwritten once the next has been asked for.

    Args:
        slide, grid, wanted, block_px, threads, watch, unreadable: As in :func:`read_blocks`.
        work: Called from several threads, each with a workspace of its own.
        held: Tiles that were read before, by index; those are copied.

    Raises:
        SlideReadError: The slide's pixels cannot be decoded.
    """
    wide, bands = _bands(slide, grid, wanted, block_px)
    reading = _Reading(
        slide=slide, grid=grid, wide=wide, held=held, unreadable=unreadable or Unreadable()
    )
    clock = watch or Stopwatch()
    before = _file_s(slide)

    def read(band: Indices, space: Workspace) -> Block:
        return _read_band(reading, band, space, clock)

    def read_and_work(band: Indices, space: Workspace) -> Made:
        return work(read(band, space), space)

    if wide == 1:
        yield from _ahead(read_and_work, bands, threads)
    else:  # a band may be long: results on all of it would take as much memory again
        space = Workspace()
        for block in _ahead(read, bands, threads):
            for part in _portions(block):
                yield work(part, space)
    clock.move(_file_s(slide) - before, "decode", "read")


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


def _bands(
    slide: PixelSource, grid: Grid, wanted: NDArray[Any], block_px: int | None
) -> tuple[int, list[Indices]]:
    """Return how many tiles are read side by side, and the wanted ones in bands of so many rows."""
    wide = _tiles_along(grid, _suitable_px(slide, grid) if block_px is None else block_px)
    indices = _as_indices(wanted, len(grid))
    if wide > 1:
        return wide, _row_bands(grid, indices, wide)
    return wide, np.split(indices, range(GIVEN_OUT, len(indices), GIVEN_OUT)) * bool(len(indices))


def _row_bands(grid: Grid, indices: Indices, wide: int) -> list[Indices]:
    """Cut the wanted tiles into bands of whole tile rows that fit the block and the memory."""
    if not len(indices):
        return []
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


def _read_band(reading: _Reading, band: Indices, space: Workspace, watch: Stopwatch) -> Block:
    side = reading.grid.tile_px
    tiles = space.array("tiles", len(band), side, side, 3)
    with watch.phase("decode"):
        missing = []
        for slot, index in enumerate(band.tolist()):
            if index in reading.held:
                tiles[slot] = reading.held[index]
            else:
                missing.append(slot)
        read = _read_singly if reading.wide == 1 else _read_windows
        resampling = read(reading, band[missing], space, [tiles[slot] for slot in missing])
    watch.move(resampling, "decode", "resample")
    if reading.unreadable.reasons:
        there = ~np.isin(band, reading.unreadable.indices())
        band, tiles = band[there], tiles[there]
    return Block(indices=band, tiles=tiles)


def _file_s(slide: PixelSource) -> float:
    """Return the seconds a reader spent on the file; of most the library does not tell."""
    return float(getattr(slide, "file_s", 0.0))


def _read_singly(
    reading: _Reading, band: Indices, space: Workspace, tiles: Sequence[RgbImage]
) -> float:
    """Read one tile after the other; return the seconds spent on reducing them."""
    slide, grid, seconds = reading.slide, reading.grid, 0.0
    side = grid.tile_px_level
    for index, (x, y), tile in zip(band.tolist(), grid.corners(band).tolist(), tiles, strict=True):
        whole = side == grid.tile_px
        pixels = tile if whole else space.array("window", side, side, 3)
        try:
            _read_seen(slide, grid, x, y, pixels)
        except SlideReadError as error:
            reading.unreadable.add(index, error)
            continue
        if whole:
            continue
        begun = time.perf_counter()
        _reduce(pixels, tile)
        seconds += time.perf_counter() - begun
    return seconds


def _read_windows(
    reading: _Reading, band: Indices, space: Workspace, tiles: Sequence[RgbImage]
) -> float:
    """Read windows of many tiles; return the seconds spent on cutting and reducing them."""
    slide, grid, seconds = reading.slide, reading.grid, 0.0
    side, stride = grid.tile_px_level, grid.stride_px_level
    rows, columns = np.divmod(band, grid.columns)
    for window in _windows(rows, columns, reading.wide):
        height = (window.row_end - window.row - 1) * stride + side
        width = (window.column_end - window.column - 1) * stride + side
        pixels = space.array("window", height, width, 3)
        x = grid.area_level.x + window.column * stride
        y = grid.area_level.y + window.row * stride
        inside = (columns >= window.column) & (columns < window.column_end)
        try:
            _read_seen(slide, grid, x, y, pixels)
        except SlideReadError:  # somewhere in it: tile by tile it is told where
            slots = np.flatnonzero(inside)
            own = [tiles[slot] for slot in slots.tolist()]
            seconds += _read_singly(reading, band[slots], space, own)
            continue
        begun = time.perf_counter()
        for slot in np.flatnonzero(inside).tolist():
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


def _ahead(
    make: Callable[[Indices, Workspace], Made], bands: Sequence[Indices], threads: int
) -> Iterator[Made]:
    """Map ``make`` over ``bands`` in threads, in order.

    A thread that is done goes on with the next band, also while an earlier one is waited for.
    """
    if not threads:
        space = Workspace()
        yield from (make(band, space) for band in bands)
        return
    free = deque(Workspace() for _ in range(AHEAD * threads + 1))  # one holds what the caller has
    coming: deque[tuple[Future[Made], Workspace]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-blocks")
    try:
        for band in bands:
            space = free.popleft()
            coming.append((pool.submit(make, band, space), space))
            if not free:
                yield from _next(coming, free)
        while coming:
            yield from _next(coming, free)
    finally:
        pool.shutdown(cancel_futures=True)


def _next(coming: deque[tuple[Future[Made], Workspace]], free: deque[Workspace]) -> Iterator[Made]:
    """Yield what comes first; its workspace is free afterwards."""
    future, space = coming.popleft()
    yield future.result()
    free.append(space)
