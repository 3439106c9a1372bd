"""From a slide's file to tiles: OpenSlide, our reader, and bare libjpeg-turbo as the floor.

python -m benchmarks.decode [--pixels SLIDE]
"""

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

from benchmarks.measure import Table, arguments, interleave, per_cpu_second, write_tables
from benchmarks.slides import MPP, TILE_PX, Scan, read_patch, write_scan
from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles import map_blocks, plan_grid
from wsi_pipeline.types import Region

SIDE = 16_384
MARGIN = 512  # the grid begins here …
OFFSET = 77  # … and so far off the native tiles' corners
INSIDE = SIDE - 2 * MARGIN


def main() -> None:
    given = arguments(__doc__).parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        scan = Scan(side=SIDE, tissue=1.0, downsamples=(1,))
        path = write_scan(Path(name) / "scan.svs", scan, read_patch(given.pixels))
        tables = [_native(path, given.rounds), _halved(path, given.rounds)]
    write_tables(tables, given.out)


def _native(path: Path, rounds: int) -> Table:
    rates = interleave(
        {
            "OpenSlide": per_cpu_second(lambda: _by_openslide(path, 1, _as_read)),
            "bare libjpeg-turbo": per_cpu_second(lambda: _floor(path, 1)),
            "wsi_pipeline": per_cpu_second(lambda: _ours(path, 0.25)),
        },
        rounds,
    )
    notes = ("256 px tiles at native resolution on a grid 77 px off the file's own tiles",)
    return Table(
        name="decode-native", title="Decode, native resolution, unaligned grid",
        unit="tiles per CPU-second", rates=rates, notes=notes, ours=("wsi_pipeline",),
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


def _by_openslide(path: Path, factor: int, finish: Callable[[Image.Image], object]) -> int:
    """Read tile by tile, as most tools do; a fresh slide, so that nothing is in its cache."""
    side = TILE_PX * factor
    count = INSIDE // side
    with openslide.OpenSlide(path) as slide:
        for row in range(count):
            for column in range(count):
                corner = (MARGIN + OFFSET + column * side, MARGIN + OFFSET + row * side)
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


def _floor(path: Path, factor: int) -> int:
    """Decode each native tile that the grid touches once, and reduce as many tiles as it has."""
    side = TILE_PX * factor
    count = INSIDE // side
    first = (MARGIN + OFFSET) // TILE_PX
    last = (MARGIN + OFFSET + count * side - 1) // TILE_PX
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


def _ours(path: Path, mpp: float) -> int:
    area = Region(x=MARGIN + OFFSET, y=MARGIN + OFFSET, width=INSIDE, height=INSIDE)
    with open_slide(path) as slide:
        grid = plan_grid(slide.info, MPP, mpp, tile_px=TILE_PX, region=area)
        every = np.ones(len(grid), bool)
        return sum(map_blocks(slide, grid, every, lambda block, _: len(block.tiles), threads=0))


if __name__ == "__main__":
    main()
