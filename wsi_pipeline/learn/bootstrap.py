"""Every measure with a 95 % interval that knows how many patients stand behind it.

Patients are the sample; slides and tiles of one patient are not independent cases. Three kinds:

- accuracy, balanced accuracy, sensitivity, specificity and AUROC by :mod:`learn.intervals`: exact
  or nearly so, never a point, and no bound rises with one more mistake;
- macro F1, average precision and whatever else has no interval of its own under random weights of
  patients (the Bayesian bootstrap), one imagined patient of each class among them, wrong for the
  lower bound and right for the upper: what is perfect on a handful is not certain;
- losses and calibration error by the bootstrap, percentile or bias-corrected and accelerated (BCa),
  either way widened for the number of patients.

Sources: Rubin, Annals of Statistics 9, 1981; Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapters 13 and 14.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from wsi_pipeline.learn.intervals import (
    TAIL,
    Share,
    auroc_interval,
    effective,
    mean_interval,
    same_patients,
)
from wsi_pipeline.learn.metrics import METRICS, Array, Counts, measure, metric_of

Method = Literal["percentile", "bca"]
ENDS: Final = np.array([TAIL, 1 - TAIL])  # of the 95 % interval
CHUNK: Final = 250  # resamples at a time, which bounds memory
LEAST_DEFINED: Final = 0.5  # of the resamples; else there is no interval
JACKKNIFED: Final = 200  # groups of patients that are left out in turn, at most

Ends = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How the intervals of losses are made: patients are drawn with replacement.

    ``resamples`` and ``seed`` are also those of macro F1 and average precision.
    """

    resamples: int = 1000
    method: Method = "percentile"
    seed: int = 0


DEFAULT: Final = Bootstrap()


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its interval; None where undefined.

    ``low`` and ``high`` are None with fewer than two patients, and for a loss or calibration error
    on which all resamples agree.
    """

    value: float | None
    low: float | None
    high: float | None


def estimate(
    counts: Counts,
    classes: Sequence[str],
    bootstrap: Bootstrap = DEFAULT,
    names: Iterable[str] | None = None,
) -> dict[str, Estimate]:
    """Return the measures of :func:`measure` with their intervals over patients.

    Args:
        counts: Cases added up by patient.
        classes: Names of the classes.
        bootstrap: How intervals of losses are made.
        names: Which metrics; all of them if None.
    """
    everyone = np.ones((1, counts.patients))
    values = {name: float(v[0]) for name, v in measure(counts, everyone, classes, names).items()}
    ends: dict[str, Ends] = {}
    if counts.patients > 1:
        ends = (
            _share_ends(counts, classes)
            | _auroc_ends(counts, classes, values)
            | _imagined_ends(counts, classes, values, bootstrap)
            | _loss_ends(counts, classes, values, bootstrap)
        )
    return {
        name: Estimate(
            value=value if np.isfinite(value) else None,
            low=ends.get(name, (None, None))[0] if np.isfinite(value) else None,
            high=ends.get(name, (None, None))[1] if np.isfinite(value) else None,
        )
        for name, value in values.items()
    }


def widened(patients: int) -> NDArray[np.float64]:
    """Return the ends of a 95 % interval from so few patients, (2,) in standard deviations.

    A resample varies less than a new sample would, by √((n-1)/n), and its spread is an estimate:
    as a mean's interval takes Student's t, the percentiles move outward.

    Source: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician
    69, 2015 (expanded percentile interval).
    """
    reach: NDArray[np.float64] = np.sqrt(patients / (patients - 1)) * t.ppf(ENDS, patients - 1)
    return reach


def weights(patients: int, bootstrap: Bootstrap) -> Iterator[Array]:
    """Yield random weights of patients, (≤ CHUNK, P), ``bootstrap.resamples`` rows in all."""
    rng = np.random.default_rng(bootstrap.seed)
    for start in range(0, bootstrap.resamples, CHUNK):
        yield rng.standard_exponential((min(CHUNK, bootstrap.resamples - start), patients))


def _share_ends(counts: Counts, classes: Sequence[str]) -> dict[str, Ends]:
    """Bound accuracy, sensitivity and specificity of each class, and the mean sensitivity."""
    right = np.diagonal(counts.confusion, axis1=1, axis2=2)
    cases, predicted = counts.cases, counts.confusion.sum(1)
    of_class, ends = [], {}
    for index, name in enumerate(classes):
        rest = cases.sum(1) - cases[:, index]
        for measured, share in (
            ("sensitivity", Share.of(right[:, index], cases[:, index])),
            ("specificity", Share.of(rest - predicted[:, index] + right[:, index], rest)),
        ):
            if len(share.cases):
                ends[f"{measured}/{name}"] = share.interval
            if measured == "sensitivity" and len(share.cases):
                of_class.append(share)
    whole = Share.of(right.sum(1), cases.sum(1)).interval
    shares = cases.sum(0)[cases.sum(0) > 0] / cases.sum()
    by_class = shares @ np.array([share.interval for share in of_class])
    # all at once, classes cannot be worse than their lower bounds, nor better than their upper
    ends["accuracy"] = (max(whole[0], by_class[0]), min(whole[1], by_class[1]))
    ends["balanced_accuracy"] = mean_interval(of_class, same_patients(cases))
    return dict(ends)


def _auroc_ends(
    counts: Counts, classes: Sequence[str], values: dict[str, float]
) -> dict[str, Ends]:
    """Bound each class's AUROC; the mean is bounded by the mean, for all share the same cases."""
    cases, found = counts.cases, {}
    for index, name in enumerate(classes):
        value = values.get(f"auroc/{name}", np.nan)
        if np.isfinite(value):
            own, rest = cases[:, index], cases.sum(1) - cases[:, index]
            found[f"auroc/{name}"] = auroc_interval(value, effective(own), effective(rest))
    ends: dict[str, Ends] = dict(found)
    if found:
        low, high = np.mean(list(found.values()), axis=0)
        ends["auroc"] = (float(low), float(high))
    return ends


