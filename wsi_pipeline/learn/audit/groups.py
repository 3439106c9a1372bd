"""Slides that belong together whatever their patients are called: found, written down, kept so."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import CohortError, named
from wsi_pipeline.learn.audit.finding import connected
from wsi_pipeline.tables import read_table, to_csv

COLUMNS: Final = ("slide_id", "group")


def groups_csv(groups: Iterable[Sequence[str]]) -> str:
    """Return ``groups.csv``: a row for each slide that is in a group."""
    return to_csv(
        COLUMNS,
        [
            (slide, f"g{number:04d}")
            for number, members in enumerate(groups, 1)
            for slide in members
        ],
    )


def read_groups(path: Path) -> dict[str, str]:
    """Return the group of each slide that has one.

    Raises:
        CohortError: The table is unusable, or puts a slide into two groups.
    """
    table = read_table(path)
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise CohortError(f"{path}: a table of groups has the columns slide_id and group; "
                          f"{named(missing)} is missing")  # fmt: skip
    groups: dict[str, str] = {}
    for row in table:
        slide, group = (row.cells[name] for name in COLUMNS)
        if groups.setdefault(slide, group) != group:
            raise CohortError(f"{path}, line {row.line}: slide {slide!r} is in two groups")
    return groups


def join_patients(cohort: Sequence[CohortSlide], groups: dict[str, str]) -> list[CohortSlide]:
    """Return the cohort with patients that share a group as one, of the first one's name.

    Raises:
        CohortError: A slide of ``groups`` is not in the cohort.
    """
    known = {slide.slide_id for slide in cohort}
    if unknown := sorted(set(groups) - known):
        raise CohortError(
            f"the table of groups names {named(unknown)}, which the cohort has not; audit it anew"
        )
    patients = list(dict.fromkeys(slide.patient_id or slide.slide_id for slide in cohort))
    at = {patient: index for index, patient in enumerate(patients)}
    first: dict[str, int] = {}
    pairs = []
    for slide in cohort:
        if (group := groups.get(slide.slide_id)) is not None:
            own = at[slide.patient_id or slide.slide_id]
            pairs.append((first.setdefault(group, own), own))
    joined = {
        patients[member]: patients[members[0]] for members in connected(pairs) for member in members
    }
    return [
        replace(slide, patient_id=joined.get(slide.patient_id or slide.slide_id, slide.patient_id))
        for slide in cohort
    ]
