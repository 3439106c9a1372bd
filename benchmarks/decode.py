"""From a slide's file to tiles: OpenSlide, other readers, ours, and bare libjpeg-turbo.

python -m benchmarks.decode [--pixels SLIDE] [--peers FOLDER] [--only PEER ...]
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openslide
import simplejpeg
import tifffile
from PIL import Image

from benchmarks.contest import add_peer_flags
from benchmarks.measure import Table, arguments, interleave, per_cpu_second, write_tables
from benchmarks.readers import reading_peers
from benchmarks.slides import MPP, TILE_PX, Scan, read_patch, write_scan
from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles import map_blocks, plan_grid
from wsi_pipeline.types import Region

SIDE = 16_384
MARGIN = 512  # the grid begins here …
OFFSET = 77  # … and so far off the native tiles' corners
INSIDE = SIDE - 2 * MARGIN
DECODE_NATIVE = "Decode, native resolution, unaligned grid"


def main() -> None:
    parser = arguments(__doc__)
    add_peer_flags(parser)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        scan = Scan(side=SIDE, tissue=1.0, downsamples=(1,))
        path = write_scan(Path(name) / "scan.svs", scan, read_patch(given.pixels))
        native = [_native(path, corner, given) for corner in (MARGIN + OFFSET, MARGIN)]
        tables = [*native, _halved(path, given.rounds)]
    write_tables(tables, given.out)


def _native(path: Path, corner: int, given: argparse.Namespace) -> Table:
    """Tiles of the file's own size, at its own corners or between them."""
    across, aligned = INSIDE // TILE_PX, corner % TILE_PX == 0
    readers, notes = reading_peers(path, corner, across, given.peers, given.only)
    rates = interleave(
        {
            "OpenSlide": per_cpu_second(lambda: _by_openslide(path, 1, _as_read, corner)),
            **readers,
            "bare libjpeg-turbo": per_cpu_second(lambda: _floor(path, 1, corner)),
            "wsi_pipeline": per_cpu_second(lambda: _ours(path, 0.25, corner)),
        },
        given.rounds,
    )
    grid = "on the file's own grid" if aligned else f"{OFFSET} px off the file's own tiles"
    return Table(
        name="decode-stored" if aligned else "decode-native",
        title="Decode, the file's own tiles" if aligned else DECODE_NATIVE,
        unit="tiles per CPU-second", rates=rates, ours=("wsi_pipeline",),
        notes=(f"256 px tiles at native resolution {grid}", *notes),
    )  # fmt: skip


def _halved(path: Path, rounds: int) -> Table:
    rates = interleave(
        {
            "OpenSlide + Lanczos": per_cpu_second(lambda: _by_openslide(path, 2, _lanczos)),
            "OpenSlide + area mean": per_cpu_second(lambda: _by_openslide(path, 2, _area)),
            "bare libjpeg-turbo + area mean": per_cpu_second(lambda: _floor(path, 2)),
            "wsi_pipeline": per_cpu_second(lambda: _ours(path, 0.5)),
        },
        rounds,
    )
    return Table(
        name="decode-halved", title="Decode, 0.25 to 0.5 µm/px, unaligned grid",
        unit="tiles per CPU-second", rates=rates, ours=("wsi_pipeline",),
        notes=("256 px tiles from 512 px of level 0",),
    )  # fmt: skip


def _by_openslide(
    path: Path, factor: int, finish: Callable[[Image.Image], object], start: int = MARGIN + OFFSET
) -> int:
    """Read tile by tile, as most tools do; a fresh slide, so that nothing is in its cache."""
    side = TILE_PX * factor
    count = INSIDE // side
    with openslide.OpenSlide(path) as slide:
        for row in range(count):
            for column in range(count):
                corner = (start + column * side, start + row * side)
                finish(slide.read_region(corner, 0, (side, side)))
    return count * count


def _as_read(region: Image.Image) -> object:
    return np.asarray(region.convert("RGB"))


def _lanczos(region: Image.Image) -> object:
    small = region.convert("RGB").resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _area(region: Image.Image) -> object:
    pixels = np.asarray(region.convert("RGB"))
    return cv2.resize(pixels, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)


def _floor(path: Path, factor: int, start: int = MARGIN + OFFSET) -> int:
    """Decode each native tile that the grid touches once, and reduce as many tiles as it has."""
    side = TILE_PX * factor
    count = INSIDE // side
    first = start // TILE_PX
    last = (start + count * side - 1) // TILE_PX
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offsets, sizes = page.dataoffsets, page.databytecounts
    across = SIDE // TILE_PX
    file = os.open(path, os.O_RDONLY)
    for row in range(first, last + 1):
        for column in range(first, last + 1):
            place = row * across + column
            stored = os.pread(file, sizes[place], offsets[place])
            tile = simplejpeg.decode_jpeg(stored, "RGB")
    os.close(file)
    if factor > 1:
        whole = np.tile(tile, (factor, factor, 1))
        for _ in range(count * count):
            cv2.resize(whole, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
    return count * count


def _ours(path: Path, mpp: float, start: int = MARGIN + OFFSET) -> int:
    area = Region(x=start, y=start, width=INSIDE, height=INSIDE)
    with open_slide(path) as slide:
        grid = plan_grid(slide.info, MPP, mpp, tile_px=TILE_PX, region=area)
        every = np.ones(len(grid), bool)
        return sum(map_blocks(slide, grid, every, lambda block, _: len(block.tiles), threads=0))


if __name__ == "__main__":
    main()
