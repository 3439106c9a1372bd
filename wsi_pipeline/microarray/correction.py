"""Corrections of a table of cores: the spots stay, the places they are given change.

A spot's row and column are counted as the map counts them and go on beyond it, so that a grid that
is one off comes right by a shift: what falls on a row of the map becomes that core, what falls off
the map is kept as unmapped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from wsi_pipeline.cohort import MappedCore
from wsi_pipeline.errors import CohortError
from wsi_pipeline.microarray.core_map import places_of
from wsi_pipeline.microarray.table import NOBODY, PlacedCore, Status, is_control


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What a person asks for, in this order.

    Attributes:
        mirror: Swap left and right.
        turn: Degrees clockwise, of the grid that the spots were given.
        add_rows, add_columns: Lines, counted from 1, before which an empty one is put.
        remove_rows, remove_columns: Lines to be taken out; the following ones move up.
        shift_rows, shift_columns: By how many lines all spots move down and right.
    """

    mirror: bool = False
    turn: int = 0
    add_rows: tuple[int, ...] = ()
    add_columns: tuple[int, ...] = ()
    remove_rows: tuple[int, ...] = ()
    remove_columns: tuple[int, ...] = ()
    shift_rows: int = 0
    shift_columns: int = 0

    def __bool__(self) -> bool:
        return self != Correction()


def correct(
    cores: Sequence[PlacedCore],
    correction: Correction,
    labels: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> list[PlacedCore]:
    """Give the spots of a table other places.

    Args:
        cores: The table.
        correction: What is wrong with it.
        labels: The map's row and column labels in order, if they are no plain letters or numbers.

    Raises:
        CohortError: The table does not say where its spots are on the grid.
    """
    rows = [core for core in cores if core.mapped.core_id]
    places = places_of([core.mapped for core in rows], *labels)
    at = {(int(y), int(x)): core for core, (x, y) in zip(rows, places, strict=True)}
    spots = []
    for core in cores:
        if core.region is None:
            continue
        cell = core.grid
        if cell is None and core.mapped.core_id:
            cell = next(place for place, other in at.items() if other is core)
        spots.append((cell, core))
    if not spots:
        raise CohortError("there is no core in the table to be moved")
    height, width = (max(place[k] for place in at) + 1 for k in (0, 1))
    moved = {}
    left: list[PlacedCore] = []
    for cell, core in spots:
        place = None if cell is None else _moved(cell, correction, (height, width))
        if place in at and place not in moved:
            moved[place] = core
        else:
            left.append(replace(core, mapped=NOBODY, grid=place, status="unmapped", control=False))
    corrected = [_placed(core, place, moved.get(place)) for place, core in at.items()]
    return corrected + left


def cleared(core: PlacedCore) -> PlacedCore:
    """A core that a person has looked at."""
    return replace(core, status="") if core.status == "doubtful" else core


def unnamed(core: PlacedCore) -> PlacedCore:
    """A spot without the name that it was given."""
    return replace(core, mapped=NOBODY, status="unmapped", control=False, certainty=None)


def rejoined(mapped: Iterable[MappedCore], cores: Sequence[PlacedCore]) -> list[PlacedCore]:
    """The table with what a core map says of its cores now."""
    says = {core.core_id: core for core in mapped}
    return [
        replace(core, mapped=says[core.mapped.core_id]) if core.mapped.core_id in says else core
        for core in cores
    ]


def _moved(cell: tuple[int, int], correction: Correction, size: tuple[int, int]) -> tuple[int, int]:
    (row, column), (height, width) = cell, size
    if correction.mirror:
        column = width - 1 - column
    for _ in range(correction.turn // 90 % 4):
        row, column, height, width = column, height - 1 - row, width, height
    row = _relined(row, correction.add_rows, correction.remove_rows)
    column = _relined(column, correction.add_columns, correction.remove_columns)
    return row + correction.shift_rows, column + correction.shift_columns


def _relined(line: int, added: tuple[int, ...], removed: tuple[int, ...]) -> int:
    for number in sorted(added):
        line += line >= number - 1
    for number in sorted(removed, reverse=True):
        line = -1_000_000 if line == number - 1 else line - (line > number - 1)
    return line


def _placed(core: PlacedCore, place: tuple[int, int], spot: PlacedCore | None) -> PlacedCore:
    """A row of the map with the spot that lies there now."""
    if spot is None:
        return replace(core, region=None, status="missing", grid=place, tissue=None, certainty=None)
    status: Status = "lost" if spot.status == "lost" else ""
    return replace(
        core, region=spot.region, status=status, grid=place, tissue=spot.tissue, certainty=1.0,
        control=is_control(core.mapped), tilt_deg=spot.tilt_deg,
    )  # fmt: skip
