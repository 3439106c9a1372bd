"""95 % intervals of shares, of their mean over classes, and of an AUROC, by patients.

What a patient's slides or tiles come to is one number in [0, 1], the share that is right, and
patients are the sample. However alike the slides of one patient are, the interval holds.

A share. Patients get random weights (exponential, so together Dirichlet), and so does one imagined
patient who is all wrong for the lower bound, all right for the upper. The bounds are the 2.5 % and
97.5 % points of the weighted share (Gaffke). With one case a patient that is Clopper and Pearson's
exact interval. It never is a point: 21 patients of 21 have a lower bound of 0.839.

A mean over classes. The classes' distributions of the bounds are added as independent ones (Fay,
Proschan and Brittain's melding); where patients have cases of several classes they count as
dependent to that extent.

An AUROC. The values whose distance to what was seen is likely under Hanley and McNeil's variance
(Newcombe's method 5), of three forms of it the largest, with Student's t.

All of them are monotone: with one more mistake no bound rises.

Sources: Clopper and Pearson, Biometrika 26, 1934. Gaffke, "Three test statistics for a
nonparametric one-sided hypothesis on the mean of a nonnegative variable", Mathematical Methods of
Statistics 14, 2005; Learned-Miller and Thomas, arXiv:1905.06208, 2019. Fay, Proschan and Brittain,
Biometrics 71, 2015. Newcombe, Statistics in Medicine 25, 2006, 559-573. Imhof, Biometrika 48, 1961.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, ndtr, ndtri, stdtrit

Array = NDArray[np.float64]

TAIL: Final = 0.025  # on either side of a 95 % interval
FAR: Final = 4.8  # standard deviations to which a distribution is looked at: 1e-6 lie beyond
BEYOND: Final = 7.0  # where a quantile is looked for
KNOTS: Final = 15  # at which a distribution is computed; between them it is interpolated
CELLS: Final = 4096  # of the widest distribution when distributions are added
SPAN: Final = (-3.5, 40.0)  # places of the integration
FINEST: Final = 8  # steps of a place, or more
NEGLIGIBLE: Final = 24.0  # -log of what adds nothing to the integral


@dataclass(frozen=True, kw_only=True, eq=False)
class Share:
    """How many cases of each patient are right; (P,) each, at least one case a patient."""

    right: Array
    cases: Array

    @classmethod
    def of(cls, right: Array, cases: Array) -> "Share":
        """Leave patients without a case out."""
        has = cases > 0
        return cls(right=right[has], cases=cases[has])

    @property
    def value(self) -> float:
        return float(self.right.sum() / self.cases.sum())

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % interval; (0, 1) without a patient."""
        return self.lowest.quantile(TAIL), 1 - self.highest.quantile(TAIL)

    @cached_property
    def lowest(self) -> "Weighted":
        """The share with one more patient, all wrong."""
        return Weighted(right=self.right, cases=self.cases)

    @cached_property
    def highest(self) -> "Weighted":
        """One less the share with one more patient, all right."""
        return Weighted(right=self.cases - self.right, cases=self.cases)


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighted:
    """The share of ``right`` in ``cases`` under random weights, an imagined wrong patient included.

    That patient has as many cases as the others on average.
    """

    right: Array
    cases: Array

    @cached_property
    def constant(self) -> float | None:
        """The only value it takes, if there is one."""
        return 0.0 if not self.right.any() else None

    def cdf(self, values: Array) -> Array:
        """Return how probable it is to be at most each of ``values`` (n,) in (0, 1)."""
        if self._binary:
            return np.asarray(betainc(*self._near, values))
        right, cases, count = self._grouped
        return np.array([_below_zero(right - value * cases, count) for value in values])

    def quantile(self, level: float) -> float:
        """Return the value that is exceeded with probability 1 - ``level``."""
        if self.constant is not None:
            return self.constant
        if self._binary:
            return float(betaincinv(*self._near, level))

        def away(deviation: float) -> float:
            value = float(betaincinv(*self._near, ndtr(deviation)))
            return float(self.cdf(np.array([value]))[0]) - level

        close = float(ndtri(level)) + np.array([-0.5, 0.5])
        if not away(close[0]) < 0 < away(close[1]):
            close = np.array([-BEYOND, BEYOND])
        deviation = brentq(away, close[0], close[1], xtol=1e-10)
        return float(betaincinv(*self._near, ndtr(deviation)))

    def cells(self, width: float) -> tuple[int, Array]:
        """Return the probabilities of cells ``width`` wide, and the first one's index."""
        low, high = self.reach
        first, last = int(np.floor(low / width)), int(np.ceil(high / width))
        edges = np.arange(first, last + 1) * width
        below = np.asarray(betainc(*self._near, edges.clip(0, 1)))
        if not self._binary:
            below = ndtr(self._correction(ndtri(below)))
        below[0], below[-1] = 0, 1
        return first, np.diff(below)

    @cached_property
    def reach(self) -> tuple[float, float]:
        """Where all but a millionth of it lies, on either side."""
        low, high = betaincinv(*self._near, ndtr([-FAR, FAR]))
        return float(low), float(high)

    @cached_property
    def _near(self) -> tuple[float, float]:
        """Of the beta distribution of the same mean and variance; the same one if all is 0 or 1."""
        right, cases, count = self._grouped
        mean = (count @ right) / (count @ cases)
        spread = count @ (right - mean * cases) ** 2 / (count @ cases) ** 2
        size = count.sum()
        total = mean * (1 - mean) / (spread * size / (size + 1)) - 1
        return float(mean * total), float((1 - mean) * total)

    @cached_property
    def _correction(self) -> PchipInterpolator:
        """Probit of the near distribution to probit of this one."""
        knots = np.linspace(-FAR, FAR, KNOTS)
        levels = self.cdf(betaincinv(*self._near, ndtr(knots))).clip(ndtr(-BEYOND), ndtr(BEYOND))
        return PchipInterpolator(knots, ndtri(np.maximum.accumulate(levels)))

    @cached_property
    def _binary(self) -> bool:
        """Every patient counts alike and is all right or all wrong."""
        alike = bool((self.cases == self.cases[0]).all())
        return alike and bool(((self.right == 0) | (self.right == self.cases)).all())

    @cached_property
    def _grouped(self) -> tuple[Array, Array, Array]:
        """Patients that are alike, once, with how many there are; the imagined one is the last."""
        pairs, count = np.unique(
            np.stack([self.right, self.cases], axis=1), axis=0, return_counts=True
        )
        pairs = np.concatenate([pairs, [[0.0, self.cases.mean()]]])
        return pairs[:, 0], pairs[:, 1], np.append(count, 1).astype(np.float64)


