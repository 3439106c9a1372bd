"""Measures of a classifier, each a function of sums over patients.

Everything reported here (confusion, ROC, precision–recall, calibration) follows from counts that
add up over patients. So a value for all patients, for a bootstrap resample or for all but one of
them differs only in how often each patient's counts are taken, and a thousand resamples are one
matrix product. What patients have is kept sparse: cost and memory grow with the cases, not with
patients times scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack

from wsi_pipeline.errors import LearnError

SCORE_BINS: Final = 2048  # up to so many distinct scores a class, ROC and AP are exact
COARSE_BINS: Final = 256  # of imagined cohorts
CALIBRATION_BINS: Final = 10  # of equal width, over the confidence of the predicted class

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the cases of each of P patients add up to; C classes.

    ``confusion`` (P, C, C) true x predicted; ``own`` and ``others``, a class each, sparse (P, K)
    counts of its cases and of the others by rising score; ``calibration`` (P, B, 3) cases,
    confidence and correct per bin; ``losses`` (P, 2) Brier score and log loss.
    """

    confusion: Array
    own: tuple[csr_array, ...]
    others: tuple[csr_array, ...]
    calibration: Array
    losses: Array

    @property
    def patients(self) -> int:
        return len(self.confusion)

    @property
    def cases(self) -> Array:
        """Cases of each patient and class, (P, C)."""
        return np.asarray(self.confusion.sum(2))

    def imagine(self, *, right: bool) -> "Counts":
        """Return the same with one more patient of each class that occurs, as it could have been.

        Each is all right, with the most convincing scores there are, or all wrong with the least
        convincing, and has as many cases as a patient of that class has on average. Scores are
        told apart into COARSE_BINS at most; measures of losses and calibration do not count them.
        """
        cases = self.cases
        present = np.flatnonzero(cases.sum(0))
        sizes = cases.sum(0)[present] / (cases[:, present] > 0).sum(0)
        classes = cases.shape[1]
        predicted = np.eye(classes) if right or classes == 1 else _elsewhere(classes)
        confusion = np.zeros((len(present), classes, classes))
        confusion[np.arange(len(present)), present] = sizes[:, None] * predicted[present]
        own, others = [], []
        for index in range(classes):
            mine = present == index
            own.append(_with_patients(self.own[index], sizes * mine, best=right))
            others.append(_with_patients(self.others[index], sizes * ~mine, best=not right))
        none = np.zeros((len(present), *self.calibration.shape[1:]))
        return Counts(
            confusion=np.concatenate([self.confusion, confusion]),
            own=tuple(own),
            others=tuple(others),
            calibration=np.concatenate([self.calibration, none]),
            losses=np.concatenate([self.losses, np.zeros((len(present), 2))]),
        )

    def part(self, patients: slice) -> "Counts":
        """Return some of the patients, on the same scale of scores."""
        return Counts(
            confusion=self.confusion[patients],
            own=tuple(matrix[patients] for matrix in self.own),
            others=tuple(matrix[patients] for matrix in self.others),
            calibration=self.calibration[patients],
            losses=self.losses[patients],
        )


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

    truth = np.eye(classes, dtype=np.int8)[targets]
    log_loss = -np.log(probabilities[np.arange(n), targets].clip(np.finfo(np.float64).eps))
    losses = np.zeros((len(names), 2))
    np.add.at(losses, owner, np.stack([((probabilities - truth) ** 2).sum(1), log_loss], axis=1))
    own, others = _score_histograms(truth, probabilities, owner, len(names))
    return Counts(
        confusion=confusion,
        own=own,
        others=others,
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
    values = _from_confusion(confusion, classes) | measure_losses(counts, taken)
    aurocs, precisions = [], []
    for index, name in enumerate(classes):
        own, others = (np.asarray((m[index].T @ taken.T).T) for m in (counts.own, counts.others))
        values[f"auroc/{name}"] = _auroc(own, others)
        values[f"ap/{name}"] = _average_precision(own, others)
        aurocs.append(values[f"auroc/{name}"])
        precisions.append(values[f"ap/{name}"])
    values["auroc"] = _mean_defined(np.stack(aurocs))
    values["ap"] = _mean_defined(np.stack(precisions))
    return values


def measure_losses(counts: Counts, taken: Array) -> dict[str, Array]:
    """Return ``brier``, ``log_loss`` and ``ece`` alone, as :func:`measure` does."""
    rows, patients = taken.shape
    bins = (taken @ counts.calibration.reshape(patients, -1)).reshape(rows, -1, 3)
    cases = bins[..., 0].sum(1)
    losses = (taken @ counts.losses) / cases[:, None]
    ece = np.abs(bins[..., 1] - bins[..., 2]).sum(1) / cases
    return {"brier": losses[:, 0], "log_loss": losses[:, 1], "ece": ece}


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


def _auroc(own: Array, others: Array) -> Array:
    """Area under the ROC from counts (R, K) of own and others by rising score; ties count ½."""
    below = others.cumsum(1) - others / 2
    return _ratio((own * below).sum(1), own.sum(1) * others.sum(1))


def _average_precision(own: Array, others: Array) -> Array:
    """Σ (recall step x precision) over falling thresholds, from counts (R, K)."""
    own, others = own[:, ::-1], others[:, ::-1]
    found = own.cumsum(1)
    precision = np.divide(found, found + others.cumsum(1), out=np.zeros_like(found), where=own > 0)
    return _ratio((own * precision).sum(1), own.sum(1))


def _score_histograms(
    truth: NDArray[np.int8], probabilities: Array, owner: NDArray[np.int64], patients: int
) -> tuple[tuple[csr_array, ...], tuple[csr_array, ...]]:
    """Return a class's own and other cases by patient and rank of score, sparse (P, K).

    Distinct scores are apart up to SCORE_BINS of them.
    """
    own: list[csr_array] = []
    others: list[csr_array] = []
    for index, scores in enumerate(probabilities.T):
        levels = np.unique(scores)
        if len(levels) > SCORE_BINS:
            levels = np.unique(np.quantile(scores, np.linspace(0, 1, SCORE_BINS), method="lower"))
        rank = np.searchsorted(levels, scores, "right") - 1
        for mine, parts in ((1, own), (0, others)):
            who = truth[:, index] == mine
            at = (owner[who], rank[who])
            found = coo_array((np.ones(who.sum()), at), shape=(patients, len(levels)))
            parts.append(found.tocsr())  # adds up what is at one place
    return tuple(own), tuple(others)


def _with_patients(counts: csr_array, sizes: Array, *, best: bool) -> csr_array:
    """Return counts (P, K) in fewer bins, two of them empty ends, and (M) patients at one end."""
    levels = counts.shape[1]
    bins = min(levels, COARSE_BINS)
    to = 1 + np.arange(levels) * bins // levels
    merge = csr_array((np.ones(levels), (np.arange(levels), to)), shape=(levels, bins + 2))
    more = np.zeros((len(sizes), bins + 2))
    more[:, -1 if best else 0] = sizes
    return csr_array(vstack([counts @ merge, csr_array(more)]))


def _elsewhere(classes: int) -> Array:
    """Return (C, C): wrong in every way alike."""
    return np.asarray((1 - np.eye(classes)) / (classes - 1))


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