def _imagined_ends(
    counts: Counts, classes: Sequence[str], values: dict[str, float], bootstrap: Bootstrap
) -> dict[str, Ends]:
    """Bound what has no interval of its own, with a wrong and a right patient of each class."""
    names = [name for name in values if _is_imagined(name)]
    low, high = (
        _weighted(counts.imagine(right=right), classes, names, bootstrap) for right in (False, True)
    )
    return {
        name: (
            min(float(np.quantile(low[name], TAIL)), values[name]),
            max(float(np.quantile(high[name], 1 - TAIL)), values[name]),
        )
        for name in names
        if np.isfinite(values[name])
    }


def _is_imagined(name: str) -> bool:
    metric = metric_of(name)
    return metric.higher_is_better and not metric.exact


def _weighted(
    counts: Counts, classes: Sequence[str], names: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Array]:
    metrics = dict.fromkeys(name.partition("/")[0] for name in names)
    parts = [
        measure(counts, taken, classes, metrics) for taken in weights(counts.patients, bootstrap)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _loss_ends(
    counts: Counts, classes: Sequence[str], values: dict[str, float], bootstrap: Bootstrap
) -> dict[str, Ends]:
    names = [name for name in METRICS if name in values and not METRICS[name].higher_is_better]
    rng = np.random.default_rng(bootstrap.seed)
    uniform = np.full(counts.patients, 1 / counts.patients)
    parts = []
    for start in range(0, bootstrap.resamples, CHUNK):
        size = min(CHUNK, bootstrap.resamples - start)
        taken = rng.multinomial(counts.patients, uniform, size=size)
        parts.append(measure(counts, taken.astype(np.float64), classes, names))
    ends: dict[str, Ends] = {}
    left_out = measure(counts, _left_out(counts.patients), classes, names)
    for name in left_out:
        drawn = np.concatenate([part[name] for part in parts])
        defined = drawn[~np.isnan(drawn)]
        if len(defined) < LEAST_DEFINED * len(drawn) or np.ptp(defined) == 0:
            continue
        reach = widened(counts.patients)
        levels = norm.cdf(reach)
        if bootstrap.method == "bca":
            levels = _bca_ends(reach, values[name], defined, left_out[name])
        low, high = np.quantile(defined, levels)
        ends[name] = (float(low), float(high))
    return ends


def _left_out(patients: int) -> Array:
    """Return (G, P): all patients but one group in turn; so the cost is linear in patients."""
    groups = min(patients, JACKKNIFED)
    member = np.arange(patients) * groups // patients
    return np.asarray(member != np.arange(groups)[:, None], np.float64)


def _bca_ends(
    reach: NDArray[np.float64], value: float, drawn: Array, left_out: Array
) -> NDArray[np.float64]:
    """Move the percentiles for bias and skewness; ``left_out`` (G,) are the jackknife values."""
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
