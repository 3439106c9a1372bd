"""Cohort tables: which slides, whose, and what they are.

CSV with the columns ``slide_id, path, patient_id, label, cohort`` and, optionally, ``mpp, split,
site, preservation, scanner, tma_map, annotations``. Paths are relative to the slides folder. A TMA
slide names a core map (CSV ``row, column, core_id, patient_id, label``); each of its cores becomes
a slide of its own. Everything wrong is reported at once, with line numbers.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import CohortError
from wsi_pipeline.registry import unknown
from wsi_pipeline.tables import Table, read_table, write_csv
from wsi_pipeline.types import Region

REQUIRED: Final = ("slide_id", "path", "patient_id", "label", "cohort")
OPTIONAL: Final = (
    "mpp",
    "split",
    "site",
    "preservation",
    "scanner",
    "sample_type",
    "tma_map",
    "annotations",
)
PLACE: Final = ("region_x", "region_y", "region_width", "region_height")  # level-0 px
CORE_COLUMNS: Final = (*PLACE, "tilt_deg")
MAP_COLUMNS: Final = ("row", "column", "core_id", "patient_id", "label")
IDS: Final = ("slide_id", "patient_id")
SPLITS: Final = ("train", "val", "test", "external")
SAFE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@-]*")


@dataclass(frozen=True, kw_only=True)
class CohortSlide:
    """One row: a slide, or one core of a TMA slide.

    Of a core ``region`` is its place, level-0 px, and ``tilt_deg`` how far the rows of its
    microarray are turned, clockwise.
    """

    slide_id: str
    path: str
    patient_id: str | None = None
    label: str | None = None
    cohort: str | None = None
    mpp: float | None = None
    split: str | None = None
    site: str | None = None
    preservation: str | None = None
    scanner: str | None = None
    sample_type: str | None = None
    tma_map: str | None = None
    annotations: str | None = None
    region: Region | None = None
    tilt_deg: float | None = None


@dataclass(frozen=True, kw_only=True)
class MappedCore:
    """One row of a core map; ``row`` and ``column`` as written there (``A`` or ``1``)."""

    row: str
    column: str
    core_id: str
    patient_id: str | None
    label: str | None


def read_cohort(path: Path, labels: Sequence[str] | None = None) -> list[CohortSlide]:
    """Read and check a cohort table.

    Args:
        path: The CSV file; a BOM is accepted.
        labels: The labels allowed; None allows any.

    Raises:
        CohortError: With one line for each problem found.
    """
    problems: list[str] = []
    slides = []
    for row in _read(path, REQUIRED, (*OPTIONAL, *CORE_COLUMNS), IDS):
        try:
            slides.append((row.line, _slide(row.cells)))
        except ValueError as error:
            problems.append(f"line {row.line}: {error}")
    problems += _contradictions(slides, labels)
    _refuse(path, problems)
    return [slide for _, slide in slides]


def read_core_map(path: Path) -> list[MappedCore]:
    """Read a TMA core map.

    Raises:
        CohortError: Columns are missing, or a position or a core id stands twice.
    """
    cores, problems = [], []
    seen: dict[tuple[str, str], int] = {}
    ids: dict[str, int] = {}
    for found in _read(path, MAP_COLUMNS, (), ("core_id", "patient_id")):
        line, row = found.line, found.cells
        where = (row["row"], row["column"])
        if where in seen:
            problems.append(
                f"line {line}: row {where[0]}, column {where[1]} stands in line {seen[where]} too"
            )
        if row["core_id"] in ids:
            problems.append(
                f"line {line}: core_id {row['core_id']!r} stands in line {ids[row['core_id']]} too"
            )
        if not SAFE_ID.fullmatch(row["core_id"]):
            problems.append(f"line {line}: core_id {row['core_id']!r} cannot be a file name")
        seen.setdefault(where, line)
        ids.setdefault(row["core_id"], line)
        cores.append(
            MappedCore(
                row=where[0],
                column=where[1],
                core_id=row["core_id"],
                patient_id=row["patient_id"] or None,
                label=row["label"] or None,
            )
        )
    _refuse(path, problems)
    return cores


def cohort_of(paths: Iterable[Path], root: Path) -> list[CohortSlide]:
    """Make an unlabelled cohort of slide files: ``slide_id`` is the file's stem.

    Raises:
        CohortError: Two files share a stem.
    """
    slides: dict[str, CohortSlide] = {}
    for path in paths:
        slide_id = safe_id(path.stem)
        if slide_id in slides:
            raise CohortError(
                f"{root}: {slides[slide_id].path} and {path.relative_to(root)} would share the "
                f"slide_id {slide_id!r}; rename one, or give a cohort table"
            )
        slides[slide_id] = CohortSlide(slide_id=slide_id, path=str(path.relative_to(root)))
    return list(slides.values())


def safe_id(stem: str) -> str:
    """Return ``stem`` with everything that cannot stand in a file name replaced by ``_``."""
    text = re.sub(r"[^\w.+=@-]", "_", stem, flags=re.ASCII)
    return text if SAFE_ID.fullmatch(text) else f"slide{text}"


def write_cohort(path: Path, slides: Iterable[CohortSlide]) -> None:
    """Write a cohort table; optional columns that are empty throughout are left out."""
    rows = [_row(slide) for slide in slides]
    columns = [
        name
        for name in (*REQUIRED, *OPTIONAL, *CORE_COLUMNS)
        if name in REQUIRED or any(row[name] for row in rows)
    ]
    write_csv(path, columns, rows)


def _read(
    path: Path, required: Sequence[str], optional: Sequence[str], ids: Sequence[str]
) -> Table:
    table = read_table(path, required, ids=ids)
    known = (*required, *optional)
    strangers = [name for name in table.columns if optional and name not in known]
    if strangers:
        raise CohortError(f"{path}: {unknown('column', strangers[0], known)}")
    if not table.rows:
        raise CohortError(f"{path}: the table has no rows")
    return table


def _slide(row: Mapping[str, str]) -> CohortSlide:
    if not SAFE_ID.fullmatch(row["slide_id"]):
        raise ValueError(
            f"slide_id {row['slide_id']!r} cannot be a file name (letters, digits, . _ + = @ -)"
        )
    if not row["path"]:
        raise ValueError("path is empty")
    split = row.get("split") or None
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    texts = {
        field.name: row.get(field.name) or None
        for field in fields(CohortSlide)
        if field.name not in ("mpp", "region", "tilt_deg", "slide_id", "path")
    }
    return CohortSlide(
        slide_id=row["slide_id"],
        path=row["path"],
        mpp=_mpp(row.get("mpp")),
        region=_region(row),
        tilt_deg=_tilt(row.get("tilt_deg")),
        **texts,
    )


def _mpp(text: str | None) -> float | None:
    if not text:
        return None
    try:
        mpp = float(text)
    except ValueError:
        raise ValueError(f"mpp {text!r} is not a number") from None
    if not (math.isfinite(mpp) and 0.05 <= mpp <= 10):
        raise ValueError(f"mpp {text} is outside 0.05–10 µm per pixel")
    return mpp


def _tilt(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise ValueError(f"tilt_deg {text!r} is not a number") from None


def _region(row: Mapping[str, str]) -> Region | None:
    values = [row.get(name) for name in PLACE]
    if not any(values):
        return None
    try:
        x, y, width, height = (int(value or "") for value in values)
    except ValueError:
        raise ValueError(f"{', '.join(PLACE)} must be four whole numbers") from None
    return Region(x=x, y=y, width=width, height=height)


def _contradictions(
    slides: Sequence[tuple[int, CohortSlide]], labels: Sequence[str] | None
) -> list[str]:
    problems = []
    ids: dict[str, int] = {}
    homes: dict[str, tuple[int, str | None]] = {}
    for line, slide in slides:
        folded = slide.slide_id.casefold()  # file systems that ignore case must not merge slides
        if folded in ids:
            problems.append(
                f"line {line}: slide_id {slide.slide_id!r} stands in line {ids[folded]} too"
            )
        ids.setdefault(folded, line)
        if labels is not None and slide.label is not None and slide.label not in labels:
            problems.append(f"line {line}: label {slide.label!r} is none of {', '.join(labels)}")
        if slide.patient_id is None:
            continue
        home_line, home = homes.setdefault(slide.patient_id, (line, slide.cohort))
        if home != slide.cohort:
            problems.append(
                f"line {line}: patient {slide.patient_id!r} is in cohort {slide.cohort!r}, "
                f"but in {home!r} in line {home_line}"
            )
    return problems


def _refuse(path: Path, problems: Sequence[str]) -> None:
    if problems:
        raise CohortError("\n".join(f"{path}: {problem}" for problem in problems))


def _row(slide: CohortSlide) -> dict[str, str]:
    row = {
        name: "" if getattr(slide, name) is None else str(getattr(slide, name))
        for name in (*REQUIRED, *OPTIONAL)
    }
    region = slide.region
    places = (region.x, region.y, region.width, region.height) if region else ("",) * 4
    tilt = {"tilt_deg": "" if slide.tilt_deg is None else str(slide.tilt_deg)}
    return row | dict(zip(PLACE, map(str, places), strict=True)) | tilt
