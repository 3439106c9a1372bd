"""The bare steps of the tile stage, on all cores at once: what no pipeline can be faster than."""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Final

import cv2
import imagecodecs
import numpy as np
import simplejpeg
import tifffile

from benchmarks.slides import TILE_PX
from wsi_pipeline.stain import StainTransform, fit_stain, sample_pixels
from wsi_pipeline.types import RgbTiles

AT_ONCE: Final = 64  # tiles normalised in one call
TILES: Final = 512  # for each core
FACTOR: Final = 2  # native pixels per pixel, along a side

Bytes = list[tuple[int, int]]


def floor_rate(path: Path, *, stain: bool, cores: int | None = None, scaled: bool = False) -> float:
    """Return tiles a second, every core at the same steps.

    They are: read and decode four native tiles, average them to one, normalise, pack as JPEG,
    write. Tissue is not looked for, tiles are not judged, nothing is copied to its place: pixels
    are averaged from a square that is there already.

    Args:
        path: A scan, see ``write_scan``.
        stain: Whether tiles are normalised.
        cores: How many; None takes all.
        scaled: Native tiles are decoded at the tiles' own size, and nothing is averaged.
    """
    cv2.setNumThreads(1)
    cores = cores or len(os.sched_getaffinity(0))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        tissue = np.flatnonzero(np.array(page.databytecounts) > 2 * min(page.databytecounts))
        places = np.random.default_rng(0).choice(tissue, 4 * AT_ONCE)
        stored = [(page.databytecounts[i], page.dataoffsets[i]) for i in places]
    pixels = sample_pixels(_decoded(path, stored[:AT_ONCE]))
    transform = fit_stain("macenko", pixels) if stain else None
    together = Barrier(cores + 1)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(cores) as pool:
        lanes = [
            pool.submit(
                _lane, path, Path(name) / str(number), stored, transform, together, scaled=scaled
            )
            for number in range(cores)
        ]
        together.wait()
        begun = time.perf_counter()
        for lane in lanes:
            lane.result()
        return cores * TILES / (time.perf_counter() - begun)


def _decoded(path: Path, stored: Bytes) -> RgbTiles:
    with path.open("rb") as file:
        data = [os.pread(file.fileno(), size, offset) for size, offset in stored]
    return np.stack([simplejpeg.decode_jpeg(tile, "RGB") for tile in data])


def _lane(
    source: Path,
    target: Path,
    stored: Bytes,
    transform: StainTransform | None,
    together: Barrier,
    *,
    scaled: bool,
) -> None:
    """Make tiles on one core, in memory that is warm."""
    side = TILE_PX // FACTOR if scaled else TILE_PX
    native = np.empty((side, side, 3), np.uint8)
    decode = partial(
        simplejpeg.decode_jpeg, colorspace="RGB", buffer=native, min_height=side, min_width=side,
        min_factor=FACTOR if scaled else 1,
    )  # fmt: skip
    square = np.tile(_decoded(source, stored[:1])[0], (FACTOR, FACTOR, 1))
    tiles: RgbTiles = np.ones((AT_ONCE, TILE_PX, TILE_PX, 3), np.uint8)
    with source.open("rb") as file, target.open("wb") as out:
        together.wait()
        for begin in range(0, TILES, AT_ONCE):
            for slot, tile in enumerate(tiles):
                for part in range(FACTOR**2):
                    size, offset = stored[(FACTOR**2 * (begin + slot) + part) % len(stored)]
                    decode(os.pread(file.fileno(), size, offset))
                if not scaled:
                    cv2.resize(square, (TILE_PX, TILE_PX), dst=tile, interpolation=cv2.INTER_AREA)
            if transform is not None:
                transform.apply(tiles, tiles)
            for tile in tiles:
                out.write(imagecodecs.jpeg8_encode(tile, level=90))
