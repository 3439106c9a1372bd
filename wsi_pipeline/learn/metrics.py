"""Measures of a classifier, each a function of sums over patients.

Everything reported here (confusion, ROC, precision–recall, calibration) follows from counts that
add up over patients. So a value for all patients, for a bootstrap resample or for all but one of
them differs only in how often each patient's counts are taken, and a thousand resamples are one
matrix product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import LearnError

SCORE_BINS: Final = 2048  # up to so many distinct scores a class, ROC and AP are exact
CALIBRATION_BINS: Final = 10  # of equal width, over the confidence of the predicted class

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the cases of each of P patients add up to; C classes.

    ``confusion`` (P, C, C) true × predicted; ``scores`` (P, C, 2, K) histogram of each class's
    score over others and own; ``calibration`` (P, B, 3) cases, confidence and correct per bin;
    ``losses`` (P, 2) Brier score and log loss.
    """

    confusion: Array
    scores: Array
    calibration: Array
    losses: Array

    @property
    def patients(self) -> int:
        return len(self.confusion)


def count_cases(
    targets: NDArray[np.int64], probabilities: Array, patients: Sequence[str]
) -> Counts:
    """Add up the cases of each patient.

    Args:
        targets: (n,) class index of each case (tile, slide or patient), n ≥ 1.
        probabilities: (n, C); rows sum to one.
        patients: (n) patient of each case, the unit that is resampled.

    Raises:
        LearnError: There are no cases, or the shapes or values do not fit.
    """
    _check(targets, probabilities, patients)
    n, classes = probabilities.shape
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    predicted = probabilities.argmax(1)
    confusion = np.zeros((len(names), classes, classes))
    np.add.at(confusion, (owner, targets, predicted), 1)

    confidence = probabilities.max(1)
    bin_of = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    calibration = np.zeros((len(names), CALIBRATION_BINS, 3))
    sums = np.stack([np.ones(n), confidence, predicted == targets], axis=1)
    np.add.at(calibration, (owner, bin_of), sums)

    truth = np.eye(classes)[targets]
    log_loss = -np.log(probabilities[np.arange(n), targets].clip(np.finfo(np.float64).eps))
    losses = np.zeros((len(names), 2))
    np.add.at(losses, owner, np.stack([((probabilities - truth) ** 2).sum(1), log_loss], axis=1))
    return Counts(
        confusion=confusion,
        scores=_score_histograms(truth, probabilities, owner, len(names)),
        calibration=calibration,
        losses=losses,
    )


def measure(counts: Counts, taken: Array, classes: Sequence[str]) -> dict[str, Array]:
    """Return every measure for each row of ``taken``.

    Args:
        counts: Of P patients.
        taken: (R, P) how often each patient is taken; each row takes at least one.
        classes: Names of the C classes.

    Returns:
        Arrays of shape (R,): ``accuracy``; ``balanced_accuracy`` (over the classes that occur);
        ``macro_f1`` (over the classes that occur or are predicted); ``auroc`` and ``ap`` (one
        class against the rest, mean over the classes for which it is defined); ``ece`` (10 bins);
        ``brier`` (summed over classes, 0 to 2); ``log_loss``; and, for each class c,
        ``sensitivity/c``, ``specificity/c``, ``auroc/c``, ``ap/c``. Undefined values are NaN.
    """
    rows, patients = taken.shape
    flat = counts.confusion.reshape(patients, -1)
    confusion = (taken @ flat).reshape(rows, *counts.confusion.shape[1:])
    values = _from_confusion(confusion, classes)
    cases = confusion.sum((1, 2))
    losses = (taken @ counts.losses) / cases[:, None]
    values["brier"], values["log_loss"] = losses.T
    bins = (taken @ counts.calibration.reshape(patients, -1)).reshape(rows, -1, 3)
    values["ece"] = np.abs(bins[..., 1] - bins[..., 2]).sum(1) / cases
    aurocs, precisions = [], []
    for index, name in enumerate(classes):
        scores = counts.scores[:, index]
        histograms = (taken @ scores.reshape(patients, -1)).reshape(rows, *scores.shape[1:])
        values[f"auroc/{name}"] = _auroc(histograms)
        values[f"ap/{name}"] = _average_precision(histograms)
        aurocs.append(values[f"auroc/{name}"])
        precisions.append(values[f"ap/{name}"])
    values["auroc"] = _mean_defined(np.stack(aurocs))
    values["ap"] = _mean_defined(np.stack(precisions))
    return values


