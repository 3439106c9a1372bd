"""Rows and columns for the spots of a tissue microarray.

Spots get cells that go on from one to the next (``patches``). What is left to say here is which
spots are cores after all, which rows and columns there are, and how sure each core's cell is.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.microarray.field import Field, Floats, Points, likelihoods
from wsi_pipeline.microarray.patches import FULL, RING, Cells, Placed, place_spots
from wsi_pipeline.microarray.pitch import Pitch
from wsi_pipeline.microarray.spots import Spots
from wsi_pipeline.microarray.unwrap import STEPS, Unwrapping

WHOLE = 0.7  # coverage of a core that may open a row at the edge, or stand off the grid
SUPPORT = 0.15  # coverage that a full neighbour is worth
SUPPORTED = 0.65
COMPANY = 3  # cores that the lines of an array usually have, before a lonely one is told
ALIKE = 0.15  # steps between gaps that were made alike
MARGIN = 5.0  # by which another numbering must be dearer
FEW = (2.0, 0.05)  # cores that another numbering may put elsewhere and be the same; of the cores
WHOLE_GAP = 0.06  # of a gap: this near to whole steps it holds empty rows or columns


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Empty lines inside the array, or room that is no whole number of them.

    Attributes:
        down: Between rows; else between columns.
        after: The last row or column before it, as numbered.
        steps: Measured, not rounded; 1 between neighbouring lines.
        counted: What it is taken for.
        alike: How many gaps of the array, itself too, are as wide.
        raw_before, raw_after: The lines beside it, as measured.
    """

    down: bool
    after: int
    steps: float
    counted: int
    alike: int
    raw_before: int
    raw_after: int


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Spots, and which of them are the cores of which row and column.

    Attributes:
        spots: N spots.
        chosen: (M,) indices of the spots that are cores of the grid.
        cells: (M, 2) int64 their column and row from 0; no cell twice.
        certainty: (M,) float64, probability of each cell given all the others.
        places: (N, 2) float64, positions in steps.
        placed: All spots' cells as measured, before gaps were counted; the chosen spots' field.
        steps: (2, 2) float64, columns are the step along a row and the step down a column, px.
        gaps: Empty lines inside the array.
        margin: How much dearer than these rows and columns the next best are (``unwrap``); below
            ``MARGIN`` they are in doubt.
    """

    spots: Spots
    chosen: NDArray[np.int64]
    cells: Cells
    certainty: Floats
    places: Points
    placed: Placed
    steps: Floats
    gaps: tuple[Gap, ...]
    margin: float

    @property
    def strays(self) -> NDArray[np.int64]:
        """Indices of spots that look like cores and are none of the grid."""
        off = np.ones(len(self.places), bool)
        off[self.chosen] = False
        return np.flatnonzero(off & (self.spots.coverage >= WHOLE))


def fit_lattice(spots: Spots, pitch: Pitch) -> Lattice:
    """Give spots their rows and columns.

    Spots that fit nowhere, that meet a better one in their cell, or that are crumbs without full
    cores around them get none; nor does a lone spot that would open a row or column at the edge.

    Args:
        spots: Candidates.
        pitch: Steps along a row and down a column.
    """
    places = np.asarray(np.linalg.solve(pitch.steps, spots.centres.T).T, dtype=np.float64)
    placed = place_spots(places, spots.coverage)
    chosen = np.flatnonzero(placed.part == 0)
    chosen = chosen[_supported(placed.cells[chosen], spots.coverage[chosen])]
    while not (keep := _in_company(placed.cells[chosen], spots.coverage[chosen])).all():
        chosen = chosen[keep]
    raw = placed.cells[chosen]
    field = replace(placed.field, places=places[chosen], offsets=places[chosen] - raw)
    numbered, gaps = _numbered(raw, places[chosen])
    margin, contested = _rivals(field.fitted(), raw, placed.patch[chosen])
    return Lattice(
        spots=spots,
        chosen=chosen,
        cells=numbered,
        certainty=np.where(contested, 0.0, _certainty(field, raw)),
        placed=replace(placed, field=field),
        places=places,
        steps=pitch.steps,
        gaps=gaps,
        margin=margin,
    )


def _rivals(field: Field, raw: Cells, patch: NDArray[np.int64]) -> tuple[float, NDArray[np.bool_]]:
    """What else the rows and columns may be: each patch a step beside, with all that must follow.

    Returns:
        How much dearer the cheapest of them is that puts more than a few cores elsewhere; and
        (N,) the cores that others, as cheap, put elsewhere.
    """
    contested = np.zeros(len(raw), bool)
    margin = float("inf")
    patches = [np.flatnonzero(patch == number) for number in np.unique(patch[patch >= 0])]
    patches.sort(key=len)
    if len(patches) < 2:
        return margin, contested
    numbered, _ = _numbered(raw, field.places)
    still = np.isin(np.arange(len(raw)), patches[-1])
    unwrapping = Unwrapping(field.places, field)
    now = unwrapping.price(raw)
    for members in patches[:-1]:
        for step in STEPS:
            moved = np.isin(np.arange(len(raw)), members)
            moved = unwrapping.cut(raw, step, moved=moved, still=still)
            other = raw + moved[:, None] * step
            dearer = unwrapping.price(other) - now
            if dearer >= margin and dearer >= MARGIN:
                continue
            beside = _elsewhere(numbered, _numbered(other, field.places)[0])
            if beside.sum() > max(FEW[0], FEW[1] * len(raw)):
                margin = min(margin, dearer)
            elif dearer < MARGIN:
                contested |= beside
    return margin, contested


def _elsewhere(one: Cells, other: Cells) -> NDArray[np.bool_]:
    """Cores that two numberings, whatever they count from, put in different places; (N,) bool."""
    apart = other - one
    _, which, counts = np.unique(apart, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(which.reshape(-1) != int(np.argmax(counts)))


def _certainty(field: Field, cells: Cells) -> Floats:
    """Probability of each cell against its eight neighbours, given all other cores; (N,)."""
    offsets, variance = field.predict(field.places, exclude_self=True)
    guess = field.places - offsets
    around = likelihoods(guess[:, None] - (cells[:, None] + RING), variance[:, None])
    return np.asarray(around[:, 4] / around.sum(axis=1))


def _supported(cells: Cells, coverage: Floats) -> NDArray[np.bool_]:
    """Cores that are full enough for the number of full cores around them; (N,) bool."""
    apart = np.abs(cells[:, None] - cells[None]).max(axis=2)
    around = ((apart == 1) & (coverage[None] >= FULL)).sum(axis=1)
    return np.asarray(coverage + SUPPORT * around >= SUPPORTED, dtype=bool)


def _in_company(cells: Cells, coverage: Floats) -> NDArray[np.bool_]:
    """All but what has a row or column to itself: at the edge, or as a crumb; (N,) bool."""
    keep = np.ones(len(cells), bool)
    for line in cells.T:
        used, index, counts = np.unique(line, return_inverse=True, return_counts=True)
        if not len(used) or np.median(counts) < COMPANY:
            continue
        edge = (index == 0) | (index == len(used) - 1)
        alone = counts[index] == 1
        weak = alone & (coverage < WHOLE)
        crumbs = np.array([coverage[index == k].max() < WHOLE for k in range(len(used))])[index]
        keep &= ~((alone & edge) | weak | (crumbs & edge))
    return keep


def _numbered(raw: Cells, places: Points) -> tuple[Cells, tuple[Gap, ...]]:
    """Number rows and columns from 0.

    An empty line counts when the gap that holds it is a whole number of steps; a gap of another
    width parts blocks of cores, which are numbered through. Gaps of one kind, which were made
    alike, are measured together.
    """
    numbered = raw.copy()
    gaps: list[Gap] = []
    for axis in (0, 1):
        used = np.unique(raw[:, axis])
        wide = [(int(a), int(b)) for a, b in pairwise(used) if b - a > 1]
        measured = {pair: _gap(raw, places, axis, *pair) for pair in wide}
        number = {int(used[0]): 0} if len(used) else {}
        for before, after in pairwise(int(k) for k in used):
            counted = 1
            if (steps := measured.get((before, after))) is not None:
                alike = [s for s in measured.values() if abs(s - steps) <= ALIKE]
                usual = float(np.mean(alike))
                whole = abs(usual - round(usual)) <= WHOLE_GAP * usual
                counted = max(round(steps), 1) if whole else 1
                gaps.append(
                    Gap(
                        down=axis == 1,
                        after=number[before],
                        steps=steps,
                        counted=counted,
                        alike=len(alike),
                        raw_before=before,
                        raw_after=after,
                    )
                )
            number[after] = number[before] + counted
        numbered[:, axis] = [number[int(k)] for k in raw[:, axis]]
    return numbered, tuple(gaps)


def _gap(cells: Cells, places: Points, axis: int, before: int, after: int) -> float:
    """Steps between two lines of cores: the median over the cores that face each other."""
    line, across = cells[:, axis], cells[:, 1 - axis]
    one = np.flatnonzero((line <= before) & (line > before - 3))
    two = np.flatnonzero((line >= after) & (line < after + 3))
    aside = np.abs(across[one][:, None] - across[two][None])
    steps = line[two][None] - line[one][:, None]
    gaps = places[two, axis][None] - places[one, axis][:, None] - (steps - (after - before))
    near = aside <= max(1, int(np.sort(aside, axis=None)[min(2, aside.size - 1)]))
    weight = (1 / ((1 + aside) * steps))[near]
    order = np.argsort(gaps[near])
    total = np.cumsum(weight[order])
    return float(gaps[near][order][np.searchsorted(total, total[-1] / 2)])
