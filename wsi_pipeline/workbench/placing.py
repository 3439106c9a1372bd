"""What a person at the screen changes of a microarray: one core, or the grid as a whole."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict

from wsi_pipeline.errors import CohortError
from wsi_pipeline.microarray import Correction, PlacedCore, cleared, correct, place_name, unnamed
from wsi_pipeline.types import Region

Deed = Literal["move", "add", "remove", "name", "use", "set-aside", "control", "grid", "accept"]


class CoreEdit(BaseModel):
    """One change, as the page sends it.

    Attributes:
        do: ``move`` a core's middle to ``x, y``, or give a missing place its spot there; ``add`` a
            spot without a name; ``remove`` a spot, which leaves a place of the map missing;
            ``name`` it after another place of the map, whose spot takes its name, or after none;
            ``use`` it though it was in doubt or had hardly any tissue; ``set-aside`` it as lost;
            make it a ``control`` or none; correct the ``grid``; ``accept`` the table.
        core: The core's id; empty for a spot without one, which is known by ``at``.
        at: Corner of that spot's square, level-0 px.
        x, y: Middle, level-0 px.
        name: A core's id or its place (``B3``).
        mirror, turn, add_row, remove_row, shift_rows …: Of the grid, see :class:`Correction`.
        table: Digest of the table that the person looks at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    do: Deed
    core: str = ""
    at: tuple[int, int] | None = None
    x: float = 0
    y: float = 0
    name: str = ""
    mirror: bool = False
    turn: Literal[0, 90, 180, 270] = 0
    add_row: int = 0
    add_column: int = 0
    remove_row: int = 0
    remove_column: int = 0
    shift_rows: int = 0
    shift_columns: int = 0
    table: str = ""

    @property
    def correction(self) -> Correction:
        """What it asks of the grid."""
        return Correction(
            mirror=self.mirror,
            turn=self.turn,
            add_rows=(self.add_row,) * bool(self.add_row),
            add_columns=(self.add_column,) * bool(self.add_column),
            remove_rows=(self.remove_row,) * bool(self.remove_row),
            remove_columns=(self.remove_column,) * bool(self.remove_column),
            shift_rows=self.shift_rows,
            shift_columns=self.shift_columns,
        )


def edited(cores: Sequence[PlacedCore], edit: CoreEdit) -> list[PlacedCore]:
    """Return a table of cores with one change.

    Raises:
        CohortError: There is no such core or place, or nothing to be changed.
    """
    table = list(cores)
    if edit.do == "accept":
        return [cleared(core) for core in table]
    if edit.do == "grid":
        return correct(table, edit.correction)
    if edit.do == "add":
        spot = _square(edit, _usual_side(table))
        return [*table, unnamed(replace(table[0], region=spot, grid=None, tissue=None))]
    return _changed(table, _find(table, edit), edit)


def _changed(table: list[PlacedCore], index: int, edit: CoreEdit) -> list[PlacedCore]:
    """Change one core of a table."""
    core = table[index]
    if edit.do == "move":
        side = _usual_side(table) if core.region is None else core.region.width
        status = core.status if core.status == "unmapped" else ""
        table[index] = replace(core, region=_square(edit, side), status=status, certainty=1.0)
    elif edit.do == "remove":
        if not core.mapped.core_id:
            del table[index]
        else:
            table[index] = _emptied(core)
    elif core.region is None:
        raise CohortError(f"{core.mapped.core_id} has no spot; put it on the slide first")
    elif edit.do == "name":
        return _renamed(table, index, edit.name)
    elif edit.do == "control":
        table[index] = replace(core, control=not core.control)
    elif core.status == "unmapped":
        raise CohortError("a spot that the map does not have is not used; give it a name first")
    else:
        table[index] = replace(core, status="" if edit.do == "use" else "lost")
    return table


def _find(table: Sequence[PlacedCore], edit: CoreEdit) -> int:
    for index, core in enumerate(table):
        region = core.region
        if edit.core and core.mapped.core_id == edit.core:
            return index
        if not (edit.core or core.mapped.core_id) and region and (region.x, region.y) == edit.at:
            return index
    raise CohortError(f"{edit.core or 'the spot'} is not in the table any more")


def _named(table: Sequence[PlacedCore], name: str) -> int:
    wanted = name.strip().casefold()
    for index, core in enumerate(table):
        mapped = core.mapped
        places = (mapped.core_id, place_name(mapped), f"{mapped.row}-{mapped.column}")
        if mapped.core_id and wanted in [place.casefold() for place in places]:
            return index
    raise CohortError(f"{name}: the table has no such core or place")


def _renamed(table: list[PlacedCore], index: int, name: str) -> list[PlacedCore]:
    """Give a spot another place's name; the spot that had it takes this one's, or loses it."""
    core = table[index]
    if not name.strip():
        if not core.mapped.core_id:
            return table
        table[index] = _emptied(core)
        return [*table, unnamed(core)]
    other = _named(table, name)
    if other == index:
        return table
    taken = table[other]
    renamed = _laid(taken, core)
    if core.mapped.core_id:
        table[index] = _emptied(core) if taken.region is None else _laid(core, taken)
        table[other] = renamed
        return table
    left = [] if taken.region is None else [unnamed(taken)]
    table[other] = renamed
    return [each for k, each in enumerate(table) if k != index] + left


def _laid(row: PlacedCore, spot: PlacedCore) -> PlacedCore:
    """A row of the map with another's spot, as a person says."""
    return replace(
        row, region=spot.region, status="", tissue=spot.tissue, certainty=1.0,
        tilt_deg=spot.tilt_deg,
    )  # fmt: skip


def _emptied(core: PlacedCore) -> PlacedCore:
    return replace(core, region=None, status="missing", tissue=None, certainty=None)


def _usual_side(table: Sequence[PlacedCore]) -> int:
    sides = [core.region.width for core in table if core.region is not None]
    if not sides:
        raise CohortError("there is no core in the table whose size a new one could have")
    return round(median(sides))


def _square(edit: CoreEdit, side: int) -> Region:
    return Region(x=round(edit.x - side / 2), y=round(edit.y - side / 2), width=side, height=side)
