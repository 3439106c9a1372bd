"""Cores of a tissue microarray as slides of their own.

Where the cores lie is found once and written to a CSV that a person may correct: later runs read
it and never write over it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.cohort import CohortSlide, MappedCore
from wsi_pipeline.errors import CohortError
from wsi_pipeline.tables import read_table, write_csv
from wsi_pipeline.types import Region, RgbImage

COLUMNS: Final = (
    "row", "column", "core_id", "patient_id", "label", "x", "y", "width", "height"
)  # fmt: skip
MARKED: Final = "control"  # a column that tables made by hand may lack
TILT: Final = "tilt_deg"  # another
YES: Final = ("yes", "true", "1", "x")


@dataclass(frozen=True, kw_only=True)
class PlacedCore:
    """A core of the map and where it lies, level-0 px; ``region`` None if it is missing.

    ``control`` marks tissue that is there to check the staining, not to be diagnosed. ``tilt_deg``
    is how far the microarray's rows are turned, clockwise; None if nobody measured it.
    """

    mapped: MappedCore
    region: Region | None
    control: bool = False
    tilt_deg: float | None = None


def place_name(mapped: MappedCore) -> str:
    """Name a place as its map does: ``A1`` where rows have letters, else ``1-1``."""
    between = "" if mapped.row.isalpha() and mapped.column.isdecimal() else "-"
    return f"{mapped.row}{between}{mapped.column}"


def is_control(mapped: MappedCore) -> bool:
    """Whether a core map calls a core a control: in its label, its patient or its name."""
    texts = (mapped.label, mapped.patient_id, mapped.core_id)
    return any("control" in (text or "").casefold() for text in texts)


def as_slides(slide: CohortSlide, cores: Iterable[PlacedCore]) -> list[CohortSlide]:
    """Return a slide for each core that has a place; what the map does not say is the TMA's.

    A control has no label: it is no patient's tissue, so nothing is learnt from it or judged by it.
    """
    return [
        replace(
            slide,
            slide_id=core.mapped.core_id,
            patient_id=core.mapped.patient_id or slide.patient_id,
            label=None if core.control else core.mapped.label or slide.label,
            tma_map=None,
            sample_type=MARKED if core.control else slide.sample_type,
            region=core.region,
            tilt_deg=core.tilt_deg,
        )
        for core in cores
        if core.region is not None
    ]


def write_cores(path: Path, cores: Iterable[PlacedCore]) -> None:
    """Write the table a person may correct; a missing core has no x, y, width, height."""
    rows = []
    for core in cores:
        mapped, region = core.mapped, core.region
        place = ("",) * 4 if region is None else (region.x, region.y, region.width, region.height)
        who = (mapped.core_id, mapped.patient_id or "", mapped.label or "")
        marked = "yes" if core.control else ""
        tilt = "" if core.tilt_deg is None else f"{core.tilt_deg:.2f}"
        rows.append((mapped.row, mapped.column, *who, *place, marked, tilt))
    write_csv(path, (*COLUMNS, MARKED, TILT), rows)


def read_cores(path: Path) -> list[PlacedCore]:
    """Read the table back.

    Raises:
        CohortError: Columns are missing, a place is not four whole numbers, or a tilt no number.
    """
    cores = []
    for found in read_table(path, COLUMNS, ids=("core_id", "patient_id")):
        row = found.cells
        place = [row[name] for name in ("x", "y", "width", "height")]
        try:
            region = _region(place) if any(place) else None
            tilt = float(row[TILT]) if row.get(TILT) else None
        except ValueError:
            raise CohortError(
                f"{path}: line {found.line}: x, y, width, height must be four whole numbers, "
                f"the size positive, and {TILT} a number or empty; found "
                f"{', '.join(map(repr, (*place, row.get(TILT) or '')))}"
            ) from None
        mapped = MappedCore(
            row=row["row"], column=row["column"], core_id=row["core_id"],
            patient_id=row["patient_id"] or None, label=row["label"] or None,
        )  # fmt: skip
        marked = row.get(MARKED)
        control = is_control(mapped) if marked is None else marked.strip().casefold() in YES
        cores.append(PlacedCore(mapped=mapped, region=region, control=control, tilt_deg=tilt))
    return cores


def _region(place: Sequence[str | None]) -> Region:
    x, y, width, height = (int(value or "") for value in place)
    if width <= 0 or height <= 0:
        raise ValueError
    return Region(x=x, y=y, width=width, height=height)


def write_preview(path: Path, picture: RgbImage) -> None:
    """Write the picture of the cores, in the format of its suffix."""
    with atomic_file(path) as partial:
        cv2.imwrite(str(partial), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
