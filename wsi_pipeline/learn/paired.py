"""Is one model better than another on the same patients? Differences with paired intervals.

Both models are judged on the same resamples of patients, so what is hard about a patient is hard
for both and does not blur the difference.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from scipy.stats import norm

from wsi_pipeline.learn.bootstrap import CHUNK, DEFAULT, LEAST_DEFINED, Bootstrap, widened
from wsi_pipeline.learn.evaluate import Cases
from wsi_pipeline.learn.metrics import Array, count_cases, measure

COMPARED: Final = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "brier")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One measure of the first model less that of the second.

    ``low`` and ``high`` are the ends of its 95 % percentile interval over patients, ``p`` is the
    two-sided share of resamples on the other side of zero, doubled; None where undefined.
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
        bootstrap: How many resamples, and their seed.
    """
    counts = [count_cases(c.targets, c.probabilities, c.patients) for c in (first, second)]
    patients = counts[0].patients
    rng = np.random.default_rng(bootstrap.seed)
    uniform = np.full(patients, 1 / patients)
    parts: dict[str, list[Array]] = {name: [] for name in COMPARED}
    for start in range(0, bootstrap.resamples, CHUNK):
        size = min(CHUNK, bootstrap.resamples - start)
        taken = rng.multinomial(patients, uniform, size=size).astype(np.float64)
        one, two = (measure(each, taken, classes) for each in counts)
        for name in COMPARED:
            parts[name].append(one[name] - two[name])
    whole = np.ones((1, patients))
    one, two = (measure(each, whole, classes) for each in counts)
    return {
        name: _difference(
            float(one[name][0] - two[name][0]),
            np.concatenate(parts[name]),
            norm.cdf(widened(patients)),
        )
        for name in COMPARED
    }


def describe_differences(differences: dict[str, Difference]) -> dict[str, Any]:
    """Return them JSON-ready."""
    return {name: asdict(found) for name, found in differences.items()}


def _difference(value: float, drawn: Array, ends: Array) -> Difference:
    if not np.isfinite(value):
        return Difference(value=None)
    defined = drawn[~np.isnan(drawn)]
    if len(defined) < LEAST_DEFINED * len(drawn) or np.ptp(defined) == 0:
        return Difference(value=value)
    low, high = np.quantile(defined, ends)
    # a resample more on each side: no finite number of them shows that a p is 0
    tails = [((side * defined <= 0).sum() + 1) / (len(defined) + 1) for side in (1, -1)]
    return Difference(
        value=value, low=float(low), high=float(high), p=float(min(1, 2 * min(tails)))
    )