def mean_interval(shares: Sequence[Share], dependence: float = 0.0) -> tuple[float, float]:
    """Return the 95 % interval of the mean of classes' shares.

    Args:
        shares: One a class, each with a patient.
        dependence: How far the classes' patients are the same, see :func:`same_patients`. At 1 the
            bounds are the means of the classes' bounds.
    """
    ends = [share.interval for share in shares]
    apart = (
        _mean_quantile([share.lowest for share in shares]),
        1 - _mean_quantile([share.highest for share in shares]),
    )
    together = tuple(float(np.mean(bounds)) for bounds in zip(*ends, strict=True))
    low, high = (
        (1 - dependence) * one + dependence * other
        for one, other in zip(apart, together, strict=True)
    )
    return max(low, together[0]), min(high, together[1])


def same_patients(cases: Array) -> float:
    """Return how far classes have the same patients, 0 to 1, from their cases (P, C).

    It is the largest correlation that two classes' shares would have if all that a patient has
    were right or wrong together.
    """
    lengths = np.linalg.norm(cases, axis=0)
    unit = cases / np.where(lengths > 0, lengths, 1)
    among = unit.T @ unit
    np.fill_diagonal(among, 0)
    return float(min(among.max(initial=0), 1))


def auroc_interval(
    value: float, own: float, others: float, tail: float = TAIL
) -> tuple[float, float]:
    """Return the 95 % interval of an area under the ROC.

    Args:
        value: What was seen.
        own, others: How many patients of the class and of the others; see :func:`effective`.
        tail: Probability on either side.
    """
    reach = float(stdtrit(max(2 * min(own, others) - 2, 1), 1 - tail))
    inside = np.finfo(np.float64).eps ** 0.5

    def beyond(area: float) -> float:
        return abs(value - area) - reach * math.sqrt(_auroc_variance(area, own, others))

    low = high = value
    low = brentq(beyond, 0, min(value, 1 - inside)) if value > inside else 0.0
    high = brentq(beyond, max(value, inside), 1) if value < 1 - inside else 1.0
    return float(low), float(high)


