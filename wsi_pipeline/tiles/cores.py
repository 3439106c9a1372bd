"""Cores of a tissue microarray as slides of their own.

Where the cores lie is found once and written to a CSV that a person may correct: later runs read
it and never write over it.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2

from wsi_pipeline.atomic import atomic_file, write_text
from wsi_pipeline.cohort import CohortSlide, MappedCore
from wsi_pipeline.errors import CohortError, NoTissueError, SlideError
from wsi_pipeline.slides import LowImage, open_slide, read_low
from wsi_pipeline.tissue import Core, dearray, draw_cores, join_core_map
from wsi_pipeline.types import Region, RgbImage

COLUMNS: Final = (
    "row", "column", "core_id", "patient_id", "label", "x", "y", "width", "height"
)  # fmt: skip
OVERVIEW_PX: Final = 1600  # longest side, about
MARGIN: Final = 1.1  # of a core's diameter


@dataclass(frozen=True, kw_only=True)
class PlacedCore:
    """A core of the map and where it lies, level-0 px; ``region`` None if it is missing."""

    mapped: MappedCore
    region: Region | None


def place_cores(
    path: Path, mapped: Sequence[MappedCore], reader: str = "auto"
) -> tuple[RgbImage, list[PlacedCore]]:
    """Find a TMA slide's cores and join them with its core map.

    Args:
        path: The slide.
        mapped: Its core map.
        reader: Name of the slide reader.

    Returns:
        A picture with every core's outline and name, and the rows of the map with their places.

    Raises:
        SlideError: It cannot be read, no cores are found, or the map does not fit them.
    """
    with open_slide(path, reader) as slide:
        bounds = slide.info.bounds
        target = max(bounds.width, bounds.height) / OVERVIEW_PX
        overview = read_low(slide, 1.0, max(1.0, target))
    try:
        array = dearray(overview.rgb)
        joined = join_core_map(array, mapped)
    except (NoTissueError, CohortError) as error:
        raise SlideError(f"{path}: {error}") from error
    cores = [PlacedCore(mapped=row.mapped, region=_place(overview, row.core)) for row in joined]
    return draw_cores(overview.rgb, array), cores


def _place(overview: LowImage, core: Core | None) -> Region | None:
    """Return the square around a core, with room for its ragged edge."""
    if core is None or core.missing:
        return None
    side = round(core.diameter_px * overview.downsample * MARGIN)
    x, y = (
        round(origin + (centre + 0.5) * overview.downsample - side / 2)
        for origin, centre in zip(overview.origin, (core.x, core.y), strict=True)
    )
    return Region(x=x, y=y, width=side, height=side)


def as_slides(slide: CohortSlide, cores: Iterable[PlacedCore]) -> list[CohortSlide]:
    """Return a slide for each core that has a place; what the map does not say is the TMA's."""
    return [
        replace(
            slide,
            slide_id=core.mapped.core_id,
            patient_id=core.mapped.patient_id or slide.patient_id,
            label=core.mapped.label or slide.label,
            tma_map=None,
            region=core.region,
        )
        for core in cores
        if core.region is not None
    ]


def write_cores(path: Path, cores: Iterable[PlacedCore]) -> None:
    """Write the table a person may correct; a missing core has no x, y, width, height."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for core in cores:
        mapped, region = core.mapped, core.region
        place = ("",) * 4 if region is None else (region.x, region.y, region.width, region.height)
        who = (mapped.core_id, mapped.patient_id or "", mapped.label or "")
        writer.writerow((mapped.row, mapped.column, *who, *place))
    write_text(path, text.getvalue())


def read_cores(path: Path) -> list[PlacedCore]:
    """Read the table back.

    Raises:
        CohortError: Columns are missing, or a place is not four whole numbers.
    """
    rows = csv.DictReader(io.StringIO(path.read_text("utf-8-sig")))
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise CohortError(f"{path}: column {', '.join(missing)} missing; delete it to find anew")
    cores = []
    for row in rows:
        place = [row[name] for name in ("x", "y", "width", "height")]
        try:
            region = _region(place) if any(place) else None
        except ValueError:
            raise CohortError(
                f"{path}: line {rows.line_num}: x, y, width, height must be four whole numbers, "
                f"the size positive; found {', '.join(map(repr, place))}"
            ) from None
        mapped = MappedCore(
            row=row["row"], column=row["column"], core_id=row["core_id"],
            patient_id=row["patient_id"] or None, label=row["label"] or None,
        )  # fmt: skip
        cores.append(PlacedCore(mapped=mapped, region=region))
    return cores


def _region(place: Sequence[str | None]) -> Region:
    x, y, width, height = (int(value or "") for value in place)
    if width <= 0 or height <= 0:
        raise ValueError
    return Region(x=x, y=y, width=width, height=height)


def write_preview(path: Path, picture: RgbImage) -> None:
    """Write the picture of the cores as a JPEG."""
    with atomic_file(path) as partial:
        cv2.imwrite(str(partial), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
