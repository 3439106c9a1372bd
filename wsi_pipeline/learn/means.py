"""What logistic regression on bags' means says, for a model of few patients to start from.

With few patients and many features it is hard to beat where a class shows in all tiles, and of no
use where it shows in few. A network that is trained on top of it must learn what it does *not*
know: so each training bag is given what a regression said that had not seen its patient. A
regression that fits its own bags without an error would leave nothing to learn.

How much of it counts is what holds on patients that it had not seen: its logits are scaled by their
calibration slope, between none and all.

Sources: Wolpert, "Stacked generalization", Neural Networks 1992, of predictions out of fold; Cox,
Biometrika 1958, of the slope.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from wsi_pipeline.learn.splits import SplitSlide

PARTS: Final = 5  # that the patients are dealt to; fewer where a class has fewer
DEALS: Final = 3  # of the patients, each anew
LIMIT: Final = 20.0  # of a class's shift, in logits

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MeanRegression:
    """Logits of a bag's mean ``m``: ``weight`` (C, D) · m + ``bias`` (C,).

    ``out_of_fold`` (n, C) are those of the bags it was fitted on, by regressions that had not seen
    their patients.
    """

    weight: Floats
    bias: Floats
    out_of_fold: Floats


def regress_means(
    means: Floats, targets: NDArray[np.int64], slides: Sequence[SplitSlide],
    shares: Floats, seed: int,
) -> MeanRegression | None:  # fmt: skip
    """Fit it, or return None where some class has not enough patients to leave one out.

    Args:
        means: (n, D) of the training bags.
        targets: (n,) class indices 0 to C - 1.
        slides: Whose bags they are, n of them.
        shares: (n,) of each bag in a loss.
        seed: Of how patients are dealt.
    """
    classes = int(targets.max()) + 1
    weights = shares * len(shares) / shares.sum()
    centre, spread = means.mean(0), means.std(0)
    scale = np.where(spread > 1e-6, 1 / spread.clip(1e-6), 0.0)
    # a penalised solution lies in the span of its bags: rotated there, it is the same and cheap
    _, _, axes = np.linalg.svd((means - centre) * scale, full_matrices=False)
    rotated = ((means - centre) * scale) @ axes.T
    heard = np.empty((DEALS, len(means), classes))
    for deal in range(DEALS):
        parts = _dealt(slides, np.random.default_rng([seed, deal]))
        for part in range(parts.max() + 1):
            inside = parts == part
            if len(np.unique(targets[~inside])) < classes or parts.max() == 0:
                return None
            fitted = _fit(rotated[~inside], targets[~inside], weights[~inside])
            heard[deal, inside] = _logits(fitted, rotated[inside])
    slope, shift = _calibrated(heard, targets, weights)
    whole = _fit(rotated, targets, weights)
    origin = _logits(whole, np.zeros((1, len(axes))))[0]
    weight = slope * (_logits(whole, np.eye(len(axes))) - origin).T @ axes * scale
    return MeanRegression(
        weight=weight,
        bias=slope * origin + shift - weight @ centre,
        out_of_fold=slope * heard.mean(0) + shift,
    )


def _dealt(slides: Sequence[SplitSlide], rng: np.random.Generator) -> NDArray[np.int64]:
    """Deal patients to parts, class by class; return each slide's part, (n,)."""
    of_class: dict[str, list[str]] = {}
    for patient, label in {slide.patient_id: slide.label for slide in slides}.items():
        of_class.setdefault(label, []).append(patient)
    count = min(PARTS, *(len(patients) for patients in of_class.values()))
    part, begun = {}, 0
    for label in sorted(of_class):
        for place, index in enumerate(rng.permutation(len(of_class[label])), start=begun):
            part[of_class[label][index]] = place % count
        begun += len(of_class[label])
    return np.array([part[slide.patient_id] for slide in slides])


def _fit(rows: Floats, targets: NDArray[np.int64], weights: Floats) -> Any:
    return LogisticRegression(max_iter=1000).fit(rows, targets, sample_weight=weights)


def _logits(fitted: Any, rows: Floats) -> Floats:
    found: Floats = fitted.decision_function(rows)
    return np.stack([-found, found], axis=1) / 2 if found.ndim == 1 else found


def _calibrated(heard: Floats, targets: NDArray[np.int64], weights: Floats) -> tuple[float, Floats]:
    """Return the slope, in [0, 1], and the shift of each class that suit what was heard best."""

    def unlikely(values: Floats) -> float:
        logs = log_softmax(values[0] * heard + values[1:], axis=2)
        return -float((logs[:, np.arange(len(targets)), targets] * weights).sum()) / len(targets)

    classes = heard.shape[2]
    bounds = [(0.0, 1.0), *[(-LIMIT, LIMIT)] * classes]
    found = minimize(unlikely, np.r_[0.5, np.zeros(classes)], bounds=bounds).x
    return float(found[0]), found[1:] - found[1:].mean()
