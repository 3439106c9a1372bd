"""Find the cores of a tissue microarray, name them, and join them with a core map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.cohort import MappedCore
from wsi_pipeline.errors import CohortError, ConfigError, NoTissueError
from wsi_pipeline.microarray.lattice import Lattice, fit_lattice
from wsi_pipeline.microarray.scale import diameter_of, pitch_of
from wsi_pipeline.microarray.spots import find_spots
from wsi_pipeline.microarray.view import view_of
from wsi_pipeline.types import Mask, RgbImage

REACH = 1.5  # core diameters within which there is glass beside a core


@dataclass(frozen=True, kw_only=True)
class Core:
    """One place of the array.

    Attributes:
        row, column: Counted from 0, from the top and from the left.
        name: Row letter and column number, ``A1`` top left; ``AA`` follows ``Z``.
        x, y: Centre, pixels of the overview; of a missing core, where it should be.
        diameter_px: Pixels of the overview.
        missing: No tissue was found there.
        coverage: Share of the core's disc that is tissue.
    """

    row: int
    column: int
    name: str
    x: float
    y: float
    diameter_px: float
    missing: bool
    coverage: float


@dataclass(frozen=True, kw_only=True)
class Dearray:
    """A tissue microarray taken apart.

    Attributes:
        cores: All places, row by row, missing ones included.
        rows, columns: Size of the grid.
        rotation_deg: Turn of the rows against the overview, clockwise.
        pitch_px: Steps along a row and down a column, pixels of the overview.
        diameter_px: Core diameter, pixels of the overview.
    """

    cores: tuple[Core, ...]
    rows: int
    columns: int
    rotation_deg: float
    pitch_px: tuple[float, float]
    diameter_px: float

    @property
    def present(self) -> tuple[Core, ...]:
        """The cores that are there."""
        return tuple(core for core in self.cores if not core.missing)


@dataclass(frozen=True, kw_only=True)
class JoinedCore:
    """A row of the core map and the core that lies there; None outside the grid found."""

    mapped: MappedCore
    core: Core | None


def dearray(
    overview: RgbImage | Mask,
    um_per_px: float | None = None,
    core_diameter_um: float | None = None,
) -> Dearray:
    """Find the cores of a tissue microarray on its overview.

    The rows may be turned by up to 25°. An empty row or column is counted where the gap is a whole
    number of steps; blocks of cores with any other gap between them are numbered through.

    Args:
        overview: (H, W, 3) uint8 with all of the array on it, about 1,000 px or more; or a tissue
            mask (H, W) bool.
        um_per_px: Resolution of the overview; only needed with ``core_diameter_um``.
        core_diameter_um: Core diameter where it is known; measured otherwise.

    Raises:
        NoTissueError: Nothing on the overview repeats like cores do.
        ConfigError: Not an overview, or a diameter without a resolution.
    """
    if core_diameter_um is not None and not (um_per_px and core_diameter_um > 0):
        raise ConfigError("core_diameter_um must be positive and needs um_per_px.")
    view = view_of(overview)
    pitch = pitch_of(view.mask)
    if pitch is None:
        raise NoTissueError(
            "No cores found: nothing on the overview repeats in rows and columns. Is it a tissue "
            "microarray? If it is, write the cores' places by hand."
        )
    if core_diameter_um is not None and um_per_px is not None:
        diameter = core_diameter_um / um_per_px * view.scale
    else:
        diameter = diameter_of(view.mask, pitch.shortest_px)
    view = view_of(overview, REACH * diameter / view.scale)
    lattice = fit_lattice(find_spots(view, diameter), pitch)
    if not len(lattice.cells):
        raise NoTissueError("No cores found: no spot on the overview has the size of a core.")
    columns, rows = (int(k) + 1 for k in lattice.cells.max(axis=0))
    along, down = pitch.along, pitch.down
    return Dearray(
        cores=_cores(lattice, diameter, view.scale),
        rows=rows,
        columns=columns,
        rotation_deg=float(np.degrees(np.arctan2(along[1], along[0]))),
        pitch_px=(float(np.hypot(*along)) / view.scale, float(np.hypot(*down)) / view.scale),
        diameter_px=diameter / view.scale,
    )


def core_name(row: int, column: int) -> str:
    """Name of a place counted from 0: (0, 0) is ``A1``, (26, 2) is ``AA3``."""
    letters, rest = "", row + 1
    while rest:
        rest, letter = divmod(rest - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"{letters}{column + 1}"


def join_core_map(array: Dearray, mapped: Sequence[MappedCore]) -> list[JoinedCore]:
    """Join the rows of a core map with the cores found.

    Where the map is larger than the grid found, rows or columns at the array's edge are lost on
    the slide: the grid is laid on the map where most cores found are in the map. In a tie it stays
    at the top left.

    Args:
        array: The cores found.
        mapped: The core map; rows and columns as letters or numbers, from A or 1.

    Returns:
        One for each row of the map, in its order.

    Raises:
        CohortError: A row or column that is neither, or more cores found off the map than on it.
    """
    places = [(position(core.row), position(core.column)) for core in mapped]
    wanted = set(places)
    found = [(core.row, core.column) for core in array.present]
    room_down = max(max((row for row, _ in places), default=0) + 1 - array.rows, 0)
    room_along = max(max((column for _, column in places), default=0) + 1 - array.columns, 0)
    offsets = [(down, along) for down in range(room_down + 1) for along in range(room_along + 1)]
    hits = [sum((r + down, c + along) in wanted for r, c in found) for down, along in offsets]
    down, along = offsets[int(np.argmax(hits))]
    if 2 * max(hits) < len(found):
        raise CohortError(
            f"The core map does not fit: {len(found) - max(hits)} of {len(found)} cores found on "
            f"a {array.rows} × {array.columns} grid have no row in it; compare it with the preview."
        )
    at = {(core.row + down, core.column + along): core for core in array.cores}
    return [
        JoinedCore(mapped=row, core=at.get(place))
        for row, place in zip(mapped, places, strict=True)
    ]


def position(name: str) -> int:
    """Count from 0: ``A``, ``a`` and ``1`` are 0; ``Z`` is 25, ``AA`` 26; ``03`` is 2.

    Raises:
        CohortError: Neither letters nor a positive number.
    """
    if name.isdecimal() and int(name) > 0:
        return int(name) - 1
    if name.isascii() and name.isalpha():
        number = 0
        for letter in name.upper():
            number = 26 * number + ord(letter) - ord("A") + 1
        return number - 1
    raise CohortError(f"Core map: {name!r} is no row or column; use letters or numbers from 1.")


def _cores(lattice: Lattice, diameter: float, scale: float) -> tuple[Core, ...]:
    found = {(int(row), int(column)): k for k, (column, row) in enumerate(lattice.cells)}
    columns, rows = lattice.cells.max(axis=0) + 1
    cores = []
    for row in range(rows):
        for column in range(columns):
            index = found.get((row, column))
            missing = index is None
            x, y = lattice.place((column, row)) if index is None else lattice.spots.centres[index]
            coverage = 0.0 if index is None else float(lattice.spots.coverage[index])
            cores.append(
                Core(
                    row=row,
                    column=column,
                    name=core_name(row, column),
                    x=(float(x) + 0.5) / scale - 0.5,
                    y=(float(y) + 0.5) / scale - 0.5,
                    diameter_px=diameter / scale,
                    missing=missing,
                    coverage=coverage,
                )
            )
    return tuple(cores)
