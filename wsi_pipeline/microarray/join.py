"""Join a core map with the cores found, and say where that is in doubt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.cohort import MappedCore
from wsi_pipeline.errors import CohortError
from wsi_pipeline.microarray.core_map import places_of, squeezed
from wsi_pipeline.microarray.cores import Core, Dearray, core_name
from wsi_pipeline.microarray.mapfit import (
    ORIENTATIONS,
    Orientation,
    Way,
    lay_map,
    without_slide,
)

MARGIN: Final = 10.0  # nats by which the best way must be clear of the next: 22,000 to 1
SAME: Final = 0.05  # of the cores: ways that differ in fewer are one, and those cores uncertain
CERTAIN: Final = 0.9  # probability below which a core's place is in doubt
FEW_DOUBTFUL: Final = 0.05  # of the cores: more in doubt, and the array is
STRANGERS: Final = (2.0, 0.03)  # cores without a row that are no reason to doubt; of the cores
LOST: Final = 0.4  # of the map's places: more, and this may be another array's map
UNSEEN: Final = 0.02  # of the map's places outside the picture
MOST: Final = 2500  # cores of a map
WIDEST: Final = 250  # rows or columns, empty ones too
STRANGER: Final = 0.5  # coverage from which a spot without a row is a core

Turn = Literal[0, 90, 180, 270]
LIES: Final[Mapping[str, Turn]] = {"as-scanned": 0, "90": 90, "180": 180, "270": 270}
"""How an array lies against its map, clockwise, as tables say it."""


@dataclass(frozen=True, kw_only=True)
class Joining:
    """What is known of how a map and an array belong together.

    Attributes:
        turn: How far the array is turned clockwise against its map; None: find out.
        mirrored: Whether it is mirrored; None: find out, or not at all where the turn is known.
        row_labels, column_labels: The map's labels in order, if they are no plain letters or
            numbers.
    """

    turn: Turn | None = None
    mirrored: bool | None = None
    row_labels: tuple[str, ...] = ()
    column_labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JoinedCore:
    """A row of the core map and the core that lies there.

    Attributes:
        mapped: The row.
        core: The core, ``missing`` where there is none; None outside the picture.
        certain: Whether it surely belongs there.
    """

    mapped: MappedCore
    core: Core | None
    certain: bool = True


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A core map laid on an array.

    Attributes:
        cores: One for each row of the map, in its order.
        unmapped: Cores found that the map does not have.
        orientation: How the array lies.
        evidence: Log probability of what is there and what is not.
        margin: How much better that is than the next best way, in nats.
        runner_up: How the array lies in the next best way, and its cores; None without one.
        doubts: Why this may be wrong, a sentence each; none: it is sure.
    """

    cores: tuple[JoinedCore, ...]
    unmapped: tuple[Core, ...]
    orientation: Orientation
    evidence: float
    margin: float
    runner_up: tuple[Orientation, tuple[JoinedCore, ...]] | None
    doubts: tuple[str, ...]


def join_core_map(
    array: Dearray, mapped: Sequence[MappedCore], known: Joining | None = None
) -> Joined:
    """Join the rows of a core map with the cores found.

    Args:
        array: The cores found.
        mapped: The core map.
        known: What is known of the two.

    Raises:
        CohortError: A label that is none, more places than an array has, or nothing fits.
    """
    known = known or Joining()
    places = places_of(mapped, known.row_labels, known.column_labels)
    mirrored = False if known.mirrored is None and known.turn is not None else known.mirrored
    allowed = [
        orientation for orientation in ORIENTATIONS
        if known.turn in (None, orientation.turn) and mirrored in (None, orientation.mirrored)
    ]  # fmt: skip
    tight = squeezed(places)
    columns, rows = tight.max(axis=0) + 1
    if len(mapped) > MOST or max(columns, rows) > WIDEST:
        raise CohortError(
            f"Core map: {len(mapped)} cores in {rows} rows and {columns} columns are more than a "
            "microarray holds; are its rows and columns those of the array?"
        )
    readings = [places] if np.ptp(places, axis=0).max() < WIDEST else []
    if not readings or not np.array_equal(tight, places - places.min(axis=0)):
        readings.append(tight)
    ways = [
        way for reading in readings for way in lay_map(array.lattice, reading, array.seen, allowed)
    ]
    ways.sort(key=lambda way: -way.evidence)
    if not ways or not (ways[0].spots >= 0).any():
        raise CohortError("The core map does not fit: no core found has a row in it.")
    best = ways[0]
    second = next((way for way in ways[1:] if _differs(best, way)), None)
    margin = float("inf") if second is None else best.evidence - second.evidence
    doubtful = _contested(best, [way for way in ways[1:] if not _differs(best, way)])
    joined = _joined(array, mapped, best, doubtful)
    runner_up = None
    if second is not None and margin < MARGIN:
        nothing = np.zeros(len(mapped), bool)
        runner_up = second.orientation, _joined(array, mapped, second, nothing)
    unmapped = tuple(_core_of(array, best, int(k)) for k in _strangers(array, best))
    return Joined(
        cores=joined,
        unmapped=unmapped,
        orientation=best.orientation,
        evidence=best.evidence,
        margin=margin,
        runner_up=runner_up,
        doubts=tuple(_doubts(array, best, second, margin, joined)),
    )


