"""Percentiles near the ends of many numbers, without ordering them all."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_STRIDE: Final = 16  # every so many values are ordered for a guess


def upper_percentiles(values: Vector, asked: Sequence[float]) -> list[float]:
    """What ``np.percentile(values, asked)`` gives, to the bit and in a quarter of the time.

    Args:
        values: (n,) float64, n at least 1, no NaN.
        asked: Percentiles; the closer the least is to 100, the faster.
    """
    spans = [span(len(values), percentile) for percentile in asked]
    found = at_ranks(values, [rank for below, above, _ in spans for rank in (below, above)])
    shares = [share for _, _, share in spans]
    return list(map(_between, found[::2], found[1::2], shares))


def _between(low: float, high: float, share: float) -> float:
    """NumPy's interpolation, which goes by the nearer end."""
    step = high - low
    return low + step * share if share < 0.5 else high - step * (1 - share)


def span(count: int, percentile: float) -> tuple[int, int, float]:
    """Return the two ranks of ``count`` values that a percentile lies between, and how far on."""
    place = percentile / 100 * (count - 1)
    below = math.floor(place)
    return below, min(below + 1, count - 1), place - below


def at_ranks(values: Vector, ranks: Sequence[int]) -> list[float]:
    """Return the values that would stand at ``ranks``, were they sorted.

    Only what exceeds a bound is ordered. The bound is a guess from some of the values, a little too
    low rather than too high; if it is too high for the least rank after all, everything is.
    """
    least = min(ranks)
    guesses = np.sort(values[::_STRIDE])
    place = least / len(values)
    doubt = 3 * math.sqrt(place * (1 - place) * len(guesses)) + 1
    bound = guesses[max(0, math.floor(place * len(guesses) - doubt))]
    beyond = np.compress(values > bound, values)
    left_out = len(values) - len(beyond)
    if left_out > least:
        beyond, left_out = values.copy(), 0
    places = [rank - left_out for rank in ranks]
    beyond.partition(places)
    return [float(beyond[index]) for index in places]
