"""Core maps: which place of a microarray is whose, in the shapes that labs write them.

Either one row a core (``row, column, core_id, patient_id, label``) or the array as it is looked
at: column labels in the first line, row labels in the first column, a patient in each cell.
Labels are letters, numbers, or any list that is given in order.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from wsi_pipeline.cohort import MappedCore, read_core_map, safe_id
from wsi_pipeline.errors import CohortError
from wsi_pipeline.microarray.patches import Cells

EMPTY: Final = frozenset({"", "-", "–", ".", "x", "na", "n/a", "none", "empty", "blank", "missing"})
LETTERS: Final = 2  # of a row or column; more are a word, whose place only a list can tell
PATIENT_LABEL: Final = "|"  # parts the two in a cell of a map that is a matrix


def read_map(path: Path) -> list[MappedCore]:
    """Read a core map, one row a core or as a matrix.

    Raises:
        CohortError: It is neither, or names a place or a core twice.
    """
    if (matrix := _matrix(path)) is None:
        return read_core_map(path)
    return _from_matrix(path, matrix)


def places_of(
    mapped: Sequence[MappedCore],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Cells:
    """Where the cores of a map are: (P, 2) column, row, counted from 0.

    Args:
        mapped: The core map.
        row_labels, column_labels: All labels in the array's order, where letters and numbers do
            not count as they usually do: reversed, with some left out, or words.

    Raises:
        CohortError: A label that is no letter, no number and not in the list, or a place twice.
    """
    places = np.array(
        [
            (_position(core.column, column_labels), _position(core.row, row_labels))
            for core in mapped
        ],
        dtype=np.int64,
    ).reshape(-1, 2)
    _, index, counts = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    for k in np.flatnonzero(counts > 1)[:1]:
        twice = [mapped[int(i)].core_id for i in np.flatnonzero(index.ravel() == k)]
        raise CohortError(f"Core map: {' and '.join(twice)} are in the same place")
    return places


def position(name: str) -> int:
    """Count from 0: ``A``, ``a`` and ``1`` are 0; ``Z`` is 25, ``AA`` 26; ``03`` is 2.

    Raises:
        CohortError: Neither a letter or two nor a positive number.
    """
    if name.isdecimal() and int(name) > 0:
        return int(name) - 1
    if name.isascii() and name.isalpha() and len(name) <= LETTERS:
        number = 0
        for letter in name.upper():
            number = 26 * number + ord(letter) - ord("A") + 1
        return number - 1
    raise CohortError(
        f"Core map: {name!r} is no row or column; use letters, or numbers from 1, or give the "
        "labels in their order"
    )


def squeezed(places: Cells) -> Cells:
    """The same places where labels that no core has are left out, as I often is."""
    return np.stack([np.unique(line, return_inverse=True)[1] for line in places.T], axis=1)


def _position(name: str, labels: Sequence[str]) -> int:
    if not labels:
        return position(name)
    known = [label.casefold() for label in labels]
    if name.casefold() not in known:
        raise CohortError(f"Core map: {name!r} is none of the labels {', '.join(labels)}")
    return known.index(name.casefold())


def _matrix(path: Path) -> list[list[str]] | None:
    """The cells of a map that is a matrix; None where there is no such file or it has columns."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None  # the reader of tables says what is wrong
    try:
        dialect = csv.Sniffer().sniff(text[:4096], delimiters=",;\t")
    except csv.Error:
        return None
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), dialect)]
    rows = [row for row in rows if any(row)]
    if len(rows) < 2 or "core_id" in [cell.casefold() for cell in rows[0]]:
        return None
    labels = [cell for cell in rows[0][1:] if cell]
    return rows if labels and all(_is_label(cell) for cell in labels) else None


def _is_label(text: str) -> bool:
    return text.isdecimal() or (text.isascii() and text.isalpha() and len(text) <= LETTERS)


def _from_matrix(path: Path, matrix: list[list[str]]) -> list[MappedCore]:
    columns = matrix[0][1:]
    found: list[tuple[str, str, str, str | None]] = []
    for line, row in enumerate(matrix[1:], start=2):
        if not _is_label(row[0]):
            raise CohortError(f"{path}: line {line}: {row[0]!r} is no label of a row")
        for column, cell in zip(columns, row[1:], strict=False):
            patient, _, label = (part.strip() for part in cell.partition(PATIENT_LABEL))
            if patient.casefold() not in EMPTY:
                found.append((row[0], column, patient, label or None))
    if not found:
        raise CohortError(f"{path}: the map has no cores")
    if twice := [place for place, n in Counter((r, c) for r, c, *_ in found).items() if n > 1]:
        raise CohortError(f"{path}: row {twice[0][0]}, column {twice[0][1]} stands twice")
    return [
        MappedCore(
            row=row, column=column, core_id=f"{safe_id(path.stem)}-{row}{column}",
            patient_id=patient, label=label,
        )
        for row, column, patient, label in found
    ]  # fmt: skip
