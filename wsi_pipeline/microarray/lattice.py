"""Rows and columns for the spots of a tissue microarray.

Cores wander from their places when the block is cut and the section floats, by a step and more
over the width of an array, so no rigid grid fits. Cells are therefore handed out from spot to
spot: each is placed relative to its nearest neighbours that have a cell already, the surest first.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.microarray.scale import Pitch
from wsi_pipeline.microarray.spots import Points, Spots

NEIGHBOURS = 5
REACHES = (1.6, 2.6, 3.6)  # steps between a spot and the nearest one that has a cell
TOLERANCE = 0.38  # of a step
WHOLE = 0.7  # coverage of a core that may open a row or column at the edge
FULL = 0.4  # coverage of a core that vouches for its neighbours
SUPPORT = 0.15  # coverage that a full neighbour is worth
SUPPORTED = 0.65
COMPANY = 3  # cores that the lines of an array usually have, before a lonely crumb is told
WHOLE_GAP = 0.15  # a gap this near to whole steps holds empty rows or columns

Cells = NDArray[np.int64]  # (N, 2) column, row


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Spots with a cell each.

    Attributes:
        spots: N spots.
        cells: (N, 2) int64 column, row from 0; no cell twice.
        steps: (2, 2) float64, columns are the step along a row and the step down a column, px.
    """

    spots: Spots
    cells: Cells
    steps: NDArray[np.float64]

    def place(self, cell: tuple[int, int]) -> tuple[float, float]:
        """Where the core of a cell should lie, judged by the nearest cores; x, y in pixels."""
        away = np.array(cell) - self.cells
        distance = np.hypot(away[:, 0], away[:, 1])
        nearest = np.argsort(distance, kind="stable")[:NEIGHBOURS]
        weight = 1 / (distance[nearest] + 0.1) ** 3
        guesses = self.spots.centres[nearest] + away[nearest] @ self.steps.T
        x, y = (guesses * weight[:, None]).sum(axis=0) / weight.sum()
        return float(x), float(y)


def fit_lattice(spots: Spots, pitch: Pitch) -> Lattice:
    """Give spots their rows and columns.

    Spots that fit nowhere, that meet a better one in their cell, or that are crumbs without full
    cores around them get none.

    Args:
        spots: Candidates.
        pitch: Steps along a row and down a column.
    """
    steps = np.stack([pitch.along, pitch.down], axis=1)
    places = np.asarray(np.linalg.solve(steps, spots.centres.T).T, dtype=np.float64)  # in steps
    growth = _Growth(places, spots.coverage)
    growth.run()
    chosen = np.flatnonzero(growth.has_cell)
    cells = growth.cells[chosen]
    keep = _supported(cells, spots.coverage[chosen])
    chosen, cells = chosen[keep], cells[keep]
    keep = _inside(cells, spots.coverage[chosen])
    chosen, cells = chosen[keep], cells[keep]
    keep = _in_company(cells, spots.coverage[chosen])
    chosen, cells = chosen[keep], cells[keep]
    numbered = [_number(cells[:, k], cells[:, 1 - k], places[chosen, k]) for k in (0, 1)]
    return Lattice(spots=spots.only(chosen), cells=np.stack(numbered, axis=1), steps=steps)


