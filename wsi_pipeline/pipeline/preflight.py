"""What a dry run says of each slide: what it is, what cutting it would come to, why it would fail.

Headers and one small picture are read, no level: a folder of thousands is a matter of a minute.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from wsi_pipeline.errors import WsiError
from wsi_pipeline.events import Event, Note, Planned, SlideFailed
from wsi_pipeline.pipeline.tile_task import CutTask
from wsi_pipeline.slides import Slide, compression_of, open_for_metadata, open_slide
from wsi_pipeline.tiles import Grid, grid_for, native_mpp
from wsi_pipeline.tissue import find_tissue, tissue_fractions
from wsi_pipeline.types import RgbImage

Row = dict[str, str | int | float | None]

MEGABYTES_PER_MEGAPIXEL: Final = 3.0  # scanned tissue hardly compresses without loss
TILES_PER_SECOND: Final = 150  # of one worker, about
GLIMPSE_PX: Final = 128  # longest side of the picture on which the share of tissue is estimated
GLIMPSE_FROM_PX: Final = 1 << 21  # a level of more pixels is not read for that
AMOUNTS: Final = ("tiles ≈", "MB ≈", "s ≈")
EMPTY: Final[Row] = dict.fromkeys(
    ("slide", "reader", "vendor", "size", "levels", "compression", "µm/px", "from", "level",
     "places", "tiles ≈", "MB ≈", "s ≈", "refused")
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A slide's row of the table, and the error that cutting it would end in."""

    row: Row
    error: str | None


def preflight(tasks: Sequence[CutTask]) -> Iterator[Event]:
    """Look at every slide, several at a time; a row each, and a failure for those refused."""
    sums: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for task, checked in zip(tasks, pool.map(check, tasks), strict=True):
            yield Planned(row=checked.row)
            sums.update({name: checked.row[name] or 0 for name in AMOUNTS})
            if checked.error is not None:
                yield SlideFailed(slide_id=task.slide_id, error=checked.error)
    tiles, megabytes, seconds = (sums[name] for name in AMOUNTS)
    yield Note(
        text=f"in all about {tiles:,} tiles, {megabytes:,} MB without compression and "
        f"{seconds / 60:,.0f} minutes of one core; tiles are estimated on a small picture of each "
        "slide, before annotations, masks and the background rule"
    )


def check(task: CutTask) -> Checked:
    """Look at one slide; what is wrong with it becomes part of its row."""
    row: Row = {**EMPTY, "slide": task.slide_id}
    asked = task.settings
    automatic = asked.reader == "auto" and asked.modality == "slide"
    try:
        with (
            open_for_metadata(task.path)
            if automatic
            else open_slide(task.path, asked.reader, modality=asked.modality)
        ) as slide:
            row |= _about(slide, task, automatic=automatic)
            mpp, source = native_mpp(slide, asked, task.request)
            row |= {"µm/px": mpp, "from": source}
            row |= _amount(slide, task, mpp)
    except WsiError as error:
        return Checked(row=row | {"refused": _short(str(error), task)}, error=str(error))
    return Checked(row=row, error=None)


def _about(slide: Slide, task: CutTask, *, automatic: bool) -> Row:
    info = slide.info
    width, height = info.dimensions
    compression = compression_of(task.path, info.dimensions)
    native = info.reader == "openslide" and info.vendor in ("aperio", "generic-tiff")
    decoded = native and compression in ("JPEG", "JPEG 2000 (33005)")
    return {
        "reader": "jpeg-tiff" if automatic and decoded else info.reader,
        "vendor": info.vendor,
        "size": f"{width}×{height}",
        "levels": len(info.level_dimensions),
        "compression": compression,
    }


def _amount(slide: Slide, task: CutTask, mpp: float | None) -> Row:
    """Estimate what cutting the slide would come to."""
    grid = grid_for(slide.info, mpp, task.settings, task.request.region)
    wanted = _wanted(slide, grid, task, mpp)
    tiles = len(grid) if wanted is None else wanted
    read = tiles * (grid.tile_px_level / grid.tile_px) ** 2  # tiles' worth of pixels
    return {
        "level": grid.level,
        "places": len(grid),
        "tiles ≈": tiles,
        "MB ≈": round(tiles * grid.tile_px**2 / 1e6 * MEGABYTES_PER_MEGAPIXEL),
        "s ≈": round(read / TILES_PER_SECOND, 1),
    }


def _wanted(slide: Slide, grid: Grid, task: CutTask, mpp: float | None) -> int | None:
    """Estimate how many places have enough tissue; None where no small picture shows it."""
    rgb = _glimpse(slide)
    if rgb is None or not len(grid):
        return None
    downsample = max(slide.info.dimensions) / max(rgb.shape[:2])
    um_per_px = None if mpp is None else mpp * downsample
    mask = find_tissue(rgb, um_per_px, task.settings.tissue_method).mask
    fraction = tissue_fractions(mask, grid.coords(), grid.tile_px_level0, downsample)
    enough = (fraction >= task.settings.min_tissue_fraction) & (fraction > 0)
    return int(np.count_nonzero(enough))


def _glimpse(slide: Slide) -> RgbImage | None:
    """The whole slide, at most ``GLIMPSE_PX`` wide and high; None where that takes long."""
    sizes = slide.info.level_dimensions
    level = max((k for k, size in enumerate(sizes) if max(size) >= GLIMPSE_PX), default=0)
    width, height = sizes[level]
    if width * height <= GLIMPSE_FROM_PX:
        rgb = slide.read(level, 0, 0, width, height)
    elif slide.info.vendor == "aperio" and "thumbnail" in slide.info.associated:
        rgb = slide.associated_image("thumbnail")
    else:
        return None
    scale = GLIMPSE_PX / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    size = tuple(max(1, round(side * scale)) for side in rgb.shape[1::-1])
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _short(error: str, task: CutTask) -> str:
    """What was found, without the path before it and the advice behind it."""
    return error.removeprefix(f"{task.path}: ").split("; ", 1)[0].rstrip(".")
