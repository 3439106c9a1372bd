"""Cores of a tissue microarray as slides of their own.

Where the cores lie is found once and written to a CSV that a person may correct: later runs read
it and never write over it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, cast, get_args

from wsi_pipeline.cohort import CohortSlide, MappedCore
from wsi_pipeline.errors import CohortError
from wsi_pipeline.pictures import write_picture
from wsi_pipeline.tables import read_table, to_csv
from wsi_pipeline.types import Region, RgbImage

COLUMNS: Final = (
    "row", "column", "core_id", "patient_id", "label", "x", "y", "width", "height"
)  # fmt: skip
MARKED: Final = "control"  # this column and the following ones tables made by hand may lack
TILT: Final = "tilt_deg"
STATUS: Final = "status"
GRID: Final = ("grid_row", "grid_column")
SHARES: Final = ("tissue", "certainty")
YES: Final = ("yes", "true", "1", "x")

Status = Literal["", "doubtful", "lost", "missing", "outside", "unmapped"]
SET_ASIDE: Final = ("doubtful", "lost", "unmapped")  # there, and no slides of their own


@dataclass(frozen=True, kw_only=True)
class PlacedCore:
    """A core of the map, or a spot that the map does not have, and where it lies.

    Attributes:
        mapped: Its row of the map; of a spot without one all empty.
        region: Level-0 px; None if it is missing.
        control: Tissue that is there to check the staining, not to be diagnosed.
        tilt_deg: How far the microarray's rows are turned, clockwise; None if nobody measured it.
        status: Empty for a core as it should be. ``doubtful`` may belong in the place beside,
            ``lost`` has hardly any tissue, ``unmapped`` has no row in the map: they are set aside.
            ``missing`` has no tissue, ``outside`` lies off the picture.
        grid: Row and column from 0, counted as the map does and also beyond it; None off the grid.
        tissue: Share of the core that is tissue; None if nobody measured it.
        certainty: Probability that it is this core and not the one beside.
    """

    mapped: MappedCore
    region: Region | None
    control: bool = False
    tilt_deg: float | None = None
    status: Status = ""
    grid: tuple[int, int] | None = None
    tissue: float | None = None
    certainty: float | None = None


NOBODY: Final = MappedCore(row="", column="", core_id="", patient_id=None, label=None)


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
            tma_lies=None,
            sample_type=MARKED if core.control else slide.sample_type,
            region=core.region,
            tilt_deg=core.tilt_deg,
        )
        for core in cores
        if core.region is not None and core.status not in SET_ASIDE
    ]


def table_text(cores: Iterable[PlacedCore]) -> str:
    """The table a person may correct; a missing core has no x, y, width, height."""
    rows = []
    for core in cores:
        mapped, region = core.mapped, core.region
        place = ("",) * 4 if region is None else (region.x, region.y, region.width, region.height)
        who = (mapped.core_id, mapped.patient_id or "", mapped.label or "")
        marked = "yes" if core.control else ""
        tilt = "" if core.tilt_deg is None else f"{core.tilt_deg:.2f}"
        grid = ("", "") if core.grid is None else (core.grid[0] + 1, core.grid[1] + 1)
        shares = ["" if v is None else f"{v:.3f}" for v in (core.tissue, core.certainty)]
        rows.append(
            (mapped.row, mapped.column, *who, *place, marked, tilt, core.status, *grid, *shares)
        )
    return to_csv((*COLUMNS, MARKED, TILT, STATUS, *GRID, *SHARES), rows)


def read_cores(path: Path) -> list[PlacedCore]:
    """Read the table back; tables of earlier versions, and made by hand, have fewer columns.

    Raises:
        CohortError: Columns are missing, a place is not four whole numbers, a tilt no number, a
            status unknown, or a core stands twice.
    """
    cores = []
    lines: dict[str, int] = {}
    for found in read_table(path, COLUMNS, ids=("core_id", "patient_id")):
        core = _core(path, found.line, found.cells)
        name = core.mapped.core_id.casefold()
        if name and lines.setdefault(name, found.line) != found.line:
            again = core.mapped.core_id
            raise CohortError(
                f"{path}: line {found.line}: core {again} stands in line {lines[name]} too"
            )
        cores.append(core)
    return cores


def _core(path: Path, line: int, row: Mapping[str, str]) -> PlacedCore:
    place = [row[name] for name in ("x", "y", "width", "height")]
    try:
        region = _region(place) if any(place) else None
        tilt, tissue, certainty = (
            float(row[name]) if row.get(name) else None for name in (TILT, *SHARES)
        )
        cells = [int(row[name]) - 1 for name in GRID if row.get(name)]
    except ValueError:
        raise CohortError(
            f"{path}: line {line}: x, y, width, height must be four whole numbers, "
            f"the size positive, and {TILT}, {', '.join((*GRID, *SHARES))} numbers or empty; found "
            f"{', '.join(map(repr, (*place, row.get(TILT) or '')))}"
        ) from None
    status = row.get(STATUS) or ""
    if status not in get_args(Status):
        raise CohortError(
            f"{path}: line {line}: status {status!r} is none of {', '.join(get_args(Status)[1:])}"
        )
    mapped = MappedCore(
        row=row["row"], column=row["column"], core_id=row["core_id"],
        patient_id=row["patient_id"] or None, label=row["label"] or None,
    )  # fmt: skip
    if region is not None and not mapped.core_id:
        status = "unmapped"
    marked = row.get(MARKED)
    return PlacedCore(
        mapped=mapped,
        region=region,
        control=is_control(mapped) if marked is None else marked.strip().casefold() in YES,
        tilt_deg=tilt,
        status=cast("Status", status),
        grid=(cells[0], cells[1]) if len(cells) == 2 else None,
        tissue=tissue,
        certainty=certainty,
    )


def _region(place: Sequence[str | None]) -> Region:
    x, y, width, height = (int(value or "") for value in place)
    if width <= 0 or height <= 0:
        raise ValueError
    return Region(x=x, y=y, width=width, height=height)


def write_preview(path: Path, picture: RgbImage) -> None:
    """Write the picture of the cores, in the format of its suffix."""
    write_picture(path, picture)
