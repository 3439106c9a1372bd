"""Cells for the spots of a microarray: from neighbour to neighbour, then from patch to patch.

Cells are handed out from spot to spot, always the surest next, each predicted from those that
have one. Where a tear, a spacer or a wide empty stretch makes that unsure a new patch begins.
Patches are then laid beside each other by all of their neighbourhoods, and once all are laid they
are weighed again together (``unwrap``).
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import NoTissueError
from wsi_pipeline.microarray.field import Field, Floats, Points, distances, likelihoods, tree_of
from wsi_pipeline.microarray.unwrap import Unwrapping

NOWHERE = 0.02  # density of spots that belong in no cell
SURE = 0.97  # probability of a cell that is handed out at once
NEVER = 1e-3  # probability of a joint below which two groups stay apart
UNLIKELY = 0.2  # of a joint between two patches that is made all the same
LONELY = 0.6  # of one that a spot with no sure neighbour gets
CORRELATED = 30.0  # steps over which what cores are off by is alike
BESIDE = 6.0  # steps between patches that are compared
CLASH, OPENED = 0.2, 0.1  # weight for each cell taken already, for each line opened
FULL = 0.4  # coverage of a core that leads; crumbs follow
CRUMB = 0.93  # probability of the cell of a crumb: it lies where a core would, or is debris
FAR = 1.75  # steps: beyond it a spot is no neighbour
MOST_PATCHES = 150  # what is torn into more is no array, and each is compared with each
FACING = 150  # cores on each side of a joint that are asked
CODE = np.array([1_000_003, 1])  # makes one number of a cell
ROUNDS = 4
RING = np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)])

Cells = NDArray[np.int64]  # (N, 2) column, row
Members = NDArray[np.int64]  # indices


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Spots with cells.

    Attributes:
        cells: (N, 2) column, row of each spot; any origin.
        part: (N,) 0 for the spots of the array, 1 and more for groups that stand too far away to
            be joined, -1 for spots without a cell.
        patch: (N,) which spots surely belong together; -1 for spots that came last.
        field: What the spots of the array are off their cells by.
    """

    cells: Cells
    part: Members
    patch: Members
    field: Field


def place_spots(places: Points, coverage: Floats) -> Placed:
    """Give spots their cells.

    Args:
        places: (N, 2) in steps.
        coverage: (N,) how much of a core each is.
    """
    patches = Patches(places, coverage)
    patches.run()
    return Placed(
        cells=patches.cells,
        part=patches.part,
        patch=patches.patch,
        field=patches.field_of(patches.part == 0),
    )


def jump(
    field: Field, places: Points, offsets: Points, moved: NDArray[np.bool_]
) -> tuple[Floats, float]:
    """By how much a group of spots is off against the others, and how well that is known.

    Generalised least squares: what all spots are off by, alike where they are near, plus one step
    between the groups.

    Args:
        field: Its nugget and drift.
        places, offsets: (N, 2) in steps.
        moved: (N,) the spots of the group.

    Returns:
        (2,) x and y in steps, and the variance of each.
    """
    apart = distances(places, places)
    covariance = field.drift * CORRELATED * np.exp(-apart / CORRELATED)
    covariance[np.diag_indices(len(places))] += field.nugget
    sides = np.stack([np.ones(len(places)), moved], axis=1)
    solved = np.linalg.solve(covariance, np.hstack([sides, offsets]))
    precision = sides.T @ solved[:, :2]
    estimate = np.linalg.solve(precision, sides.T @ solved[:, 2:])
    return estimate[1], float(np.linalg.inv(precision)[1, 1])


