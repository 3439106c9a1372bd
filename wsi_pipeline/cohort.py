"""Cohort tables: which slides, whose, and what they are.

CSV with the columns ``slide_id, path, patient_id, label, cohort`` and, optionally, ``mpp, split,
site, preservation, scanner, tma_map, annotations``, clinical ones, and what readers said:
``reader_<name>``, ``seconds_<name>``, either also ``…_with_model``. Paths are relative to the
slides folder, which a run's own table names row by row as ``root``, since its rows may come from
several. A TMA slide names a core map (CSV ``row, column, core_id, patient_id, label``); each of its
cores becomes a slide of its own. Everything wrong is reported at once, with line numbers.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import CohortError, named
from wsi_pipeline.registry import unknown
from wsi_pipeline.tables import Table, TableRow, read_table, write_csv
from wsi_pipeline.types import CLINICAL, LONGEST_ID, Region

REQUIRED: Final = ("slide_id", "path", "patient_id", "label", "cohort")
OPTIONAL: Final = (
    "mpp",
    "split",
    "site",
    "preservation",
    "scanner",
    "sample_type",
    "tma_map",
    "tma_lies",
    "annotations",
    "root",
    *CLINICAL,
)
PLACE: Final = ("region_x", "region_y", "region_width", "region_height")  # level-0 px
CORE_COLUMNS: Final = (*PLACE, "tilt_deg")
READING: Final = re.compile(  # what a reader said of a slide, and how long that took
    r"(?P<what>reader|seconds)_(?P<reader>[A-Za-z0-9][A-Za-z0-9.-]*(?:_[A-Za-z0-9.-]+)*?)"
    r"(?P<assisted>_with_model)?"
)
MAP_COLUMNS: Final = ("row", "column", "core_id", "patient_id", "label")
IDS: Final = ("slide_id", "patient_id")
TMA_LIES: Final = ("as-scanned", "90", "180", "270")  # an array against its map, clockwise
SPLITS: Final = ("train", "val", "test", "external")
ABSENT: Final = ("na", "n/a", "#n/a", "<na>", "nan", "null")  # of R, spreadsheets and pandas
RARE: Final = 10  # a label is doubted that stands so many times less often than one like it
SAFE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@-]*")


@dataclass(frozen=True, kw_only=True)
class CohortSlide:
    """One row: a slide, or one core of a TMA slide.

    Of a core ``region`` is its place, level-0 px, and ``tilt_deg`` how far the rows of its
    microarray are turned, clockwise. ``root`` is the folder that ``path`` starts from, where the
    row knows it, ``readings`` what readers said of the slide, by column, and ``line`` where the row
    stands in the table it was read from.
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
    tma_lies: str | None = None
    annotations: str | None = None
    root: str | None = None
    stage: str | None = None
    grade: str | None = None
    age: str | None = None
    sex: str | None = None
    vital_status: str | None = None
    days_to_death: str | None = None
    days_to_last_follow_up: str | None = None
    primary_diagnosis: str | None = None
    percent_tumor_nuclei: str | None = None
    percent_tumor_cells: str | None = None
    percent_normal_cells: str | None = None
    percent_stromal_cells: str | None = None
    percent_necrosis: str | None = None
    percent_lymphocytes: str | None = None
    section_location: str | None = None
    warnings: str | None = None
    licence: str | None = None
    source_doi: str | None = None
    region: Region | None = None
    tilt_deg: float | None = None
    readings: tuple[tuple[str, str], ...] = ()
    line: int | None = field(default=None, compare=False)

    def locate(self, slides: Path | str | None = None) -> str | Path | None:
        """Return the slide's file or URL; None where nothing says which folder ``path`` is of.

        Args:
            slides: Folder of slides as the user gave it, here or in a bucket; it goes before
                ``root``, unless the file is not there. What is in a bucket counts as there.
        """
        if is_remote(self.path):
            return self.path
        places = [in_folder(root, self.path) for root in (slides, self.root) if root is not None]
        there = (place for place in places if isinstance(place, str) or place.exists())
        return next(there, places[0] if places else None)


@dataclass(frozen=True, kw_only=True)
class MappedCore:
    """One row of a core map; ``row`` and ``column`` as written there (``A`` or ``1``)."""

    row: str
    column: str
    core_id: str
    patient_id: str | None
    label: str | None


def is_remote(place: str | Path | None) -> bool:
    """Whether a slide, or the folder that it is in, is named by a URL."""
    return isinstance(place, str) and "://" in place


def in_folder(folder: str | Path, path: str) -> str | Path:
    """Return where a path lies that starts from a folder of this machine, or from a bucket's."""
    if isinstance(folder, str) and is_remote(folder):
        return f"{folder.rstrip('/')}/{path.removeprefix('./')}"
    return Path(folder) / path


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
            slides.append(_slide(row))
        except ValueError as error:
            problems.append(f"line {row.line}: {error}")
    problems += contradictions([(f"line {slide.line}", slide) for slide in slides])
    problems += _strange_labels(slides, labels)
    _refuse(path, problems)
    return slides


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
        if absent := _absent(row):
            problems.append(f"line {line}: {absent}")
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


