"""CSV tables: written in one way, and read such that everything wrong with one is named by line.

What people and spreadsheets do to a table is met here, before anybody asks what its cells mean: a
column twice, a quote that is never closed, bytes that are no text, rows of another length, a long
number that a spreadsheet has turned into ``1.23E+11``.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wsi_pipeline.atomic import write_text
from wsi_pipeline.errors import CohortError, WsiError, named

if TYPE_CHECKING:
    import _csv

NUL: Final = "\0"
ROUNDED: Final = re.compile(r"\d(?:[.,]\d+)?[Ee]\+\d+")  # what a spreadsheet makes of 123456789012


@dataclass(frozen=True)
class TableRow:
    """One row: the line it begins in, and its cells by column, blanks around them removed."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """What a table holds; ``columns`` in its own order."""

    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]

    def __iter__(self) -> Iterator[TableRow]:
        return iter(self.rows)


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[object] | Mapping[str, object]]) -> str:
    """Return a table as text that :func:`read_table` reads back; None is an empty cell.

    Rows given by column may hold more than ``columns``. A NUL, which no table can hold, is written
    as its picture ``␀``.
    """
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")  # with both, so that either is quoted
    writer.writerow(columns)
    for row in rows:
        cells = [row[name] for name in columns] if isinstance(row, Mapping) else row
        writer.writerow(
            [cell.replace(NUL, "␀") if isinstance(cell, str) else cell for cell in cells]
        )
    return lines.text.getvalue()


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[object] | Mapping[str, object]]
) -> None:
    """Write a table; ``path`` is whole or as it was before."""
    write_text(path, to_csv(columns, rows))


def read_table(
    path: Path,
    required: Sequence[str] = (),
    *,
    ids: Sequence[str] = (),
    multiline: bool = False,
    error: type[WsiError] = CohortError,
) -> Table:
    """Read a table; a BOM, blanks around names and cells, and empty rows are no matter.

    Args:
        path: The CSV file, UTF-8.
        required: Columns it must have.
        ids: Columns that name something, in which a number must not have been rounded.
        multiline: Whether a cell may hold line breaks, as in tables that only we write.
        error: What to raise.

    Raises:
        WsiError: Of the class ``error``, with one line for each problem.
    """
    text = _text(path, error)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: tuple[str, ...] = ()
    rows: list[TableRow] = []
    problems: list[str] = []
    for line, cells in _records(reader, problems, multiline=multiline):
        if not columns:
            columns = _header(path, cells, required, error)
            continue
        row = _row(line, cells, columns, problems)
        if row is not None:
            problems += _rounded(row, ids)
            rows.append(row)
    if not columns and not problems:
        _header(path, [], required, error)
    if problems:
        raise error("\n".join(f"{path}: {problem}" for problem in problems))
    return Table(columns=columns, rows=tuple(rows))


class _Lines:
    """Takes the lines of a ``csv.writer`` and ends them as all our text files end."""

    def __init__(self) -> None:
        self.text = io.StringIO(newline="")

    def write(self, line: str) -> int:
        return self.text.write(line.removesuffix("\r\n") + "\n")


def _text(path: Path, error: type[WsiError]) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise error(f"{path}: there is no such table") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise error(f"{path}: not a CSV table in UTF-8; save it as one") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    if NUL in text:
        line = text.count("\n", 0, text.index(NUL)) + 1
        raise error(f"{path}: line {line} holds a NUL byte: the file is damaged, or no CSV table")
    return text


def _records(
    reader: "_csv.Reader", problems: list[str], *, multiline: bool
) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the line it begins in; a quote that runs on ends the table."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            problems.append(
                f"line {line}: a quote is opened there and not closed as it should be "
                f"(read on to line {reader.line_num}: {problem})"
            )
            return
        if not multiline and any("\n" in cell or "\r" in cell for cell in cells):
            problems.append(
                f"line {line}: a quote is opened there and only closed in line {reader.line_num}; "
                "a cell is one line"
            )
            continue
        if any(cell.strip() for cell in cells):
            yield line, cells


def _header(
    path: Path, cells: Sequence[str], required: Sequence[str], error: type[WsiError]
) -> tuple[str, ...]:
    columns = [cell.strip() for cell in cells]
    while columns and not columns[-1]:
        columns.pop()
    twice = [name for index, name in enumerate(columns) if name in columns[:index]]
    if twice:
        raise error(f"{path}: column {', '.join(map(repr, dict.fromkeys(twice)))} stands twice")
    missing = [name for name in required if name not in columns]
    if missing:
        hint = next(
            (f"; cells are parted by commas, not by {mark!r}" for mark in ";\t"
             if len(columns) == 1 and mark in columns[0]),
            "",
        )  # fmt: skip
        raise error(
            f"{path}: column{'s' * (len(missing) > 1)} {', '.join(missing)} missing; "
            f"found {', '.join(columns) or 'nothing'}{hint}"
        )
    return tuple(columns)


def _row(
    line: int, cells: Sequence[str], columns: Sequence[str], problems: list[str]
) -> TableRow | None:
    stripped = [cell.strip() for cell in cells]
    while len(stripped) > len(columns) and not stripped[-1]:
        stripped.pop()
    if len(stripped) != len(columns):
        problems.append(
            f"line {line} has {len(stripped)} cells, and the header {len(columns)} "
            f"({named(columns)})"
        )
        return None
    return TableRow(line, dict(zip(columns, stripped, strict=True)))


def _rounded(row: TableRow, ids: Sequence[str]) -> Iterator[str]:
    for name in ids:
        value = row.cells.get(name, "")
        if ROUNDED.fullmatch(value):
            yield (
                f"line {row.line}: {name} {value!r} is a long number that a spreadsheet has "
                "rounded; make the column text there and fill it in again"
            )