class Patches:
    """Spots joined to patches, and patches to one array: part 0 in the end."""

    def __init__(self, places: Points, coverage: Floats) -> None:
        self.places = places
        self.coverage = coverage
        self.cells = np.zeros((len(places), 2), np.int64)
        self.patch = np.full(len(places), -1)
        self.part = np.full(len(places), -1)
        self.field = Field(places=places[:0], offsets=places[:0])

    def run(self) -> None:
        """Hand out cells: to neighbours of one another, between patches, to crumbs."""
        solid = np.flatnonzero(self.coverage >= FULL)
        self._grow(solid)
        if not len(solid):
            return
        largest = int(np.argmax(np.bincount(self.patch[solid])))
        self.field = self.field_of(self.patch == largest).fitted()
        self.patch[:] = -1
        self._grow(solid)
        self._merge()
        self._place_the_rest()

    def field_of(self, members: NDArray[np.bool_] | Members) -> Field:
        """The field of the spots that have cells."""
        places = self.places[members]
        return replace(self.field, places=places, offsets=places - self.cells[members])

    def _grow(self, solid: NDArray[np.int64]) -> None:
        """Grow patches of sure neighbours, each from the spot with the best neighbourhood."""
        number = 0
        for seed in solid[np.argsort(-self._support(solid), kind="stable")]:
            if self.patch[seed] < 0:
                self.patch[seed] = number
                self.cells[seed] = np.round(self.places[seed])
                taken = {(int(self.cells[seed, 0]), int(self.cells[seed, 1]))}
                while self._grow_once(solid, number, taken):
                    pass
                number += 1

    def _away(self, spots: Members, others: Members | NDArray[np.bool_]) -> Floats:
        """(N,) how far the nearest of the others is, in steps."""
        return np.asarray(tree_of(self.places[others]).query(self.places[spots])[0])

    def _support(self, solid: NDArray[np.int64]) -> Floats:
        """How full a spot is and how many of its eight neighbours stand where they should."""
        tree = tree_of(self.places[solid])
        support = self.coverage[solid].copy()
        for step in RING:
            if step.any():
                miss, _ = tree.query(self.places[solid] - step, p=np.inf)
                support += np.clip(1 - miss / 0.4, 0, 1)
        return support

    def _grow_once(
        self, solid: NDArray[np.int64], number: int, taken: set[tuple[int, int]]
    ) -> bool:
        """Add the spots whose cells in this patch are sure; False when there is none."""
        members = self.patch == number
        waiting = solid[self.patch[solid] < 0]
        if len(waiting):
            waiting = waiting[self._away(waiting, members) < FAR]
        if not len(waiting):
            return False
        cells, sure = self._best_cells(waiting, self.field_of(members))
        enough = max(SURE, min(0.995, float(sure.max())))
        grown = False
        for index in np.argsort(-sure, kind="stable"):
            cell = int(cells[index, 0]), int(cells[index, 1])
            if sure[index] >= enough and cell not in taken:
                taken.add(cell)
                self.cells[waiting[index]] = cell
                self.patch[waiting[index]] = number
                grown = True
        return grown

    def _best_cells(self, spots: NDArray[np.int64], field: Field) -> tuple[Cells, Floats]:
        offsets, variance = field.predict(self.places[spots])
        guess = self.places[spots] - offsets
        cells = np.round(guess).astype(np.int64)
        around = likelihoods(guess[:, None] - (cells[:, None] + RING), variance[:, None])
        return cells, np.asarray(around[:, 4] / (around.sum(axis=1) + NOWHERE))

    def _merge(self) -> None:
        """Join the patches, always the surest two next, then reconsider each in turn.

        Raises:
            NoTissueError: There are too many for an array.
        """
        patches = [np.flatnonzero(self.patch == k) for k in range(int(self.patch.max()) + 1)]
        if len(patches) > MOST_PATCHES:
            raise NoTissueError(
                f"No cores found: {sum(map(len, patches))} spots do not go on from one to the next "
                f"as the cores of an array do, they fall into {len(patches)} parts."
            )
        groups = dict(enumerate(patches))
        joins: dict[tuple[int, int], _Join] = {}
        while len(groups) > 1:
            for one, two in combinations(sorted(groups), 2):
                if (one, two) not in joins:
                    joins[one, two] = self._join(groups[one], groups[two])
            likely = [pair for pair in joins if joins[pair].sure >= self._enough(groups, pair)]
            if not likely:
                break
            one, two = max(likely, key=lambda pair: joins[pair].order)
            join = joins[one, two]
            self.cells[groups[two]] += join.shift
            new = max(groups) + 1
            groups[new] = np.concatenate([groups.pop(one), groups.pop(two)])
            joins = {pair: j for pair, j in joins.items() if not {one, two} & set(pair)}
        ordered = sorted(groups.values(), key=len, reverse=True)
        whole = ordered[0]
        self.cells[whole] = Unwrapping(self.places[whole], self.field).settled(self.cells[whole])
        self._settle(whole, patches)
        for number, spots in enumerate(ordered):
            if number:
                self.cells[spots] += self._join(ordered[0], spots, far=True).shift
            self.part[self._without_doubles(spots)] = number

    def _enough(self, groups: dict[int, Members], pair: tuple[int, int]) -> float:
        """The probability that a joint must have to be made at all."""
        fewer = min(len(groups[k]) for k in pair)
        return LONELY if fewer == 1 else UNLIKELY if fewer == 2 else NEVER

    def _join(self, base: Members, moved: Members, far: bool = False) -> "_Join":
        """How the second group's cells must be shifted to go on with the first's."""
        if not far and self._away(moved, base).min() > BESIDE:
            return _Join(shift=np.zeros(2, np.int64), sure=0.0, order=0.0)
        sides = self._facing(base, moved), self._facing(moved, base)
        spots = np.concatenate(sides)
        offsets = self.places[spots] - self.cells[spots]
        among = np.arange(len(spots)) >= len(sides[0])
        shift, variance = jump(self.field, self.places[spots], offsets, among)
        options = np.round(shift).astype(np.int64) + RING
        room = self._room(base, moved, options)
        fit = likelihoods(shift - options, np.full(len(options), variance))
        best = int(np.argmax(np.log(fit) + room))
        rivals = (fit * np.exp(np.minimum(room - room[best], 50))).sum()
        return _Join(
            shift=options[best],
            sure=float(fit[best] / (rivals + NOWHERE)),
            order=float(fit[best] / (rivals + NOWHERE * np.exp(-room[best]))),
        )

    def _facing(self, group: Members, other: Members) -> Members:
        """The spots of a group that lie nearest to another; those far off say little more."""
        if len(group) <= FACING:
            return group
        return group[np.argsort(self._away(group, other), kind="stable")[:FACING]]

    def _room(self, base: Members, moved: Members, shifts: Cells) -> Floats:
        """Log weight of each shift, lower where cells are taken or new lines would be opened."""
        here, there = self.cells[base], self.cells[moved][:, None] + shifts
        taken = here @ CODE
        clashes = np.isin(there @ CODE, taken).sum(axis=0)
        lines = [np.unique(here[:, k]) for k in (0, 1)]
        opened = [
            sum(np.setdiff1d(option[:, k], lines[k]).size for k in (0, 1))
            for option in np.moveaxis(there, 1, 0)
        ]
        return np.asarray(clashes * np.log(CLASH) + np.array(opened) * np.log(OPENED))

    def _settle(self, group: Members, patches: list[Members]) -> None:
        """Move single patches where all the others have them, until none moves."""
        inside = [spots for spots in patches if len(spots) > 2 and np.isin(spots, group).all()]
        inside.sort(key=len)
        for _ in range(ROUNDS):
            moved = False
            for spots in inside[:-1]:
                join = self._join(np.setdiff1d(group, spots), spots)
                if join.sure > UNLIKELY and join.shift.any():
                    self.cells[spots] += join.shift
                    moved = True
            if not moved:
                return

    def _without_doubles(self, spots: Members) -> Members:
        """The spots, where two share a cell the fuller one only."""
        order = spots[np.argsort(-self.coverage[spots], kind="stable")]
        _, first = np.unique(self.cells[order], axis=0, return_index=True)
        return order[first]

    def _place_the_rest(self) -> None:
        """Give crumbs, and spots given up, the vacant cells that they lie in."""
        while True:
            members = self.part == 0
            waiting = np.flatnonzero(self.part < 0)
            if not len(waiting):
                return
            cells, sure = self._best_cells(waiting, self.field_of(members))
            reach = self._away(waiting, members)
            taken = {(int(x), int(y)) for x, y in self.cells[members]}
            vacant = np.array([(int(x), int(y)) not in taken for x, y in cells])
            enough = np.where(self.coverage[waiting] < FULL, CRUMB, 0.5)
            fits = vacant & (sure >= enough) & (reach < 2 * FAR)
            if not fits.any():
                return
            best = int(np.argmax(np.where(fits, sure + self.coverage[waiting], -1)))
            self.cells[waiting[best]] = cells[best]
            self.part[waiting[best]] = 0


@dataclass(frozen=True, kw_only=True)
class _Join:
    """How one group goes on with another.

    Attributes:
        shift: (2,) to be added to its cells.
        sure: Probability of it, against other shifts and against belonging nowhere.
        order: The same, less for each row or column opened: what lies side by side goes first.
    """

    shift: Cells
    sure: float
    order: float
