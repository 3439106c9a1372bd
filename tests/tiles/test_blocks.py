"""Block-wise reading against the plainest way: read one tile, reduce it, next."""

import threading
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.tiles import Grid, read_blocks
from wsi_pipeline.tiles.blocks import Block, Workspace, map_blocks
from wsi_pipeline.types import Region, RgbImage

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (700, 900, 3), dtype=np.uint8)


class Source:
    """One level held in memory; counts what is read of it, and refuses what lies outside."""

    def __init__(self, pixels: RgbImage, *, decodes_once: bool = False) -> None:
        self.pixels = pixels
        self.decodes_once = decodes_once
        self.reads: list[tuple[int, int, int, int]] = []

    def read_into(self, level: int, x: int, y: int, out: RgbImage) -> None:
        rows, columns = self.pixels.shape[:2]
        height, width = out.shape[:2]
        assert level == 1
        assert 0 <= x < x + width <= columns
        assert 0 <= y < y + height <= rows
        self.reads.append((x, y, width, height))
        out[...] = self.pixels[y : y + height, x : x + width]


def grid_of(columns: int, rows: int, side: int, tile_px: int, stride: int, area: Region) -> Grid:
    return Grid(
        columns=columns, rows=rows, tile_px=tile_px, level=1, downsample=4.0, tile_px_level=side,
        stride_px_level=stride, area_level=area, target_mpp=0.5, effective_mpp=0.5,
    )  # fmt: skip


def plainly(grid: Grid, pixels: RgbImage, index: int) -> RgbImage:
    area, side = grid.area_level, grid.tile_px_level
    x, y = grid.corners(np.array([index]))[0]
    tile = np.full((side, side, 3), 255, np.uint8)
    seen = pixels[y : min(y + side, area.y + area.height), x : min(x + side, area.x + area.width)]
    tile[: seen.shape[0], : seen.shape[1]] = seen
    if side == grid.tile_px:
        return tile
    size = (grid.tile_px, grid.tile_px)
    return np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_AREA), np.uint8)


