"""Where a tiled TIFF keeps its JPEG or JPEG 2000 tiles."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.slides.reader import LIBRARY_ERRORS, reason
from wsi_pipeline.slides.tile_codec import jpeg_preamble

_JPEG = 7  # TIFF compression "new-style JPEG"; 6 is another thing
_JPEG2000_RGB = 33005  # Aperio's; its 33003 is YCbCr, which OpenSlide converts in its own way
_RGB, _YCBCR = 2, 6  # TIFF photometric interpretation


class UnsuitableError(Exception):
    """The fast reader does not apply; ``suspicious`` when the file contradicts itself."""

    def __init__(self, text: str, *, suspicious: bool = False) -> None:
        super().__init__(text)
        self.suspicious = suspicious


@dataclass(frozen=True, kw_only=True, eq=False)
class TileTable:
    """One level's tiles.

    Attributes:
        width, height: Of the level, in pixels.
        tile_width, tile_height: Of a native tile.
        columns: Tiles across.
        offsets, byte_counts: (N,) int64, row-major; a byte count of 0 is a missing tile.
        preamble: What every tile lacks to be a whole JPEG, see ``jpeg_preamble``; None when
            the tiles are JPEG 2000, which lack nothing.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    columns: int
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    preamble: bytes | None


def read_tile_tables(
    path: Path, level_dimensions: tuple[tuple[int, int], ...]
) -> tuple[TileTable, ...]:
    """Find each level's tiles.

    Args:
        path: A TIFF file.
        level_dimensions: (width, height) of the levels; each must belong to one TIFF directory.

    Raises:
        UnsuitableError: A level is not made of 8-bit JPEG or JPEG 2000 tiles, or the tables
            cannot be true.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
            size = path.stat().st_size
            return tuple(_level_table(pages, wanted, size) for wanted in level_dimensions)
    except LIBRARY_ERRORS as error:
        raise UnsuitableError(
            f"its directories cannot be read ({reason(error)})", suspicious=True
        ) from error


def _level_table(
    pages: list[tifffile.TiffPage], wanted: tuple[int, int], file_size: int
) -> TileTable:
    matches = [p for p in pages if p.is_tiled and (p.imagewidth, p.imagelength) == wanted]
    if len(matches) != 1:
        raise UnsuitableError(
            f"{len(matches)} tiled directories have the size {wanted[0]} × {wanted[1]}"
        )
    page = matches[0]
    compression, photometric = int(page.compression), int(page.photometric)
    if compression not in (_JPEG, _JPEG2000_RGB):
        raise UnsuitableError(f"its compression is {page.compression!r}, not JPEG")
    if (page.samplesperpixel, page.bitspersample, int(page.planarconfig)) != (3, 8, 1):
        raise UnsuitableError("its pixels are not 3 × 8 bit, interleaved")
    if photometric != _RGB and (compression, photometric) != (_JPEG, _YCBCR):
        raise UnsuitableError(f"its colours are {page.photometric!r}")
    columns, rows = -(-wanted[0] // page.tilewidth), -(-wanted[1] // page.tilelength)
    offsets = np.asarray(page.dataoffsets, np.int64)
    byte_counts = np.asarray(page.databytecounts, np.int64)
    if not len(offsets) == len(byte_counts) == columns * rows:
        raise UnsuitableError(
            f"{columns} × {rows} tiles need {columns * rows} entries, but the tables hold"
            f" {len(offsets)} offsets and {len(byte_counts)} sizes",
            suspicious=True,
        )
    if (byte_counts < 0).any() or (offsets + byte_counts > file_size).any():
        raise UnsuitableError("some tiles lie beyond the end of the file", suspicious=True)
    return TileTable(
        width=wanted[0],
        height=wanted[1],
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        columns=columns,
        offsets=offsets,
        byte_counts=byte_counts,
        preamble=(
            jpeg_preamble(page.jpegtables or b"", rgb=photometric == _RGB)
            if compression == _JPEG
            else None
        ),
    )
