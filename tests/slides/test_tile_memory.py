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
WHOLE = SIDE * SIDE


def memory_for(room: int) -> TileMemory:
    return TileMemory(SIDE, SIDE, room)


def decoded(memory: TileMemory, number: int) -> RgbImage:
    tile, known = memory.take(number)
    assert not known
    tile[...] = number
    return tile


def test_a_tile_goes_when_all_of_it_was_copied_and_its_memory_serves_the_next() -> None:
    memory = memory_for(4)
    tile = decoded(memory, 7)
    memory.give_back(7, tile, 100, WHOLE)
    again, known = memory.take(7)
    assert known
    assert again is tile
    memory.give_back(7, tile, WHOLE - 100, WHOLE)
    assert len(memory) == 0
    assert decoded(memory, 7) is tile
    assert decoded(memory, 8) is not tile


@pytest.mark.parametrize("copied", [0, WHOLE])
def test_a_tile_that_is_undecodable_or_asked_for_whole_is_never_kept(copied: int) -> None:
    memory = memory_for(4)
    tile = decoded(memory, 7)
    memory.give_back(7, tile, copied, copied)
    assert len(memory) == 0
    assert decoded(memory, 9) is tile


def test_a_tile_in_use_is_not_let_go() -> None:
    memory = memory_for(1)
    first = decoded(memory, 7)
    memory.give_back(7, first, 1, WHOLE)
    assert memory.take(7) == (first, True)
    memory.give_back(8, decoded(memory, 8), 1, WHOLE)  # no room for both
    assert decoded(memory, 9) is not first
    memory.give_back(7, first, WHOLE - 1, WHOLE)
    assert len(memory) == 0


def test_a_tile_decoded_twice_at_once_is_kept_once() -> None:
    memory = memory_for(4)
    mine, theirs = decoded(memory, 7), decoded(memory, 7)
    assert mine is not theirs
    memory.give_back(7, theirs, 5, WHOLE)
    memory.give_back(7, mine, 5, WHOLE)
    assert len(memory) == 1
    assert memory.take(7)[0] is theirs
    memory.give_back(7, theirs, WHOLE - 10, WHOLE)
    assert len(memory) == 0


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 4))
def test_no_more_is_kept_than_there_is_room(numbers: list[int], room: int) -> None:
    memory = memory_for(room)
    for number in numbers:
        tile, known = memory.take(number)
        if not known:
            tile[...] = number
        assert (tile == number).all()
        memory.give_back(number, tile, 1, WHOLE)
        assert len(memory) <= room


@pytest.mark.parametrize("side", [240, 256, 500])
def test_libjpeg_turbo_is_kept_from_writing_past_the_caches(side: int) -> None:
    assert TileMemory(side, side, 0).take(0)[0].ctypes.data % 32 == 16


def test_a_grid_off_the_native_tiles_keeps_little_more_than_a_row(data_dir: Path) -> None:
    path = data_dir / "slides/TCGA-CR-7395-01A-01-TS1.svs"
    side = 256
    with open_slide(path) as slide:
        assert isinstance(slide, JpegTiffReader)
        columns, rows = (length // side - 1 for length in slide.info.dimensions)
        table = slide._levels[0][0].table
        in_a_row = columns * side // table.tile_width + 2
        out = np.empty((side, side, 3), np.uint8)
        for row in range(rows):
            for column in range(columns):
                slide.read_into(0, 77 + column * side, 33 + row * side, out)
            # one row is wanted again; the first row, and the ends of all, nobody asks for whole
            assert len(slide._levels[0][0].memory) <= 2 * in_a_row + 2 * row


def test_threads_that_share_tiles_see_the_same_pixels(data_dir: Path) -> None:
    path = data_dir / "slides/CMU-1-Small-Region.svs"
    corners = [(x, y) for y in range(0, 2000, 150) for x in range(0, 1900, 150)]
    with open_slide(path) as slide, open_slide(path, reader="openslide") as reference:

        def same(corner: tuple[int, int]) -> bool:
            ours = slide.read(0, *corner, 150, 150)
            return np.array_equal(ours, reference.read(0, *corner, 150, 150))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(same, corners * 3))
