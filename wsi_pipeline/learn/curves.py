"""What a model is worth at other operating points: acting on it, and letting it abstain.

Sources: Vickers and Elkin, Medical Decision Making 26, 2006 (decision curves); Geifman and
El-Yaniv, NeurIPS 2017 (risk and coverage).
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

THRESHOLDS: Final = np.linspace(0.02, 0.98, 49)
COVERAGES: Final = np.linspace(0.02, 1.0, 50)


def net_benefit(own: NDArray[np.bool_], scores: Array, thresholds: Array = THRESHOLDS) -> Array:
    """Return true positives less false ones weighted by the odds, per case; (T,).

    Args:
        own: (n,) whether the case is of the class.
        scores: (n,) probability of the class; at ``thresholds`` and above it is acted upon.
        thresholds: (T,) probabilities in (0, 1) at which acting and not acting are worth the same.
    """
    acted = scores[:, None] >= thresholds
    right = (acted & own[:, None]).mean(0)
    wrong = (acted & ~own[:, None]).mean(0)
    return np.asarray(right - wrong * thresholds / (1 - thresholds))


def acting_on_all(own: NDArray[np.bool_], thresholds: Array = THRESHOLDS) -> Array:
    """Return the net benefit of acting on every case, (T,); acting on none is worth 0."""
    return net_benefit(own, np.ones(len(own)), thresholds)


def risk_at(right: NDArray[np.bool_], confidence: Array, coverages: Array = COVERAGES) -> Array:
    """Return the error rate among the most confident share of cases, (K,).

    Args:
        right: (n,) whether the prediction is right.
        confidence: (n,) of the predicted class; equal ones are taken together, at their mean risk.
        coverages: (K,) shares in (0, 1]; at least one case is always judged.
    """
    mean_error = np.asarray(~right, np.float64)
    levels, group = np.unique(confidence, return_inverse=True)
    sums = np.bincount(group, mean_error, len(levels)) / np.bincount(group, minlength=len(levels))
    errors = sums[group][np.argsort(-confidence, kind="stable")].cumsum()
    judged = np.maximum(np.round(coverages * len(right)).astype(np.int64), 1)
    return np.asarray(errors[judged - 1] / judged)


def aurc(right: NDArray[np.bool_], confidence: Array) -> float:
    """Return the mean risk over all coverages: 0 where every case is right."""
    count = len(right)
    return float(risk_at(right, confidence, np.arange(1, count + 1) / count).mean())


def describe_curves(
    targets: NDArray[np.int64], probabilities: Array, classes: Sequence[str]
) -> dict[str, Any]:
    """Return decision curves of each class and the risk–coverage curve, JSON-ready."""
    right = probabilities.argmax(1) == targets
    confidence = probabilities.max(1)
    decision = {
        name: {
            "model": _rounded(net_benefit(targets == index, probabilities[:, index])),
            "all": _rounded(acting_on_all(targets == index)),
        }
        for index, name in enumerate(classes)
        if (targets == index).any()
    }
    return {
        "decision": {"thresholds": _rounded(THRESHOLDS), "net_benefit": decision},
        "abstention": {
            "coverage": _rounded(COVERAGES),
            "risk": _rounded(risk_at(right, confidence)),
            "aurc": round(aurc(right, confidence), 6),
        },
    }


def _rounded(values: Array) -> list[float]:
    return [round(float(value), 6) for value in values]
