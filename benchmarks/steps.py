"""Where a core's time goes: each step of a tile's way, beside the library's own call for it.

python -m benchmarks.steps [--pixels SLIDE] [--tiles 1000]

A slide is cut by one thread, and processor time is taken, so that no step is charged with another's
or with another job's. The bare calls are those of the floor, on the same slide's bytes.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal
from unittest.mock import patch

import cv2
import imagecodecs
import numpy as np
import simplejpeg
import tifffile

from benchmarks.floor import FACTOR
from benchmarks.measure import Table, arguments, write_tables
from benchmarks.slides import TILE_PX, Scan, read_patch, write_scan
from wsi_pipeline.stain import fit_stain, sample_pixels
from wsi_pipeline.tiles import TileSettings, cut_slide, open_tiles
from wsi_pipeline.timing import Stopwatch

SHARE: Final = 0.7
FEW: Final = 64  # tiles on which bare calls are timed
ONCE: Final = ("open", "plan", "fit", "thumbnail")
Codec = Literal["zstd", "jpeg"]
Spent = dict[str, list[float]]
Bare = dict[str, Callable[[int], object]]
ROWS: Final = {
    "bare: decode four native tiles, average": ("bare decode", "bare average"),
    "read, decode, average": ("read", "decode", "resample"),
    "bare: Macenko": ("bare normalise",),
    "Macenko": ("normalise",),
    "judge": ("judge",),
    "bare: zstd": ("bare zstd",),
    "pack, zstd": ("encode zstd",),
    "bare: JPEG": ("bare jpeg",),
    "pack, JPEG": ("encode jpeg",),
    "write, zstd": ("write zstd",),
    "write, JPEG": ("write jpeg",),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tiles", type=int, default=1_000, help="of the slide, about")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    spent: Spent = {}
    clock = patch.object(time, "perf_counter", time.thread_time)
    with tempfile.TemporaryDirectory() as name, clock:
        folder = Path(name)
        side = round((given.tiles / SHARE) ** 0.5) * TILE_PX * FACTOR
        scan = Scan(side=side, tissue=SHARE, downsamples=(1, 4, 16))
        slide = write_scan(folder / "scan.svs", scan, read_patch(given.pixels))
        _cut(slide, folder, "zstd", {})  # libraries are loaded, the file is in the system's cache
        bare = _bare(slide, folder)
        for number in range(given.rounds):
            for codec in ("zstd", "jpeg"):
                count = _cut(slide, folder, codec, spent)
            for step, call in bare.items():
                begun = time.thread_time()
                for place in range(FEW):
                    call(place)
                _note(spent, f"bare {step}", (time.thread_time() - begun) / FEW)
            print(f"round {number + 1}", flush=True)
    rates = {
        row: [1e3 * sum(times) for times in zip(*(spent[step] for step in steps), strict=True)]
        for row, steps in ROWS.items()
    }
    once = ", ".join(f"{step} {1e3 * float(np.median(spent[step])):.0f}" for step in ONCE)
    table = Table(
        name="steps", title="A tile's way, of a core's time", unit="ms a tile, less is better",
        rates=rates, ours=tuple(row for row in rates if "bare" not in row), how="rounds",
        notes=(f"one slide of {count:,} tiles, 0.25 to 0.5 µm/px", f"once a slide, ms: {once}"),
    )  # fmt: skip
    write_tables([table], given.out)


def _cut(slide: Path, folder: Path, codec: Codec, spent: Spent) -> int:
    """Cut the slide, note each step's seconds of a core, by tile or once; return its tiles."""
    watch, store = Stopwatch(), folder / "tiles.zarr"
    settings = TileSettings(stain="macenko", codec=codec, max_background_fraction=1.0)
    thumbnail = folder / "thumbnail.jpg"
    cut_slide(slide, store, settings, watch=watch, threads=0, thumbnail=thumbnail)
    count = len(open_tiles(store))
    for step, seconds in watch.seconds.items():
        name = f"{step} {codec}" if step in ("encode", "write") else step
        _note(spent, name, seconds if step in ONCE else seconds / count)
    return count


def _note(spent: Spent, step: str, seconds: float) -> None:
    spent.setdefault(step, []).append(seconds)


def _bare(slide: Path, folder: Path) -> Bare:
    """Return the libraries' calls for a tile, by step; a number says which tile."""
    tiles = np.asarray(open_tiles(folder / "tiles.zarr").tiles[:FEW])
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages.first
        tissue = np.flatnonzero(np.array(page.databytecounts) > 2 * min(page.databytecounts))
        places = np.random.default_rng(0).choice(tissue, FACTOR**2 * FEW)
        with slide.open("rb") as file:
            stored = [
                os.pread(file.fileno(), page.databytecounts[i], page.dataoffsets[i])
                for i in places.tolist()
            ]
    native = np.empty((TILE_PX, TILE_PX, 3), np.uint8)
    square = np.tile(tiles[0], (FACTOR, FACTOR, 1))
    transform = fit_stain("macenko", sample_pixels(tiles))
    out = np.empty_like(tiles)

    def decode(place: int) -> None:
        for part in range(FACTOR**2):
            simplejpeg.decode_jpeg(stored[FACTOR**2 * place + part], "RGB", buffer=native)

    def average(place: int) -> None:
        cv2.resize(square, (TILE_PX, TILE_PX), dst=out[place], interpolation=cv2.INTER_AREA)

    return {
        "decode": decode,
        "average": average,
        "normalise": lambda place: transform.apply(tiles[place : place + 1], out[:1]),
        "zstd": lambda place: imagecodecs.zstd_encode(tiles[place], level=1),
        "jpeg": lambda place: imagecodecs.jpeg8_encode(tiles[place], level=90),
    }


if __name__ == "__main__":
    main()
