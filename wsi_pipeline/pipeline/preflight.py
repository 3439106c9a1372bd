"""What a dry run says of each slide: what it is, what cutting it would come to, why it would fail.

Headers are read, whether the file is whole, and the overview on which tissue is found: a few tenths
of a second a slide, so a folder of thousands is a matter of minutes.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import tifffile

from wsi_pipeline.errors import SlideReadError, WsiError
from wsi_pipeline.events import Event, Note, Planned, SlideFailed
from wsi_pipeline.pipeline.forecast import TILES_PER_SECOND, forecast_tile
from wsi_pipeline.pipeline.tile_task import CutTask
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.slides import (
    Slide,
    compression_of,
    has_native_frames,
    has_native_tiles,
    open_for_metadata,
    open_slide,
    reduce_area,
)
from wsi_pipeline.tiles import grid_for, native_mpp, survey_slide
from wsi_pipeline.tissue import tissue_fractions

Row = dict[str, str | int | float | None]

MEGABYTES_PER_MEGAPIXEL: Final = 3.0  # scanned tissue hardly compresses without loss
TIFF_SUFFIXES: Final = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".btf")
EMPTY_UM: Final = 8.0  # about at this resolution the emptiness of tiles is estimated
EMPTY_DENSITY: Final = 0.05  # below this optical density against glass
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
        f"{seconds / 60:,.0f} minutes of one core; tiles are estimated on the overview of each "
        "slide, within 15 % on needle biopsies and sections"
    )
    if tasks:
        yield forecast_tile(RunFolder(tasks[0].settings.run), tiles, megabytes, seconds).note()


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
            require_whole(task.path)
            mpp, source = native_mpp(slide, asked, task.request)
            row |= {"µm/px": mpp, "from": source}
            row |= _amount(slide, task, mpp)
    except WsiError as error:
        return Checked(row=row | {"refused": _short(str(error), task)}, error=str(error))
    return Checked(row=row, error=None)


def _about(slide: Slide, task: CutTask, *, automatic: bool) -> Row:
    info = slide.info
    width, height = info.dimensions
    reader = info.reader
    if automatic and has_native_tiles(task.path, info):
        reader = "jpeg-tiff"
    elif automatic and has_native_frames(task.path, info):
        reader = "dicom"
    return {
        "reader": reader,
        "vendor": info.vendor,
        "size": f"{width}×{height}",
        "levels": len(info.level_dimensions),
        "compression": compression_of(task.path, info.dimensions),
    }


def require_whole(path: str | Path) -> None:
    """Refuse a TIFF whose tiles reach beyond the end of the file: its copy was cut short.

    Raises:
        SlideReadError: As said.
    """
    if "://" in str(path) or Path(path).suffix.lower() not in TIFF_SUFFIXES:
        return
    size, missing, tiles = Path(path).stat().st_size, 0, 0
    with tifffile.TiffFile(path) as file:
        for page in file.pages:
            assert isinstance(page, tifffile.TiffPage)
            ends = np.add(page.dataoffsets, page.databytecounts)
            missing, tiles = missing + int((ends > size).sum()), tiles + len(ends)
    if missing:
        raise SlideReadError(
            f"{path}: {missing} of {tiles} tiles lie beyond the end of the file, which was cut "
            "short; copy it again"
        )


def _amount(slide: Slide, task: CutTask, mpp: float | None) -> Row:
    """Estimate what cutting the slide would come to."""
    grid = grid_for(slide.info, mpp, task.settings, task.request.region)
    tiles = _wanted(slide, task) if len(grid) else 0
    read = tiles * (grid.tile_px_level / grid.tile_px) ** 2  # tiles' worth of pixels
    return {
        "level": grid.level,
        "places": len(grid),
        "tiles ≈": tiles,
        "MB ≈": round(tiles * grid.tile_px**2 / 1e6 * MEGABYTES_PER_MEGAPIXEL),
        "s ≈": round(read / TILES_PER_SECOND, 1),
    }


def _wanted(slide: Slide, task: CutTask) -> int:
    """Estimate how many places have enough tissue and little enough that is empty."""
    plan = survey_slide(slide, task.settings, task.request)
    picture = plan.picture
    factor = max(1, round(EMPTY_UM / ((plan.mpp or 0.5) * picture.downsample)))
    rgb = reduce_area(picture.rgb, factor)
    low = np.ceil(plan.glass * 10.0**-EMPTY_DENSITY)
    empty = cv2.inRange(rgb, low, np.full(3, 255.0)) != 0
    share = tissue_fractions(
        empty, plan.grid.coords(), plan.grid.tile_px_level0,
        picture.downsample * factor, picture.origin,
    )  # fmt: skip
    return int((plan.wanted & (share <= task.settings.max_background_fraction)).sum())


def _short(error: str, task: CutTask) -> str:
    """What was found, without the path before it and the advice behind it."""
    return error.removeprefix(f"{task.path}: ").split("; ", 1)[0].rstrip(".")