def gather(blocks: Iterator[Block]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    parts = list(blocks)
    return (
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.tiles for part in parts]),
    )


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    tile_px = 16
    side = draw(st.sampled_from([16, 17, 31, 32, 48, 61]))
    stride = side - draw(st.integers(0, side // 2))
    x, y = draw(st.integers(0, 300)), draw(st.integers(0, 300))
    area = Region(
        x=x, y=y, width=draw(st.integers(1, 900 - x)), height=draw(st.integers(1, 700 - y))
    )
    columns, rows = (
        1 if extent <= side else -((side - extent) // stride) + 1
        for extent in (area.width, area.height)
    )
    return grid_of(columns, rows, side, tile_px, stride, area)


@settings(max_examples=60, deadline=None)
@given(grid=grids(), data=st.data())
def test_any_block_size_gives_the_tiles_of_the_plainest_way(
    grid: Grid, data: st.DataObject
) -> None:
    share = data.draw(st.sampled_from([0.02, 0.3, 1.0]))
    seed = data.draw(st.integers(0, 99))
    wanted = np.random.default_rng(seed).random(len(grid)) < share
    wanted[seed % len(grid)] = True
    block_px = data.draw(st.sampled_from([1, 40, 64, 150, 333, 2048]))
    threads = data.draw(st.integers(0, 3))
    source = Source(PIXELS)
    blocks = read_blocks(source, grid, wanted, block_px=block_px, threads=threads)
    indices, tiles = gather(blocks)
    np.testing.assert_array_equal(indices, np.flatnonzero(wanted))
    for index, tile in zip(indices, tiles, strict=True):
        np.testing.assert_array_equal(tile, plainly(grid, PIXELS, int(index)))
    limit = max(block_px, grid.tile_px_level)
    assert all(max(width, height) <= limit for _, _, width, height in source.reads)


def dense() -> Grid:
    return grid_of(28, 21, 32, 16, 32, Region(x=0, y=0, width=900, height=700))


def test_a_block_is_read_once_for_all_of_its_tiles() -> None:
    source, grid = Source(PIXELS), dense()
    gather(read_blocks(source, grid, np.ones(len(grid), bool), block_px=320))
    assert len(source.reads) == 3 * 3
    assert sum(width * height for _, _, width, height in source.reads) == 28 * 32 * 21 * 32


def test_a_slide_that_decodes_once_is_read_tile_by_tile() -> None:
    source, grid = Source(PIXELS, decodes_once=True), dense()
    blocks = list(read_blocks(source, grid, np.ones(len(grid), bool)))
    corners = [(x, y) for y in range(0, 21 * 32, 32) for x in range(0, 28 * 32, 32)]
    assert source.reads == [(x, y, 32, 32) for x, y in corners]
    assert max(len(block.indices) for block in blocks) <= 32


def test_tiles_that_overlap_are_read_in_blocks_all_the_same() -> None:
    source = Source(PIXELS, decodes_once=True)
    grid = grid_of(28, 21, 32, 16, 16, Region(x=0, y=0, width=464, height=352))
    gather(read_blocks(source, grid, np.ones(len(grid), bool)))
    assert len(source.reads) == 1


@pytest.mark.parametrize("decodes_once", [True, False])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_what_work_returns_holds_until_the_next_is_asked_for(
    threads: int, decodes_once: bool
) -> None:
    def invert(block: Block, space: Workspace) -> Block:
        out = space.array("inverted", *block.tiles.shape)
        return Block(indices=block.indices, tiles=np.subtract(255, block.tiles, out=out))

    source, grid = Source(PIXELS, decodes_once=decodes_once), dense()
    wanted = np.ones(len(grid), bool)
    seen: list[int] = []
    for block in map_blocks(source, grid, wanted, invert, threads=threads):
        for index, tile in zip(block.indices.tolist(), block.tiles, strict=True):
            np.testing.assert_array_equal(255 - tile, plainly(grid, PIXELS, index))
            seen.append(index)
    assert seen == list(range(len(grid)))


def test_threads_work_beside_each_other() -> None:
    together = threading.Barrier(2, timeout=20)  # passed by two at a time, or broken

    def work(block: Block, _: Workspace) -> int:
        together.wait()
        return len(block.indices)

    grid = dense()
    source, wanted = Source(PIXELS, decodes_once=True), np.ones(len(grid), bool)
    wanted[512:] = False  # an even number of bands
    assert sum(map_blocks(source, grid, wanted, work, threads=2)) == 512


def test_work_that_fails_is_told_in_its_turn() -> None:
    def work(block: Block, _: Workspace) -> int:
        if block.indices[0] >= 64:
            raise SlideReadError("slide.svs: tile 7 is damaged")
        return int(block.indices[0])

    grid = dense()
    source, wanted = Source(PIXELS, decodes_once=True), np.ones(len(grid), bool)
    done = map_blocks(source, grid, wanted, work, threads=3)
    assert [next(done) for _ in range(4)] == [0, 16, 32, 48]
    with pytest.raises(SlideReadError, match="tile 7"):
        next(done)


def test_blocks_without_a_wanted_tile_are_not_read() -> None:
    source, grid = Source(PIXELS), dense()
    wanted = np.array([0, 1, 27, 20 * 28 + 5])
    indices, _ = gather(read_blocks(source, grid, wanted, block_px=320))
    assert indices.tolist() == wanted.tolist()
    assert sorted(source.reads) == [(0, 0, 64, 32), (160, 640, 32, 32), (864, 0, 32, 32)]


def test_indices_may_come_in_any_order_and_twice() -> None:
    indices, _ = gather(read_blocks(Source(PIXELS), dense(), np.array([9, 3, 9, 500])))
    assert indices.tolist() == [3, 9, 500]


def test_nothing_wanted_reads_nothing() -> None:
    source, grid = Source(PIXELS), dense()
    assert list(read_blocks(source, grid, np.zeros(len(grid), bool))) == []
    assert list(read_blocks(source, grid, np.array([], np.int64))) == []
    assert source.reads == []


def test_a_wide_slide_is_held_in_narrow_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    source, grid = Source(PIXELS), dense()
    monkeypatch.setattr("wsi_pipeline.tiles.blocks.BAND_BYTES", 60 * 16 * 16 * 3)
    blocks = list(read_blocks(source, grid, np.ones(len(grid), bool)))
    assert max(height for _, _, _, height in source.reads) == 2 * 32
    assert np.concatenate([block.indices for block in blocks]).tolist() == list(range(len(grid)))


def test_a_slide_that_cannot_be_read_says_so() -> None:
    class Broken(Source):
        def read_into(self, level: int, x: int, y: int, out: RgbImage) -> None:
            if y > 300:
                raise SlideReadError("slide.svs: tile 7 is damaged")
            super().read_into(level, x, y, out)

    grid = dense()
    blocks = read_blocks(Broken(PIXELS), grid, np.ones(len(grid), bool), block_px=64)
    with pytest.raises(SlideReadError, match="tile 7"):
        list(blocks)


def test_giving_up_half_way_leaves_no_thread_behind() -> None:
    grid = dense()
    blocks = read_blocks(Source(PIXELS), grid, np.ones(len(grid), bool), block_px=64)
    next(blocks)
    assert any(thread.name.startswith("read-blocks") for thread in threading.enumerate())
    blocks.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("read-blocks") for thread in threading.enumerate())