def cohort_of(
    paths: Iterable[Path], root: Path, known: Mapping[str, str] | None = None
) -> tuple[list[CohortSlide], dict[Path, str]]:
    """Make an unlabelled cohort of slide files: ``slide_id`` is the file's stem.

    Files that share a stem are told apart by their sub-folders, ``P1/HE.svs`` and ``P2/HE.svs`` as
    ``P1-HE`` and ``P2-HE``.

    Args:
        paths: The files.
        root: The folder they lie below.
        known: Ids that files have already, by path relative to ``root``; they keep them.

    Returns:
        The slides, and by path why a file is none: another one would have the same id.
    """
    names = {path: path.relative_to(root) for path in paths}
    ids = {path: (known or {}).get(str(name)) for path, name in names.items()}
    shared = _shared(ids[path] or safe_id(path.stem) for path in names)
    for path, name in names.items():
        if ids[path] is None:
            short, long = safe_id(path.stem), safe_id("-".join(name.with_suffix("").parts))
            ids[path] = long if short.casefold() in shared else short
    shared = _shared(found for found in ids.values() if found)
    slides, problems = [], {}
    for path, name in names.items():
        slide_id = ids[path] or ""
        if slide_id.casefold() in shared and str(name) not in (known or {}):
            problems[path] = (
                f"would share the slide_id {slide_id!r} with another file; rename one, or give a "
                "cohort table"
            )
            continue
        text = str(name) if not str(name).startswith(" ") else f"./{name}"  # tables lose blanks
        slides.append(CohortSlide(slide_id=slide_id, path=text))
    return slides, problems


def _shared(ids: Iterable[str]) -> set[str]:
    """Return the ids that stand twice, also where only case tells them apart."""
    return {name for name, count in Counter(map(str.casefold, ids)).items() if count > 1}


def doubtful_labels(slides: Iterable[CohortSlide]) -> Iterator[str]:
    """Yield a sentence for each label that may be another one with a letter wrong.

    It is rare beside the other, and one letter is missing, too many, another or swapped; labels
    that differ in digits, such as grades, are no doubt.
    """
    places: dict[str, list[str]] = {}
    for slide in slides:
        if slide.label is not None:
            places.setdefault(slide.label, []).append(
                slide.slide_id if slide.line is None else f"line {slide.line}"
            )
    for label, found in places.items():
        for other, often in places.items():
            if RARE * len(found) <= len(often) and _one_letter_apart(label, other):
                yield (
                    f"label {label!r} stands in {named(found)} alone, and {other!r} in "
                    f"{len(often)} rows; is it the same with a letter wrong?"
                )


def _one_letter_apart(label: str, other: str) -> bool:
    def without(text: str, index: int) -> str:
        return text[:index] + text[index + 1 :]

    if re.sub(r"\d", "", label) == re.sub(r"\d", "", other):
        return False
    short, long = sorted((label, other), key=len)
    if len(long) == len(short):
        wrong = [i for i in range(len(long)) if long[i] != short[i]]
        swapped = (
            len(wrong) == 2
            and long[wrong[0] : wrong[1] + 1] == (short[wrong[0] : wrong[1] + 1][::-1])
        )
        return len(wrong) == 1 or swapped
    return len(long) == len(short) + 1 and any(
        without(long, index) == short for index in range(len(long))
    )


def safe_id(stem: str) -> str:
    """Return ``stem`` with everything that cannot stand in a file name replaced by ``_``."""
    text = re.sub(r"[^\w.+=@-]", "_", stem, flags=re.ASCII)
    return text if SAFE_ID.fullmatch(text) else f"slide{text}"


def write_cohort(path: Path, slides: Iterable[CohortSlide]) -> None:
    """Write a cohort table; optional columns that are empty throughout are left out."""
    rows = [_row(slide) for slide in slides]
    read = sorted({name for row in rows for name in row if READING.fullmatch(name)})
    columns = [
        name
        for name in (*REQUIRED, *OPTIONAL, *CORE_COLUMNS)
        if name in REQUIRED or any(row[name] for row in rows)
    ]
    write_csv(path, [*columns, *read], [dict.fromkeys(read, "") | row for row in rows])


def _read(
    path: Path, required: Sequence[str], optional: Sequence[str], ids: Sequence[str]
) -> Table:
    table = read_table(path, required, ids=ids)
    known = (*required, *optional)
    strangers = [
        name
        for name in table.columns
        if optional and name not in known and not READING.fullmatch(name)
    ]
    if strangers:
        raise CohortError(f"{path}: {unknown('column', strangers[0], known)}")
    if not table.rows:
        raise CohortError(f"{path}: the table has no rows")
    return table