def confusion_matrix(
    targets: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Return (C, C) int64, true × predicted."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (targets, predicted), 1)
    return matrix


def balanced_accuracy(targets: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Return the mean sensitivity over the classes that occur in ``targets``."""
    return float(np.mean([(predicted[targets == c] == c).mean() for c in np.unique(targets)]))


def _from_confusion(confusion: Array, classes: Sequence[str]) -> dict[str, Array]:
    """Measures that follow from confusion matrices, (R, C, C) true × predicted."""
    right = np.diagonal(confusion, axis1=1, axis2=2)
    true, predicted = confusion.sum(2), confusion.sum(1)
    cases = true.sum(1, keepdims=True)
    sensitivity = _ratio(right, true)
    specificity = _ratio(cases - true - predicted + right, cases - true)
    values = {
        "accuracy": right.sum(1) / cases[:, 0],
        "balanced_accuracy": _mean_defined(sensitivity.T),
        "macro_f1": _mean_defined(_ratio(2 * right, true + predicted).T),
    }
    for index, name in enumerate(classes):
        values[f"sensitivity/{name}"] = sensitivity[:, index]
        values[f"specificity/{name}"] = specificity[:, index]
    return values


def _auroc(histograms: Array) -> Array:
    """Area under the ROC from (R, 2, K) counts of others and own by rising score; ties count ½."""
    others, own = histograms[:, 0], histograms[:, 1]
    below = others.cumsum(1) - others / 2
    return _ratio((own * below).sum(1), own.sum(1) * others.sum(1))


def _average_precision(histograms: Array) -> Array:
    """Σ (recall step × precision) over falling thresholds, from (R, 2, K) counts."""
    others, own = histograms[:, 0, ::-1], histograms[:, 1, ::-1]
    found = own.cumsum(1)
    precision = np.divide(found, found + others.cumsum(1), out=np.zeros_like(found), where=own > 0)
    return _ratio((own * precision).sum(1), own.sum(1))


def _score_histograms(
    truth: Array, probabilities: Array, owner: NDArray[np.int64], patients: int
) -> Array:
    """Return (P, C, 2, K): a class's scores in rank order, distinct ones apart up to SCORE_BINS."""
    ranks = []
    for scores in probabilities.T:
        levels = np.unique(scores)
        if len(levels) > SCORE_BINS:
            levels = np.unique(np.quantile(scores, np.linspace(0, 1, SCORE_BINS), method="lower"))
        ranks.append(np.searchsorted(levels, scores, "right") - 1)
    width = max(int(rank.max()) for rank in ranks) + 1
    histograms = np.zeros((patients, probabilities.shape[1], 2, width))
    for index, rank in enumerate(ranks):
        own = truth[:, index].astype(np.int64)
        np.add.at(histograms[:, index], (owner, own, rank), 1)
    return histograms


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Divide; NaN where the denominator is zero."""
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def _mean_defined(values: Array) -> Array:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(0), defined.sum(0).astype(np.float64))


def _check(targets: NDArray[np.int64], probabilities: Array, patients: Sequence[str]) -> None:
    if probabilities.ndim != 2 or not len(targets) == len(probabilities) == len(patients) > 0:
        raise LearnError(
            f"{len(targets)} targets, probabilities of shape {probabilities.shape} and "
            f"{len(patients)} patients do not describe the same cases"
        )
    if not np.allclose(probabilities.sum(1), 1, atol=1e-3):
        raise LearnError("class probabilities do not sum to one")
    if targets.min() < 0 or targets.max() >= probabilities.shape[1]:
        raise LearnError("a target is outside the classes")
