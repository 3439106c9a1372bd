"""What cores are off their places in a grid by, as a random field over the array.

Cores wander when the block is cut and the section floats, neighbours much alike and less and less
so with distance: a linear variogram, fitted to the array at hand, from which ordinary kriging
predicts a place and says how surely.

Source: Matheron, Economic Geology 58, 1963.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.spatial import KDTree

NEIGHBOURS = 8
NUGGET = 0.015  # step²: half of what two cores side by side differ by, jitter alone
DRIFT = 0.01  # step² a step
BOUNDS = ((0.008, 0.04), (0.004, 0.04))  # of the two when they are fitted
TORN = 0.05  # share of neighbours between which there is a tear, a spacer, a displaced core
TEAR = 0.25  # step²: how far it moves them

Points = NDArray[np.float64]  # (N, 2) x, y
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Field:
    """What cores are off their cells by, in steps, and how fast that changes.

    Attributes:
        places: (N, 2) float64, positions in steps, of the cores it is known at.
        offsets: (N, 2) float64, position less cell.
        nugget, drift: Half of the squared difference between two cores, next to each other and
            for each step that they are apart.
    """

    places: Points
    offsets: Points
    nugget: float = NUGGET
    drift: float = DRIFT

    def predict(self, places: Points, exclude_self: bool = False) -> tuple[Points, Floats]:
        """Offsets (M, 2) at ``places``, and their variance (M,), by ordinary kriging.

        Args:
            places: (M, 2) in steps.
            exclude_self: The places are the field's own; each is predicted from the others.
        """
        count = min(NEIGHBOURS, len(self.places) - exclude_self)
        if count < 1:
            return np.zeros_like(places), np.full(len(places), np.inf)
        reach, near = _nearest(places, self.places, count, exclude_self=exclude_self)
        among = np.hypot(
            *np.moveaxis(self.places[near][:, :, None] - self.places[near][:, None], -1, 0)
        )
        system = np.zeros((len(places), count + 1, count + 1))
        system[:, :count, :count] = self._variogram(among)
        system[:, count, :count] = system[:, :count, count] = 1
        right = np.ones((len(places), count + 1))
        right[:, :count] = self._variogram(reach)
        weights = np.linalg.solve(system, right[..., None])[..., 0]
        offsets = (weights[:, :count, None] * self.offsets[near]).sum(axis=1)
        variance = (weights * right).sum(axis=1)
        return offsets, np.maximum(variance, self.nugget)

    def _variogram(self, apart: Floats) -> Floats:
        return np.where(apart > 0, self.nugget + self.drift * apart, 0.0)

    def fitted(self) -> "Field":
        """The same field with nugget and drift measured on it, robustly."""
        if len(self.places) < 12:
            return self
        apart = distances(self.places, self.places)
        first, second = np.nonzero(np.triu(apart < 4.5, 1))
        squares = ((self.offsets[first] - self.offsets[second]) ** 2).mean(axis=1) / 2
        reach = apart[first, second]
        bins = [(reach >= low) & (reach < low + 1) for low in (0.5, 1.5, 2.5, 3.5)]
        points = [
            (reach[inside].mean(), np.median(squares[inside]) / 0.69)
            for inside in bins
            if inside.sum() >= 8
        ]  # the median of χ² with two degrees over two is 0.69 of its mean
        if len(points) < 2:
            return self
        x, y = np.array(points).T
        slope = np.polyfit(x, y, 1)[0]
        drift = float(np.clip(slope, *BOUNDS[1]))
        return replace(self, drift=drift, nugget=float(np.clip(y[0] - drift * x[0], *BOUNDS[0])))


def _nearest(
    places: Points, known: Points, count: int, *, exclude_self: bool
) -> tuple[Floats, NDArray[np.int64]]:
    """(M, count) distances to the nearest of the known places, and their indices."""
    wanted = count + exclude_self
    found = tree_of(known).query(places, k=wanted)
    reach = np.asarray(found[0], dtype=np.float64).reshape(-1, wanted)
    near = np.asarray(found[1], dtype=np.int64).reshape(-1, wanted)
    if exclude_self:
        reach[near == np.arange(len(places))[:, None]] = np.inf
        order = np.argsort(reach, axis=1, kind="stable")[:, :count]
        reach, near = np.take_along_axis(reach, order, 1), np.take_along_axis(near, order, 1)
    return reach, near


def tree_of(places: Points) -> "KDTree":
    """Return positions such that the nearest of them are found fast."""
    from scipy.spatial import KDTree  # a third of a second that only microarrays need

    return KDTree(places)


def distances(first: Points, second: Points) -> Floats:
    """(N, M) from each of the first points to each of the second."""
    return np.asarray(np.hypot(*np.moveaxis(first[:, None] - second[None], -1, 0)))


def likelihoods(misses: Points, variance: Floats) -> Floats:
    """Density of being off by ``misses`` (..., 2): a Gaussian, and now and then a tear."""
    squares = (misses**2).sum(axis=-1)
    near = np.exp(-squares / (2 * variance)) / (2 * np.pi * variance)
    torn = np.exp(-squares / (2 * TEAR)) / (2 * np.pi * TEAR)
    return np.asarray((1 - TORN) * near + TORN * torn)
