"""Find the cores of a tissue microarray and number them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import NoTissueError
from wsi_pipeline.microarray.field import Points
from wsi_pipeline.microarray.lattice import MARGIN, Lattice, fit_lattice
from wsi_pipeline.microarray.pale import pale_spots
from wsi_pipeline.microarray.pitch import Pitch, pitch_of
from wsi_pipeline.microarray.scale import core_sizes
from wsi_pipeline.microarray.spots import Spots, find_spots, round_pieces
from wsi_pipeline.microarray.view import View, view_of
from wsi_pipeline.types import Mask, RgbImage

CLEAR = 0.5  # agreement at which no other size of core is tried
STREWN = (0.08, 6.0)  # discs strewn at random agree by less, but for one picture in a hundred:
LEAST, MOST = 0.4, 0.8  # the first, plus the second by their number, within these
KNOWN_LEAST = 0.25  # where the spacing is known: text repeats by 0.35, but not at any spacing
OTHER_SIZE = (0.35, 0.8)  # of the larger: 0.6 beside 1.5 mm to what is a size of its own
OTHERS = (5, 0.1)  # round pieces of it, and their share of the cores
FEWEST = 4  # cores that can agree on anything; three always do
UNSURE_GAP = 0.25  # steps from whole at which a lone gap is not surely a spacer, or empty lines
STRAYS = (2.0, 0.03)  # off the grid that are no reason to doubt it; of the cores
CERTAIN = 0.9  # probability below which a core's place is in doubt
FEW_DOUBTFUL = 0.1  # of the cores: more in doubt, and the grid is; they are set aside alone


@dataclass(frozen=True, kw_only=True)
class Core:
    """One place of the array, or a spot that looks like a core and stands off it.

    Attributes:
        row, column: Counted from 0, from the top and from the left; None off the grid.
        name: Row letter and column number, ``A1`` top left; ``AA`` follows ``Z``; empty off it.
        x, y: Centre, pixels of the overview; of a missing core, where it should be.
        diameter_px: Pixels of the overview.
        missing: No tissue was found there.
        coverage: Share of the core's disc that is tissue.
        certainty: Probability that it belongs there and not in a place beside it.
    """

    row: int | None
    column: int | None
    name: str
    x: float
    y: float
    diameter_px: float
    missing: bool
    coverage: float
    certainty: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Dearray:
    """A tissue microarray taken apart.

    Attributes:
        cores: All places, row by row, missing ones included.
        strays: What looks like a core and stands off the grid.
        rows, columns: Size of the grid.
        rotation_deg: Turn of the rows against the overview, clockwise.
        pitch_px: Steps along a row and down a column, pixels of the overview.
        diameter_px: Core diameter, pixels of the overview; of several sizes the commonest.
        agreement: How periodic the spots are, at most 1.
        inverted: Whether the cores are light on a dark ground.
        doubts: Why the numbers of rows and columns may be wrong, a sentence each.
        lattice, size, scale: What the core map is laid on: the spots, the overview's width and
            height, and the working pixels per pixel of it.
        tissue: (h, w) bool, what is darker than the ground, in working pixels.
    """

    cores: tuple[Core, ...]
    strays: tuple[Core, ...]
    rows: int
    columns: int
    rotation_deg: float
    pitch_px: tuple[float, float]
    diameter_px: float
    agreement: float
    inverted: bool
    doubts: tuple[str, ...]
    lattice: Lattice
    size: tuple[int, int]
    scale: float
    tissue: Mask

    @property
    def present(self) -> tuple[Core, ...]:
        """The cores that are there."""
        return tuple(core for core in self.cores if not core.missing)

    def positions(self, places: Points) -> Points:
        """(N, 2) positions in steps as x, y in pixels of the overview."""
        return np.asarray((places @ self.lattice.steps.T + 0.5) / self.scale - 0.5)

    def seen(self, places: Points) -> NDArray[np.bool_]:
        """(N,) whether a core at a position, in steps, would be inside the overview."""
        position, margin = self.positions(places), self.diameter_px / 2
        inside = (position >= margin) & (position <= np.array(self.size) - 1 - margin)
        return np.asarray(inside.all(axis=1))

    def tissue_box(self, core: Core) -> tuple[float, float, float] | None:
        """Centre and half side of the square around a core's tissue, pixels of the overview."""
        x, y = ((value + 0.5) * self.scale - 0.5 for value in (core.x, core.y))
        reach = 0.6 * core.diameter_px * self.scale
        rows, columns = np.ogrid[: self.tissue.shape[0], : self.tissue.shape[1]]
        found = np.argwhere(self.tissue & (np.hypot(columns - x, rows - y) <= reach))
        if not len(found):
            return None
        low, high = found.min(axis=0), found.max(axis=0) + 1
        middle_y, middle_x = (low + high) / 2 - 0.5
        half = float((high - low).max()) / 2
        return (
            (float(middle_x) + 0.5) / self.scale - 0.5,
            (float(middle_y) + 0.5) / self.scale - 0.5,
            half / self.scale,
        )


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What is known of an array beforehand, pixels of the overview; None is measured."""

    core_px: float | None = None
    pitch_px: float | None = None


def dearray(overview: RgbImage | Mask, hints: Hints | None = None) -> Dearray:
    """Find the cores of a tissue microarray on its overview.

    The rows may be turned by up to 40°. An empty row or column is counted where the gap is a whole
    number of steps; blocks of cores with any other gap between them are numbered through.

    Args:
        overview: (H, W, 3) uint8 with all of the array on it, about 1,000 px or more; or a tissue
            mask (H, W) bool.
        hints: What is known of it.

    Raises:
        NoTissueError: Nothing on the overview repeats like cores do.
        ConfigError: Not an overview.
    """
    view, spots, pitch, diameter = _search(overview, hints or Hints())
    lattice = fit_lattice(spots, pitch)
    pale = pale_spots(view, lattice, diameter)
    if len(pale.centres):
        lattice = fit_lattice(spots.joined(pale), pitch)
    if not len(lattice.cells):
        raise NoTissueError("No cores found: no spot on the overview has the size of a core.")
    columns, rows = (int(k) + 1 for k in lattice.cells.max(axis=0))
    along, down = pitch.along, pitch.down
    scale = view.scale
    return Dearray(
        cores=_cores(lattice, diameter, scale),
        strays=_strays(lattice, scale),
        rows=rows,
        columns=columns,
        rotation_deg=float(np.degrees(np.arctan2(along[1], along[0]))),
        pitch_px=(float(np.hypot(*along)) / scale, float(np.hypot(*down)) / scale),
        diameter_px=diameter / scale,
        agreement=pitch.agreement,
        inverted=view.inverted,
        doubts=_doubts(lattice),
        lattice=lattice,
        size=(overview.shape[1], overview.shape[0]),
        scale=scale,
        tissue=view.mask,
    )


def core_name(row: int, column: int) -> str:
    """Name of a place counted from 0: (0, 0) is ``A1``, (26, 2) is ``AA3``."""
    letters, rest = "", row + 1
    while rest:
        rest, letter = divmod(rest - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"{letters}{column + 1}"


@dataclass(frozen=True, kw_only=True)
class _Try:
    """What one size of core leads to."""

    view: View
    spots: Spots
    pitch: Pitch
    diameter: float
    worth: float


def _search(overview: RgbImage | Mask, hints: Hints) -> tuple[View, Spots, Pitch, float]:
    """Choose the size of core whose spots are most periodic and explain most of the tissue."""
    view = view_of(overview)
    sizes = [hints.core_px * view.scale] if hints.core_px else core_sizes(view.mask)
    best: _Try | None = None
    crowded = ""
    for size in sizes:
        try:
            tried = _try(overview, view, size, hints)
        except NoTissueError as error:
            crowded = f" ({error})"
            continue
        if tried is not None and (best is None or tried.worth > best.worth):
            best = tried
        if best is not None and best.pitch.agreement > CLEAR:
            break
    number = 0 if best is None else int((best.spots.coverage >= 0.4).sum())
    least = LEAST if hints.pitch_px is None else KNOWN_LEAST
    enough = float(np.clip(STREWN[0] + STREWN[1] / max(number, 1), least, MOST))
    fewest = FEWEST if hints.pitch_px is None else 2
    if best is None or number < fewest or best.pitch.agreement < enough:
        found = crowded if best is None else (
            f" ({number} spots agree on rows and columns by {best.pitch.agreement:.2f}, discs "
            f"strewn at random or letters by up to {enough:.2f})"
        )  # fmt: skip
        raise NoTissueError(
            f"No cores found: nothing on the overview repeats in rows and columns{found}. Is it a "
            "tissue microarray? If it is, give the cores' size and spacing, or write their places "
            "by hand."
        )
    return best.view, best.spots, best.pitch, best.diameter


def _try(overview: RgbImage | Mask, view: View, size: float, hints: Hints) -> _Try | None:
    tight = view_of(overview, size / view.scale)
    sizes = [size, *_other_sizes(tight.mask, size)]
    spots = find_spots(tight, sizes)
    expected = None if hints.pitch_px is None else hints.pitch_px * view.scale
    weights = np.clip(spots.coverage, 0, 1)
    pitch = pitch_of(spots.centres, weights, float(np.median(sizes)), expected)
    if pitch is None:
        return None
    explained = (spots.coverage * spots.diameters**2).sum() * np.pi / 4 / max(tight.mask.sum(), 1)
    worth = pitch.agreement * min(float(explained), 1.0)
    return _Try(view=tight, spots=spots, pitch=pitch, diameter=size, worth=worth)


def _other_sizes(mask: Mask, size: float) -> list[float]:
    """A second size of core, where many round pieces have it."""
    usual = round_pieces(mask, size)
    for other in core_sizes(mask):
        apart = min(other / size, size / other)
        number = round_pieces(mask, other)
        if OTHER_SIZE[0] < apart < OTHER_SIZE[1] and number >= max(
            OTHERS[0], OTHERS[1] * (usual + number)
        ):
            return [other]
    return []


def _doubts(lattice: Lattice) -> tuple[str, ...]:
    """Say why rows and columns may be miscounted."""
    doubts = []
    number = len(lattice.chosen)
    for gap in lattice.gaps:
        near = abs(gap.steps - round(gap.steps)) < UNSURE_GAP and gap.counted != round(gap.steps)
        if near and gap.alike == 1:
            line = "row" if gap.down else "column"
            doubts.append(
                f"the gap after {line} {gap.after + 1} is {gap.steps:.2f} steps wide: counted as "
                f"a spacer, it may hold empty {line}s"
            )
    if lattice.margin < MARGIN:
        doubts.append(
            "parts of the array may belong a row or column beside "
            f"(dearer by {lattice.margin:.1f} of the {MARGIN:.0f} asked for)"
        )
    strays = len(lattice.strays)
    if strays > max(STRAYS[0], STRAYS[1] * number):
        doubts.append(f"{strays} of {number + strays} cores stand off the rows and columns")
    doubtful = int((lattice.certainty < CERTAIN).sum())
    if doubtful > max(2, FEW_DOUBTFUL * number):
        doubts.append(f"{doubtful} of {number} cores may as well belong in the place beside theirs")
    return tuple(doubts)


def _cores(lattice: Lattice, diameter: float, scale: float) -> tuple[Core, ...]:
    found = {(int(row), int(column)): k for k, (column, row) in enumerate(lattice.cells)}
    columns, rows = lattice.cells.max(axis=0) + 1
    empty = np.array(
        [(x, y) for y in range(rows) for x in range(columns) if (y, x) not in found]
    ).reshape(-1, 2)
    expected = {
        (int(y), int(x)): place
        for (x, y), place in zip(empty, _places(lattice, empty), strict=True)
    }
    cores = []
    for row in range(rows):
        for column in range(columns):
            if (index := found.get((row, column))) is None:
                x, y = expected[row, column]
                size, coverage, certainty = diameter, 0.0, 0.0
            else:
                spot = int(lattice.chosen[index])
                x, y = lattice.spots.centres[spot]
                size = float(lattice.spots.diameters[spot])
                coverage = float(lattice.spots.coverage[spot])
                certainty = float(lattice.certainty[index])
            core = Core(
                row=row, column=column, name=core_name(row, column), x=float(x), y=float(y),
                diameter_px=size, missing=index is None, coverage=coverage, certainty=certainty,
            )  # fmt: skip
            cores.append(_scaled(core, scale))
    return tuple(cores)


def _places(lattice: Lattice, cells: NDArray[np.int64]) -> Points:
    """Where cores of the grid should lie, pixels of the view."""
    if not len(cells):
        return np.zeros((0, 2))
    places = lattice.places[lattice.chosen]
    field = replace(lattice.placed.field, places=places, offsets=places - lattice.cells)
    offsets, _ = field.predict(cells + field.offsets.mean(axis=0))
    return np.asarray((cells + offsets) @ lattice.steps.T)


def _strays(lattice: Lattice, scale: float) -> tuple[Core, ...]:
    return tuple(
        _scaled(
            Core(
                row=None, column=None, name="", x=float(lattice.spots.centres[k, 0]),
                y=float(lattice.spots.centres[k, 1]), missing=False, certainty=0.0,
                diameter_px=float(lattice.spots.diameters[k]),
                coverage=float(lattice.spots.coverage[k]),
            ),
            scale,
        )
        for k in lattice.strays
    )  # fmt: skip


def _scaled(core: Core, scale: float) -> Core:
    """The core in pixels of the overview."""
    return replace(
        core,
        x=(core.x + 0.5) / scale - 0.5,
        y=(core.y + 0.5) / scale - 0.5,
        diameter_px=core.diameter_px / scale,
    )