def _supported(cells: Cells, coverage: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Cores that are full enough for the number of full cores around them; (N,) bool."""
    apart = np.abs(cells[:, None] - cells[None]).max(axis=2)
    around = ((apart == 1) & (coverage[None] >= FULL)).sum(axis=1)
    return np.asarray(coverage + SUPPORT * around >= SUPPORTED, dtype=bool)


def _inside(cells: Cells, coverage: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Cores between the outermost lines that hold a whole core: debris founds no row; (N,) bool."""
    if not len(cells):
        return np.zeros(0, bool)
    whole = cells[coverage >= min(WHOLE, float(np.median(coverage)))]
    return np.asarray(
        ((cells >= whole.min(axis=0)) & (cells <= whole.max(axis=0))).all(axis=1), dtype=bool
    )


def _in_company(cells: Cells, coverage: NDArray[np.float64]) -> NDArray[np.bool_]:
    """All but crumbs that have a row or column to themselves between blocks of cores; (N,) bool."""
    keep = np.ones(len(cells), bool)
    for line in cells.T:
        _, index, counts = np.unique(line, return_inverse=True, return_counts=True)
        if len(counts) and np.median(counts) >= COMPANY:
            keep &= (counts[index] > 1) | (coverage >= WHOLE)
    return keep


def _number(
    line: NDArray[np.int64], across: NDArray[np.int64], place: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Number rows (or columns) from 0.

    An empty line counts when the gap that holds it is a whole number of steps; a gap of another
    width parts blocks of cores, which are numbered through.

    Args:
        line: (N,) row (or column) of each core, any origin.
        across: (N,) the other coordinate of its cell.
        place: (N,) position in steps, along the direction in which lines follow each other.
    """
    used = np.unique(line)
    number = {int(used[0]): 0} if len(used) else {}
    for before, after in pairwise(used):
        skipped = int(after - before) - 1
        if skipped:
            gap = _gap(line == before, line == after, across, place)
            skipped = round(gap) - 1 if abs(gap - round(gap)) <= WHOLE_GAP else 0
        number[int(after)] = number[int(before)] + 1 + max(skipped, 0)
    return np.array([number[int(k)] for k in line], dtype=np.int64)


def _gap(
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    across: NDArray[np.int64],
    place: NDArray[np.float64],
) -> float:
    """Steps between two lines of cores, where they face each other most closely."""
    apart = np.abs(across[before][:, None] - across[after][None])
    gaps = place[after][None] - place[before][:, None]
    return float(np.median(gaps[apart == apart.min()]))


class _Growth:
    """Cells handed out so far."""

    def __init__(self, places: Points, coverage: NDArray[np.float64]) -> None:
        self.places = places
        self.coverage = coverage
        self.cells = np.zeros((len(places), 2), np.int64)
        self.has_cell = np.zeros(len(places), bool)
        self.refused = np.zeros(len(places), bool)
        self.taken: set[tuple[int, int]] = set()

    def run(self) -> None:
        """Hand out cells until nothing fits: from neighbour to neighbour, then across gaps."""
        if len(self.places):
            self._assign(self._surest(), (0, 0))
        while self._grow() or self._cross_gap():
            pass

    def _surest(self) -> int:
        """The fullest spot whose four neighbours stand where they should."""
        delta = self.places[:, None] - self.places[None]
        support = self.coverage.copy()
        for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            miss = np.abs(delta - np.array(step)).max(axis=2).min(axis=1)
            support += np.clip(1 - miss / TOLERANCE, 0, 1)
        return int(np.argmax(support))

    def _assign(self, index: int, cell: tuple[int, int]) -> None:
        if cell in self.taken:
            self.refused[index] = True
            return
        self.cells[index] = cell
        self.has_cell[index] = True
        self.taken.add(cell)

    def _waiting(self) -> NDArray[np.int64]:
        return np.flatnonzero(~self.has_cell & ~self.refused)

    def _guess(self, index: NDArray[np.int64]) -> tuple[Points, NDArray[np.float64]]:
        """Column and row, not rounded, of spots, and steps to the nearest spot with a cell."""
        known = np.flatnonzero(self.has_cell)
        delta = self.places[index][:, None] - self.places[known][None]
        distance = np.hypot(delta[..., 0], delta[..., 1])
        nearest = np.argsort(distance, axis=1)[:, :NEIGHBOURS]
        spot = np.arange(len(index))[:, None]
        weight = 1 / (distance[spot, nearest] + 0.1) ** 3
        guesses = self.cells[known][nearest] + delta[spot, nearest]
        guess = (guesses * weight[..., None]).sum(axis=1) / weight.sum(axis=1)[:, None]
        return guess, distance.min(axis=1)

    def _grow(self) -> bool:
        """Decide on one spot in reach of a neighbour; False when there is none."""
        waiting = self._waiting()
        if not len(waiting):
            return False
        guess, distance = self._guess(waiting)
        miss = np.abs(guess - np.round(guess)).max(axis=1)
        for reach in REACHES:
            fits = (distance <= reach) & (miss <= TOLERANCE)
            if fits.any():
                cost = miss + 0.2 * distance - 0.4 * self.coverage[waiting]
                best = int(np.argmin(np.where(fits, cost, np.inf)))
                self._assign(int(waiting[best]), _rounded(guess[best]))
                return True
        return False

    def _cross_gap(self) -> bool:
        """Decide on the nearest spot of a block that stands off the grid; False without one."""
        waiting = self._waiting()
        waiting = waiting[self._in_a_block(waiting)]
        if not len(waiting):
            return False
        guess, distance = self._guess(waiting)
        best = int(np.argmin(distance))
        self._assign(int(waiting[best]), _rounded(guess[best]))
        return True

    def _in_a_block(self, waiting: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Full spots clear of the grid of which another stands one step away."""
        if not len(waiting):
            return np.zeros(0, bool)
        _, distance = self._guess(waiting)
        full = (self.coverage[waiting] > FULL) & (distance > 1.2)
        delta = np.abs(self.places[waiting][:, None] - self.places[waiting][None])
        beside = np.zeros((len(waiting), len(waiting)), bool)
        for step in ((1, 0), (0, 1)):
            beside |= np.abs(delta - np.array(step)).max(axis=2) < TOLERANCE
        return np.asarray(full & (beside & full[None]).any(axis=1), dtype=bool)


def _rounded(guess: NDArray[np.float64]) -> tuple[int, int]:
    return int(np.round(guess[0])), int(np.round(guess[1]))