def _slide(found: TableRow) -> CohortSlide:
    row = found.cells
    if not SAFE_ID.fullmatch(row["slide_id"]):
        raise ValueError(
            f"slide_id {row['slide_id']!r} cannot be a file name (letters, digits, . _ + = @ -)"
        )
    if len(row["slide_id"]) > LONGEST_ID:
        raise ValueError(
            f"slide_id {row['slide_id'][:20]}… has more than {LONGEST_ID} characters, and names of "
            "files are made from it"
        )
    if not row["path"]:
        raise ValueError("path is empty")
    if absent := _absent(row):
        raise ValueError(absent)
    split = row.get("split") or None
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if (lies := row.get("tma_lies") or None) is not None and lies not in TMA_LIES:
        raise ValueError(f"tma_lies {lies!r} is none of {', '.join(TMA_LIES)}")
    texts = {
        item.name: row.get(item.name) or None
        for item in fields(CohortSlide)
        if item.name not in ("mpp", "region", "tilt_deg", "slide_id", "path", "readings", "line")
    }
    return CohortSlide(
        slide_id=row["slide_id"],
        path=row["path"],
        mpp=_mpp(row.get("mpp")),
        region=_region(row),
        tilt_deg=_tilt(row.get("tilt_deg")),
        readings=_readings(row),
        line=found.line,
        **texts,
    )


def _absent(row: Mapping[str, str]) -> str:
    """Say which of a row's names stands for nothing; it would be a patient or a class."""
    return next(
        (
            f"{name} {row[name]!r} is what programs write for a missing value; leave the cell "
            "empty, or write the name in another way"
            for name in ("patient_id", "label")
            if row[name].casefold() in ABSENT
        ),
        "",
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


def _readings(row: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    found = tuple((name, said) for name, said in row.items() if said and READING.fullmatch(name))
    if found and row.get("tma_map"):
        raise ValueError(
            f"{found[0][0]} is said of a whole microarray; give its cores' readings to "
            "`report --readings`, by slide_id"
        )
    return found


def _region(row: Mapping[str, str]) -> Region | None:
    values = [row.get(name) for name in PLACE]
    if not any(values):
        return None
    try:
        x, y, width, height = (int(value or "") for value in values)
    except ValueError:
        raise ValueError(f"{', '.join(PLACE)} must be four whole numbers") from None
    return Region(x=x, y=y, width=width, height=height)


def contradictions(slides: Sequence[tuple[str, CohortSlide]]) -> list[str]:
    """Return a sentence for each row that contradicts one before it.

    Args:
        slides: Rows with where each stands, such as ``line 3``.
    """
    problems = []
    ids: dict[str, str] = {}
    homes: dict[str, tuple[str, str | None]] = {}
    for place, slide in slides:
        folded = slide.slide_id.casefold()  # file systems that ignore case must not merge slides
        if folded in ids:
            problems.append(f"{place}: slide_id {slide.slide_id!r} stands in {ids[folded]} too")
        ids.setdefault(folded, place)
        if slide.patient_id is None:
            continue
        home_place, home = homes.setdefault(slide.patient_id, (place, slide.cohort))
        if home != slide.cohort:
            problems.append(
                f"{place}: patient {slide.patient_id!r} is in cohort {slide.cohort!r}, "
                f"but in {home!r} in {home_place}"
            )
    return problems + list(_spellings(slides))


def _spellings(slides: Sequence[tuple[str, CohortSlide]]) -> Iterator[str]:
    """Yield a sentence for each label or patient that another differs from in its spelling alone.

    Labels in case and blanks; patients in case, in the sort of blank, and in zeros that a program
    took for a number's: ``007`` and ``7`` would be two patients, on both sides of a split.
    """
    labels = ((place, slide.label) for place, slide in slides)
    patients = ((place, slide.patient_id) for place, slide in slides)
    for first, other, found in _spelt_twice(labels, _label_read_freely):
        yield f"{named(found)}: label {other!r} is spelt {first}; one class, one spelling"
    for first, other, found in _spelt_twice(patients, _patient_read_freely):
        yield f"{named(found)}: patient {other!r} is spelt {first}; one patient, one spelling"


def _spelt_twice(
    names: Iterable[tuple[str, str | None]], key: Callable[[str], str]
) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the first spelling and its place, another one, and where that stands."""
    places: dict[str, list[str]] = {}
    for place, name in names:
        if name is not None:
            places.setdefault(name, []).append(place)
    first: dict[str, str] = {}
    for name, found in places.items():
        other = first.setdefault(key(name), name)
        if other != name:
            yield f"{other!r} in {places[other][0]}", name, found


def _label_read_freely(label: str) -> str:
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", "", label.casefold())


def _patient_read_freely(patient: str) -> str:
    number = re.fullmatch(r"(\d+)\.0+", patient)
    text = re.sub(r"[\s_-]+", " ", number[1] if number else patient.casefold())
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def _strange_labels(slides: Sequence[CohortSlide], labels: Sequence[str] | None) -> Iterator[str]:
    """Yield a sentence for each label that is not allowed, with the nearest that is."""
    places: dict[str, list[str]] = {}
    for slide in slides:
        if labels is not None and slide.label is not None and slide.label not in labels:
            places.setdefault(slide.label, []).append(str(slide.line))
    for label, found in places.items():
        where = f"line{'s' * (len(found) > 1)} {named(found)}"
        yield f"{where}: {unknown('label', label, labels or ())}"


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
    return row | dict(zip(PLACE, map(str, places), strict=True)) | tilt | dict(slide.readings)
