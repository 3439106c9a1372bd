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
import numpy as np

from wsi_pipeline.atomic import atomic_file, write_text
from wsi_pipeline.cohort import CohortSlide, MappedCore
from wsi_pipeline.errors import CohortError
from wsi_pipeline.slides import LowImage
from wsi_pipeline.types import Region

COLUMNS: Final = (
    "row", "column", "core_id", "patient_id", "label", "x", "y", "width", "height"
)  # fmt: skip
FOUND: Final = (36, 96, 214)
LOST: Final = (226, 88, 20)


@dataclass(frozen=True, kw_only=True)
class PlacedCore:
    """A core of the map and where it lies, level-0 px; ``region`` None if it is missing."""

    mapped: MappedCore
    region: Region | None


def join_map(
    mapped: Iterable[MappedCore], found: Iterable[tuple[int, int, Region]]
) -> list[PlacedCore]:
    """Give each core of the map its place.

    Args:
        mapped: The core map; rows and columns as letters or numbers, from A or 1.
        found: (row, column, region), counted from 0, of the cores seen on the slide.
    """
    places = {(row, column): region for row, column, region in found}
    return [
        PlacedCore(mapped=core, region=places.get((position(core.row), position(core.column))))
        for core in mapped
    ]


def position(name: str) -> int:
    """Count from 0: ``A``, ``a`` and ``1`` are 0; ``Z`` is 25, ``AA`` 26; ``03`` is 2.

    Raises:
        CohortError: Neither a letter nor a positive number.
    """
    if name.isdecimal() and int(name) > 0:
        return int(name) - 1
    if name.isascii() and name.isalpha():
        number = 0
        for letter in name.upper():
            number = 26 * number + ord(letter) - ord("A") + 1
        return number - 1
    raise CohortError(f"core map: {name!r} is no row or column; use letters or numbers from 1")


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


def draw_cores(path: Path, overview: LowImage, cores: Iterable[PlacedCore]) -> None:
    """Write a JPEG of the TMA with every core's outline and name."""
    canvas = overview.rgb.copy()
    x0, y0 = overview.origin
    thick = max(1, round(max(canvas.shape[:2]) / 900))
    for core in cores:
        if core.region is None:
            continue
        region = core.region
        centre = (
            round((region.x + region.width / 2 - x0) / overview.downsample),
            round((region.y + region.height / 2 - y0) / overview.downsample),
        )
        axes = (
            round(region.width / 2 / overview.downsample),
            round(region.height / 2 / overview.downsample),
        )
        cv2.ellipse(canvas, centre, axes, 0, 0, 360, FOUND, thick, cv2.LINE_AA)
        name = f"{core.mapped.row}{core.mapped.column}"
        scale = max(0.35, axes[0] / 90)
        (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
        corner = (centre[0] - width // 2, centre[1] + height // 2)
        for colour, weight in (((255, 255, 255), thick * 3), (FOUND, thick)):
            cv2.putText(
                canvas, name, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA
            )
    with atomic_file(path) as partial:
        cv2.imwrite(str(partial), np.ascontiguousarray(canvas[:, :, ::-1]))