def untold(mapped: Sequence[MappedCore]) -> tuple[Orientation, ...]:
    """Return how else an array may lie than as scanned, for all that its map's pattern can tell.

    No slide is looked at: these ways would be too near even if every core of the map were found,
    and no other. Then how the array lies has to be told.

    Args:
        mapped: The core map.

    Raises:
        CohortError: A label that is none, or a place twice.
    """
    places = places_of(mapped)
    if len(mapped) > MOST or np.ptp(places, axis=0).max(initial=0) >= WIDEST:
        return ()  # what cuts the slide says what is wrong with it
    (_, straight, evidence), *others = without_slide(places)
    return tuple(
        orientation
        for orientation, laid, other in others
        if evidence - other < MARGIN and (laid != straight).any(axis=1).mean() > SAME
    )


def _differs(one: Way, other: Way) -> bool:
    """Whether two ways give more than a few cores to different places."""
    used = (one.spots >= 0) | (other.spots >= 0)
    return bool((one.spots != other.spots)[used].mean() > SAME)


def _contested(best: Way, others: list[Way]) -> NDArray[np.bool_]:
    """Places that ways which are otherwise the same, and as good, give to other cores."""
    contested = np.zeros(len(best.spots), bool)
    for way in others:
        if best.evidence - way.evidence < MARGIN:
            contested |= best.spots != way.spots
    return contested


def _strangers(array: Dearray, way: Way) -> list[int]:
    """Indices of spots that look like cores and have no place on the map."""
    taken = set(way.spots[way.spots >= 0].tolist())
    known = {*array.lattice.chosen.tolist(), *array.lattice.strays.tolist(), *way.extras.tolist()}
    return sorted(known - taken)


def _joined(
    array: Dearray,
    mapped: Sequence[MappedCore],
    way: Way,
    contested: NDArray[np.bool_],
) -> tuple[JoinedCore, ...]:
    positions = array.positions(way.places)
    joined = []
    for k, row in enumerate(mapped):
        spot = int(way.spots[k])
        if spot >= 0:
            core = _core_of(array, way, spot, float(way.certainty[k]))
            certain = core.certainty >= CERTAIN and not contested[k]
            joined.append(JoinedCore(mapped=row, core=core, certain=certain))
        elif way.seen[k]:
            x, y = (float(value) for value in positions[k])
            core = Core(
                row=None, column=None, name="", x=x, y=y, diameter_px=array.diameter_px,
                missing=True, coverage=0.0, certainty=0.0,
            )  # fmt: skip
            joined.append(JoinedCore(mapped=row, core=core))
        else:
            joined.append(JoinedCore(mapped=row, core=None))
    return tuple(joined)


def _core_of(array: Dearray, way: Way, spot: int, certainty: float = 0.0) -> Core:
    """The core of a spot; its row and column are the map's, or lie beyond the map."""
    x, y = (array.lattice.spots.centres[spot] + 0.5) / array.scale - 0.5
    column, row = (int(v) for v in way.grid[spot]) if way.on_grid[spot] else (None, None)
    inside = row is not None and column is not None and row >= 0 and column >= 0
    return Core(
        row=row,
        column=column,
        name=core_name(row or 0, column or 0) if inside else "",
        x=float(x),
        y=float(y),
        diameter_px=float(array.lattice.spots.diameters[spot]) / array.scale,
        missing=False,
        coverage=float(array.lattice.spots.coverage[spot]),
        certainty=certainty,
    )


def _doubts(
    array: Dearray, best: Way, second: Way | None, margin: float, joined: Sequence[JoinedCore]
) -> list[str]:
    doubts = []
    found = int((best.spots >= 0).sum())
    full = array.lattice.spots.coverage[best.extras] >= STRANGER
    strangers = int(full.sum())
    if strangers > max(STRANGERS[0], STRANGERS[1] * found):
        doubts.append(
            f"{strangers} of {found + strangers} cores found on a {array.rows} × {array.columns} "
            "grid have no row in the core map"
        )
    seen = int(best.seen.sum())
    lost = int((best.seen & (best.spots < 0)).sum())
    if lost > LOST * seen:
        doubts.append(f"{lost} of the map's {seen} places on the picture have no core")
    if len(joined) - seen > UNSEEN * len(joined):
        doubts.append(f"{len(joined) - seen} of the map's {len(joined)} places lie off the picture")
    if second is not None and margin < MARGIN:
        doubts.append(
            f"the map fits {_said(best)} hardly better than {_said(second)} "
            f"(by {margin:.1f} of the {MARGIN:.0f} asked for)"
        )
    doubtful = [row for row in joined if not row.certain]
    if len(doubtful) > max(2, FEW_DOUBTFUL * found):
        doubts.append(
            f"{len(doubtful)} of {found} cores may as well belong in the place beside theirs"
        )
    return doubts


def _said(way: Way) -> str:
    return f"{way.orientation.words} ({int((way.spots >= 0).sum())} cores on it)"
