"""Cells over the whole array at once: phase unwrapping by graph cuts.

Patches that were joined one after the other may have taken a wrong turn: a block of cores beyond a
tear is then numbered a row or column beside. Here every pair of neighbours says how many steps it
is apart and how sure that is; of all sets of spots that could move by a step together, the one
that agrees best with all pairs is the least cut of a graph. Prices are absolute misses, so that no
tear outweighs everything else and each cut is exact.

Source: Bioucas-Dias and Valadão, IEEE Trans. Image Processing 16, 2007.
"""

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.microarray.field import Field, Points, tree_of

STEPS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
NEIGHBOURS = 8
FARTHEST = 6.0  # steps between spots that are compared
MISS = 0.5  # price of two spots side by side that are off by a standard deviation; far pairs less
CLASH = 3.0  # of two spots in one cell
OPENED = 2.5  # of a row or column
UNIT = 1000.0  # capacities are whole numbers
FORCED = 1e5

Cells = NDArray[np.int64]  # (N, 2) column, row
Marks = NDArray[np.bool_]  # (N,)


class Unwrapping:
    """What cells cost, and which moves make them cheaper."""

    def __init__(self, places: Points, field: Field) -> None:
        """Compare neighbours.

        Args:
            places: (N, 2) in steps.
            field: Its nugget and drift say how far neighbours may be off.
        """
        self.first, self.second = _pairs(places)
        self.apart = places[self.second] - places[self.first]
        reach = np.hypot(*self.apart.T)
        spread = np.sqrt(2 * (field.nugget + field.drift * reach))
        self.worth = MISS / (spread * np.maximum(reach, 1))

    def price(self, cells: Cells) -> float:
        """Of all pairs, of cells taken twice, and of rows and columns."""
        twice = len(cells) - len(np.unique(cells, axis=0))
        lines = sum(len(np.unique(cells[:, axis])) for axis in (0, 1))
        return float(self._misses(cells, np.zeros(2)).sum()) + CLASH * twice + OPENED * lines

    def settled(self, cells: Cells) -> Cells:
        """Move sets of spots by a step as long as that makes the cells cheaper."""
        best = self.price(cells)
        improved = True
        while improved:
            improved = False
            for step in STEPS:
                for block in self._blocks(self.cut(cells, step)):
                    trial = cells + block[:, None] * step
                    if (price := self.price(trial)) < best - 1e-6:
                        cells, best, improved = trial, price, True
        return cells

    def cut(self, cells: Cells, step: Cells, moved: Marks | None = None,
            still: Marks | None = None) -> Marks:  # fmt: skip
        """Which spots to move by a step at the least price.

        Args:
            cells: Their cells now.
            step: (2,) the step.
            moved, still: Spots that must move, and that must not.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        count = len(cells)
        now = self._misses(cells, np.zeros(2))
        ahead, back = (self._misses(cells, way) - now for way in (step, -step))
        alone = np.zeros(count)  # what it costs to move a spot, less what pairs cost
        np.add.at(alone, self.second, ahead)
        np.add.at(alone, self.first, -ahead)
        if still is not None and moved is not None:
            alone += FORCED * (still.astype(int) - moved.astype(int))
        dear, cheap = np.flatnonzero(alone > 0), np.flatnonzero(alone < 0)
        rows = np.concatenate([self.second, np.full(len(dear), count), cheap])
        columns = np.concatenate([self.first, dear, np.full(len(cheap), count + 1)])
        price = np.concatenate([ahead + back, alone[dear], -alone[cheap]])
        capacity = np.round(np.maximum(price, 0) * UNIT).astype(np.int32)
        graph = coo_array((capacity, (rows, columns)), shape=(count + 2, count + 2)).tocsr()
        residual = graph - maximum_flow(graph, count, count + 1).flow
        residual.eliminate_zeros()
        moves = np.ones(count + 2, bool)
        moves[breadth_first_order(residual, count, return_predecessors=False)] = False
        return moves[:count]

    def _misses(self, cells: Cells, shift: Cells | NDArray[np.float64]) -> NDArray[np.float64]:
        """(E,) price of each pair, were its second moved by ``shift`` against its first."""
        misses = self.apart - (cells[self.second] - cells[self.first] + shift)
        return np.asarray(self.worth * np.abs(misses).sum(axis=1))

    def _blocks(self, moved: Marks) -> list[Marks]:
        """All that moves, and each part of it that hangs together; none if nothing stays."""
        if not moved.any() or moved.all():
            return []
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        inside = moved[self.first] & moved[self.second]
        pairs = self.first[inside], self.second[inside]
        graph = coo_array((np.ones(len(pairs[0])), pairs), shape=(len(moved), len(moved)))
        _, block = connected_components(graph, directed=False)
        blocks = [moved & (block == number) for number in np.unique(block[moved])]
        return [moved, *blocks] if len(blocks) > 1 else blocks


def _pairs(places: Points) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Neighbours: the nearest few of each spot, and those of the triangulation."""
    from scipy.spatial import Delaunay

    count = len(places)
    near = tree_of(places).query(places, k=min(NEIGHBOURS + 1, count))[1].reshape(count, -1)
    own = np.repeat(np.arange(count), near.shape[1])
    pairs: list[NDArray[np.integer]] = [np.stack([own, near.ravel()], axis=1)]
    if count > 3:
        corners = Delaunay(places, qhull_options="QJ").simplices  # joggled: lines have an area
        pairs += [corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]]
    both = np.sort(np.concatenate(pairs), axis=1)
    both = np.unique(both[both[:, 0] != both[:, 1]], axis=0).astype(np.int64)
    apart = np.hypot(*(places[both[:, 0]] - places[both[:, 1]]).T)
    return both[apart <= FARTHEST, 0], both[apart <= FARTHEST, 1]
