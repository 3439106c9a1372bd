"""95 % intervals that know how many patients stand behind a figure.

Patients are resampled, with all their slides and tiles; slides of one patient are not independent
cases. Intervals are percentiles of the resampled values, or bias-corrected and accelerated (BCa),
either way widened for the number of patients.

Where every patient is right, every resample is, and the bootstrap would claim certainty from a
handful of patients. There the interval of a share is the exact binomial one over patients.

Sources: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 14; Clopper
and Pearson, Biometrika 26, 1934.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from wsi_pipeline.learn.metrics import Array, Counts, measure

Method = Literal["percentile", "bca"]
ENDS: Final = np.array([0.025, 0.975])  # of the 95 % interval
CHUNK: Final = 250  # resamples at a time, which bounds memory
LEAST_DEFINED: Final = 0.5  # of the resamples; else there is no interval


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are made: patients are drawn with replacement, as many as there are."""

    resamples: int = 1000
    method: Method = "percentile"
    seed: int = 0


DEFAULT: Final = Bootstrap()


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its interval; None where undefined.

    ``low`` and ``high`` are None with fewer than two patients; where the measure was undefined in
    more than half of the resamples (a class so rare that most of them miss it); and where all
    resamples agree and the measure is no share of cases (an AUROC of 1).
    """

    value: float | None
    low: float | None
    high: float | None


def estimate(
    counts: Counts, classes: Sequence[str], bootstrap: Bootstrap = DEFAULT
) -> dict[str, Estimate]:
    """Return every measure of :func:`measure` with its patient-bootstrap interval.

    Args:
        counts: Cases added up by patient.
        classes: Names of the classes.
        bootstrap: How intervals are made.
    """
    values = {
        name: v[0] for name, v in measure(counts, np.ones((1, counts.patients)), classes).items()
    }
    if counts.patients < 2:
        return {
            name: Estimate(value=_or_none(v), low=None, high=None) for name, v in values.items()
        }
    drawn = _resampled(counts, classes, bootstrap)
    left_out = (
        measure(counts, 1 - np.eye(counts.patients), classes) if bootstrap.method == "bca" else None
    )
    estimates = {}
    for name, value in values.items():
        defined = drawn[name][~np.isnan(drawn[name])]
        low = high = None
        if len(defined) and np.ptp(defined) == 0:
            low, high = _exact(name, float(value), counts, classes)
        elif np.isfinite(value) and len(defined) >= LEAST_DEFINED * bootstrap.resamples:
            reach = widened(counts.patients)
            ends = norm.cdf(reach)
            if left_out is not None:
                ends = _bca_ends(reach, float(value), defined, left_out[name])
            low, high = (float(end) for end in np.quantile(defined, ends))
        estimates[name] = Estimate(value=_or_none(value), low=low, high=high)
    return estimates


def widened(patients: int) -> NDArray[np.float64]:
    """Return the ends of a 95 % interval from so few patients, (2,) in standard deviations.

    A resample varies less than a new sample would, by √((n-1)/n), and its spread is an estimate:
    as a mean's interval takes Student's t, the percentiles move outward.

    Source: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician
    69, 2015 (expanded percentile interval).
    """
    reach: NDArray[np.float64] = np.sqrt(patients / (patients - 1)) * t.ppf(ENDS, patients - 1)
    return reach


def _resampled(counts: Counts, classes: Sequence[str], bootstrap: Bootstrap) -> dict[str, Array]:
    rng = np.random.default_rng(bootstrap.seed)
    uniform = np.full(counts.patients, 1 / counts.patients)
    parts = []
    for start in range(0, bootstrap.resamples, CHUNK):
        taken = rng.multinomial(
            counts.patients, uniform, size=min(CHUNK, bootstrap.resamples - start)
        )
        parts.append(measure(counts, taken.astype(np.float64), classes))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _exact(
    name: str, value: float, counts: Counts, classes: Sequence[str]
) -> tuple[float | None, float | None]:
    """Bound a share that is 0 or 1 in every resample by the number of patients behind it."""
    if value not in (0, 1):
        return None, None
    of_class = (counts.confusion.sum(2) > 0).sum(0)  # patients with a case of each class
    of_others = [
        (np.delete(counts.confusion.sum(2), index, axis=1).sum(1) > 0).sum()
        for index in range(len(classes))
    ]
    match name.split("/", 1):
        case ["accuracy"]:
            patients = np.array([counts.patients])
        case ["balanced_accuracy"]:
            patients = of_class[of_class > 0]
        case ["sensitivity", label]:
            patients = of_class[[classes.index(label)]]
        case ["specificity", label]:
            patients = np.array(of_others)[[classes.index(label)]]
        case _:
            return None, None
    reach = float(np.mean(ENDS[0] ** (1 / patients)))  # the mean, where it is a mean of classes
    return (reach, 1.0) if value == 1 else (0.0, 1 - reach)


def _bca_ends(
    reach: NDArray[np.float64], value: float, drawn: Array, left_out: Array
) -> NDArray[np.float64]:
    """Move the percentiles for bias and skewness; ``left_out`` (P,) are the jackknife values."""
    # Ties (discrete measures) count half, so that a symmetric distribution has no bias.
    share = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    if not 0 < share < 1:
        return np.asarray(norm.cdf(reach))
    bias = norm.ppf(share)
    away = np.nanmean(left_out) - left_out[~np.isnan(left_out)]
    spread = (away**2).sum() ** 1.5
    acceleration = (away**3).sum() / (6 * spread) if spread > 0 else 0.0
    normal = bias + reach
    room = 1 - acceleration * normal
    # so far out that the correction has turned over: the outermost resample
    far = np.where(normal < 0, -np.inf, np.inf)
    moved = bias + np.divide(normal, room, out=far, where=room > 0)
    return np.asarray(norm.cdf(moved))


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
