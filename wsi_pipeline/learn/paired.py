"""Is one model better than another on the same patients? Differences with paired intervals.

Both models are judged under the same weights of patients, so what is hard about a patient is hard
for both and does not blur the difference. As for one model, one imagined patient of each class is
among them, lost by the first and won by the second for the lower bound and the reverse for the
upper: two models that agree on ten patients may differ on the eleventh.

``p`` is that of the permutation test in which the two models change places patient by patient; it
is exact for any measure (Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses", 2005).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from wsi_pipeline.learn.bootstrap import CHUNK, DEFAULT, LEAST_DEFINED, Bootstrap, weights
from wsi_pipeline.learn.evaluate import Cases
from wsi_pipeline.learn.intervals import TAIL
from wsi_pipeline.learn.metrics import METRICS, Array, Counts, count_cases, measure

TIE: Final = 1e-12


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One measure of the first model less that of the second.

    ``low`` and ``high`` are the ends of its 95 % interval over patients, ``p`` is two-sided; None
    where undefined.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def compare_models(
    first: Cases, second: Cases, classes: Sequence[str], bootstrap: Bootstrap = DEFAULT
) -> dict[str, Difference]:
    """Compare two models on the same cases.

    Args:
        first, second: The same targets and patients in the same order, each model's probabilities.
        classes: Names of the classes.
        bootstrap: How many resamples and permutations, and their seed.
    """
    both = count_cases(
        np.concatenate([first.targets, second.targets]),
        np.concatenate([first.probabilities, second.probabilities]),
        [f"{number} {who}" for number in (0, 1) for who in first.patients],
    )
    names = [name for name, metric in METRICS.items() if metric.compared]
    patients = both.patients // 2
    one, two = both.part(slice(patients)), both.part(slice(patients, None))
    found = _between(one, two, np.ones((1, patients)), classes, names)
    if patients < 2:
        return {name: Difference(value=_or_none(found[name][0])) for name in names}
    swapped = _swapped(both, classes, names, bootstrap)
    better = [name for name in names if METRICS[name].higher_is_better]
    losses = [name for name in names if name not in better]  # without imagined patients
    worst, best = (
        _resampled(
            one.imagine(right=right), two.imagine(right=not right), classes, better, bootstrap
        )
        for right in (False, True)
    )
    plain = _resampled(one, two, classes, losses, bootstrap)
    return {
        name: _difference(
            float(found[name][0]), (worst | plain)[name], (best | plain)[name], swapped[name]
        )
        for name in names
    }


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for how many there are (Holm, Scand J Stat 6:65, 1979).

    Undefined ones stay so and do not count.
    """
    order = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, index) in enumerate(order):
        least = max(least, min(1.0, p * (len(order) - rank)))
        corrected[index] = least
    return corrected


def describe_differences(differences: dict[str, Difference]) -> dict[str, Any]:
    """Return them JSON-ready."""
    return {name: asdict(found) for name, found in differences.items()}


def _between(
    one: Counts, two: Counts, taken: Array, classes: Sequence[str], names: Sequence[str]
) -> dict[str, Array]:
    a, b = (measure(each, taken, classes, names) for each in (one, two))
    return {name: a[name] - b[name] for name in names}


def _resampled(
    one: Counts, two: Counts, classes: Sequence[str], names: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Array]:
    parts = [
        _between(one, two, taken, classes, names) for taken in weights(one.patients, bootstrap)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _swapped(
    both: Counts, classes: Sequence[str], names: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Array]:
    """Differences when the models change places for a random half of the patients."""
    rng = np.random.default_rng(bootstrap.seed)
    parts = []
    for start in range(0, bootstrap.resamples, CHUNK):
        rows = min(CHUNK, bootstrap.resamples - start)
        kept = rng.integers(0, 2, (rows, both.patients // 2)).astype(np.float64)
        a = measure(both, np.concatenate([kept, 1 - kept], axis=1), classes, names)
        b = measure(both, np.concatenate([1 - kept, kept], axis=1), classes, names)
        parts.append({name: a[name] - b[name] for name in names})
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _difference(value: float, low: Array, high: Array, swapped: Array) -> Difference:
    low, high = low[~np.isnan(low)], high[~np.isnan(high)]
    if not np.isfinite(value) or min(len(low), len(high)) < LEAST_DEFINED * len(swapped):
        return Difference(value=_or_none(value))
    extreme = int((np.abs(swapped) >= abs(value) - TIE).sum())
    return Difference(
        value=value,
        low=min(value, float(np.quantile(low, TAIL))),
        high=max(value, float(np.quantile(high, 1 - TAIL))),
        p=(extreme + 1) / (len(swapped) + 1),  # what was seen is one of the permutations
    )


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
