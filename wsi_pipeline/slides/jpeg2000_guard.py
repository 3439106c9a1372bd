"""Look at JPEG 2000 tiles before OpenSlide takes memory for whatever size they claim."""

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from wsi_pipeline.slides.tiff_header import TiffDirectory, read_directories
from wsi_pipeline.slides.tile_codec import HEAD_BYTES, expect_jpeg2000
from wsi_pipeline.slides.tile_table import JPEG2000, UnsuitableError, covering, read_tile_tables


class Jpeg2000Guard:
    """The sizes that a slide's JPEG 2000 tiles claim.

    Raises:
        UnsuitableError: The tile tables cannot be read.
    """

    def __init__(self, path: Path, level_dimensions: tuple[tuple[int, int], ...]) -> None:
        self._tables = read_tile_tables(path, level_dimensions, JPEG2000)
        self._file = os.open(path, os.O_RDONLY)

    def check(self, level: int, x: int, y: int, width: int, height: int) -> None:
        """Look at the tiles under a rectangle inside the level.

        Raises:
            ValueError: One is no codestream of a tile's size.
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
