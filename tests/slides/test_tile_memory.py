"""Native tiles between reads: what is kept, for how long, and in which memory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.jpeg_tiff import JpegTiffReader
from wsi_pipeline.slides.tile_memory import TileMemory
from wsi_pipeline.types import RgbImage

SIDE = 16
BYTES = SIDE * SIDE * 3
KEY = (0, 7)


def decoded(memory: TileMemory, number: int) -> RgbImage:
    tile = memory.blank(SIDE, SIDE)
    memory.keep((0, number), tile, SIDE * SIDE)
    return tile


def test_a_tile_goes_when_all_of_it_was_copied_and_its_memory_serves_the_next() -> None:
    memory = TileMemory(4 * BYTES)
    tile = decoded(memory, 7)
    memory.give_back(KEY, tile, 100)
    assert memory.take(KEY) is tile
    memory.give_back(KEY, tile, SIDE * SIDE - 100)
    assert memory.take(KEY) is None
    assert memory.kept_bytes == 0
    assert memory.blank(SIDE, SIDE) is tile
    assert memory.blank(SIDE, SIDE) is not tile


def test_a_tile_in_use_is_not_let_go() -> None:
    memory = TileMemory(BYTES)
    first = decoded(memory, 7)
    memory.give_back(KEY, first, 1)
    assert memory.take(KEY) is first
    memory.give_back((0, 8), decoded(memory, 8), 1)  # no room for both
    assert memory.blank(SIDE, SIDE) is not first
    memory.give_back(KEY, first, SIDE * SIDE - 1)
    assert memory.kept_bytes == 0


def test_a_tile_decoded_twice_at_once_is_kept_once() -> None:
    memory = TileMemory(4 * BYTES)
    mine, theirs = decoded(memory, 7), decoded(memory, 7)
    memory.give_back(KEY, theirs, 5)
    memory.give_back(KEY, mine, 5)
    assert memory.kept_bytes == BYTES
    assert memory.take(KEY) is mine


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 4))
def test_no_more_is_kept_than_there_is_room(numbers: list[int], room: int) -> None:
    memory = TileMemory(room * BYTES)
    for number in numbers:
        tile = memory.take((0, number))
        if tile is None:
            tile = decoded(memory, number)
            tile[...] = number
        assert (tile == number).all()
        memory.give_back((0, number), tile, 1)
        assert memory.kept_bytes <= room * BYTES


@pytest.mark.parametrize("side", [240, 256, 500])
def test_libjpeg_turbo_is_kept_from_writing_past_the_caches(side: int) -> None:
    assert TileMemory(0).blank(side, side).ctypes.data % 32 == 16


def test_a_grid_off_the_native_tiles_keeps_little_more_than_a_row(data_dir: Path) -> None:
    path = data_dir / "slides/TCGA-CR-7395-01A-01-TS1.svs"
    side = 256
    with open_slide(path) as slide:
        assert isinstance(slide, JpegTiffReader)
        columns, rows = (length // side - 1 for length in slide.info.dimensions)
        table = slide._tables[0]
        tile_bytes = table.tile_width * table.tile_height * 3
        in_a_row = columns * side // table.tile_width + 2
        out = np.empty((side, side, 3), np.uint8)
        for row in range(rows):
            for column in range(columns):
                slide.read_into(0, 77 + column * side, 33 + row * side, out)
            # one row is wanted again; the first row, and the ends of all, nobody asks for whole
            assert slide._decoded.kept_bytes <= (2 * in_a_row + 2 * row) * tile_bytes


def test_threads_that_share_tiles_see_the_same_pixels(data_dir: Path) -> None:
    path = data_dir / "slides/CMU-1-Small-Region.svs"
    corners = [(x, y) for y in range(0, 2000, 150) for x in range(0, 1900, 150)]
    with open_slide(path) as slide, open_slide(path, reader="openslide") as reference:

        def same(corner: tuple[int, int]) -> bool:
            ours = slide.read(0, *corner, 150, 150)
            return np.array_equal(ours, reference.read(0, *corner, 150, 150))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(same, corners * 3))