def effective(cases: Array) -> float:
    """Return how many patients of equal weight tell as much, from their numbers of cases (P,).

    Source: Kish, "Survey Sampling", 1965.
    """
    return float(cases.sum() ** 2 / (cases**2).sum()) if cases.any() else 0.0


def lower_bound_if_perfect(patients: int | Sequence[int]) -> float:
    """Return the lower bound that remains if every patient is right.

    Args:
        patients: How many, for accuracy or one class's sensitivity; or how many of each class,
            for balanced accuracy.
    """
    if isinstance(patients, int):
        return float(TAIL ** (1 / patients)) if patients else 0.0
    each = [np.ones(count) for count in patients]
    return mean_interval([Share(right=ones, cases=ones) for ones in each])[0]


def patients_needed(target: float, mistakes: int = 0) -> int:
    """Return how many patients it takes for an accuracy's lower bound to reach ``target``.

    Args:
        target: Between 0 and 1.
        mistakes: How many of them are wrong.
    """
    low, high = mistakes, mistakes + 1
    while betaincinv(high - mistakes, mistakes + 1, TAIL) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        reached = betaincinv(middle - mistakes, mistakes + 1, TAIL) >= target
        low, high = (low, middle) if reached else (middle, high)
    return high


def _mean_quantile(parts: Sequence[Weighted]) -> float:
    """Return the lower tail's end of the mean of independent variables, by adding cell by cell."""
    fixed = sum(part.constant for part in parts if part.constant is not None)
    free = [part for part in parts if part.constant is None]
    if not free:
        return fixed / len(parts)
    if len(free) == 1:
        return (fixed + free[0].quantile(TAIL)) / len(parts)
    width = max(high - low for low, high in (part.reach for part in free)) / CELLS
    start, sums = free[0].cells(width)
    for part in free[1:]:
        first, cells = part.cells(width)
        start, sums = start + first, np.convolve(sums, cells)
    # a cell's sum lies around its middle, half a cell further for each that was added
    places = (start + np.arange(len(sums)) + len(free) / 2) * width
    middle = sums.cumsum() - sums / 2
    return (fixed + float(np.interp(TAIL, middle, places))) / len(parts)


def _below_zero(slopes: Array, count: Array) -> float:
    """Return P(Σ slope x exponential ≤ 0); ``count`` (n,) says how often each slope (n,) occurs.

    Imhof's inversion of the characteristic function, on a scale where the integrand dies off
    doubly exponentially on one side; the trapezoid rule is then exact but for rounding, once it
    follows the phase.
    """
    slopes = slopes / np.sqrt((count * slopes**2).sum())
    u = _nodes(np.arange(*SPAN))[:, None] * slopes
    used = np.log1p(u**2) @ count < 2 * NEGLIGIBLE
    turning = np.abs((u / (1 + u**2)) @ count)[used].max()  # phase by place
    places = np.arange(SPAN[0], SPAN[0] + used.sum(), 1 / np.ceil(max(turning / 2, FINEST)))
    u = _nodes(places)[:, None] * slopes
    density = np.sin(np.arctan(u) @ count) * np.exp(-np.log1p(u**2) @ count / 2)
    return float(0.5 - (places[1] - places[0]) / np.pi * (density * (1 + np.exp(-places))).sum())


def _nodes(places: Array) -> Array:
    return np.asarray(np.exp(places - np.exp(-places)))


def _auroc_variance(area: float, own: float, others: float) -> float:
    """Hanley and McNeil's variance, the largest of both roles and of Newcombe's mean of them."""
    middle = (own + others) / 2
    one, other = (1 - area) / (2 - area), area / (1 + area)
    widest = max(
        (a - 1) * one + (b - 1) * other for a, b in ((own, others), (others, own), (middle, middle))
    )
    return area * (1 - area) * (1 + max(widest, 0)) / (own * others)
