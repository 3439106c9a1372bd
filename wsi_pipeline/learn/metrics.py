"""Measures of a classifier: METRICS is the table of them, each a function of sums over patients.

Everything reported here (confusion, ROC, precision–recall, calibration) follows from counts that
add up over patients. So a value for all patients, for a bootstrap resample or for all but one of
them differs only in how often each patient's counts are taken, and a thousand resamples are one
matrix product. What patients have is kept sparse: cost and memory grow with the cases, not with
patients times scores.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack

from wsi_pipeline.errors import LearnError
from wsi_pipeline.registry import Registry

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """What the cases add up to when patients are ``taken`` (R, P) so often, one sum a row.

    Each sum is made when a metric first asks for it.
    """

    counts: Counts
    taken: Array

    @cached_property
    def confusion(self) -> Array:
        """(R, C, C) cases, true x predicted."""
        return self._add(self.counts.confusion)

    @cached_property
    def scores(self) -> tuple[tuple[Array, Array], ...]:
        """For each class, (R, K) counts by rising score of its own cases and of the others."""
        by_class = zip(self.counts.own, self.counts.others, strict=True)
        return tuple((self._rank(own), self._rank(others)) for own, others in by_class)

    @cached_property
    def calibration(self) -> Array:
        """(R, B, 3) cases, confidence and correct per bin."""
        return self._add(self.counts.calibration)

    @cached_property
    def losses(self) -> Array:
        """(R, 2) mean Brier score and log loss."""
        cases = self.calibration[..., 0].sum(1)
        loss: Array = (self.taken @ self.counts.losses) / cases[:, None]
        return loss

    @property
    def cases(self) -> Array:
        """(R,) cases in all."""
        return np.asarray(self.confusion.sum(2).sum(1))

    @property
    def right(self) -> Array:
        """(R, C) cases of each class that are recognised."""
        return np.diagonal(self.confusion, axis1=1, axis2=2)

    def _add(self, of_patients: Array) -> Array:
        flat = of_patients.reshape(len(of_patients), -1)
        return np.asarray(self.taken @ flat).reshape(len(self.taken), *of_patients.shape[1:])

    def _rank(self, of_patients: csr_array) -> Array:
        return np.asarray((of_patients.T @ self.taken.T).T)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measure: how it is computed, what it is called, where it is told.

    Attributes:
        title: Its name inside a sentence.
        of: From sums to (R,), or to (R, C) for each class against the rest; NaN where undefined.
        mean: Of a measure by class, whether its mean over the classes where it is defined is told.
        higher_is_better: Otherwise it is a loss: its interval is a bootstrap's, without the
            imagined patients that bound what is perfect on a handful. They have no losses, so
            whatever needs ``Sums.losses`` or ``Sums.calibration`` is one.
        exact: :mod:`bootstrap` knows an interval of its own for it.
        levels: Cases that it is told of.
        compared: Whether two models are compared by it.
        column: Whether it is a column of the report's table.
    """

    title: str
    of: Callable[[Sums], Array]
    mean: bool = True
    higher_is_better: bool = True
    exact: bool = False
    levels: tuple[str, ...] = ("tile", "slide", "patient")
    compared: bool = False
    column: bool = True

    @property
    def heading(self) -> str:
        """Its name where a line begins."""
        return self.title[:1].upper() + self.title[1:]


def measure(
    counts: Counts, taken: Array, classes: Sequence[str], names: Iterable[str] | None = None
) -> dict[str, Array]:
    """Return measures for each row of ``taken``.

    Args:
        counts: Of P patients.
        taken: (R, P) how often each patient is taken; each row takes at least one.
        classes: Names of the C classes.
        names: Which of METRICS; all of them if None.

    Returns:
        Arrays of shape (R,) by the metric's name; for each class c of a metric by class, by
        ``name/c``. Undefined values are NaN.
    """
    sums = Sums(counts=counts, taken=taken)
    values: dict[str, Array] = {}
    for name in METRICS if names is None else names:
        metric = METRICS[name]
        found = metric.of(sums)
        if found.ndim == 1:
            values[name] = found
            continue
        values |= {f"{name}/{c}": found[:, index] for index, c in enumerate(classes)}
        if metric.mean:
            values[name] = _mean_defined(found.T)
    return values


def metric_of(name: str) -> Metric:
    """Return the metric of a measure's name, which may be one class's (``auroc/hcc``)."""
    return METRICS[name.partition("/")[0]]


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


def _accuracy(sums: Sums) -> Array:
    return np.asarray(sums.right.sum(1) / sums.cases)


def _sensitivity(sums: Sums) -> Array:
    return _ratio(sums.right, sums.confusion.sum(2))


def _specificity(sums: Sums) -> Array:
    true, predicted, cases = sums.confusion.sum(2), sums.confusion.sum(1), sums.cases[:, None]
    return _ratio(cases - true - predicted + sums.right, cases - true)


def _macro_f1(sums: Sums) -> Array:
    """Mean over the classes that occur or are predicted."""
    either = sums.confusion.sum(2) + sums.confusion.sum(1)
    return _mean_defined(_ratio(2 * sums.right, either).T)


def _calibration_error(sums: Sums) -> Array:
    bins = sums.calibration
    return np.asarray(np.abs(bins[..., 1] - bins[..., 2]).sum(1) / bins[..., 0].sum(1))


def _by_class(one: Callable[[Array, Array], Array]) -> Callable[[Sums], Array]:
    """Measure each class's own cases against the others, by score."""
    return lambda sums: np.stack([one(own, others) for own, others in sums.scores], axis=1)


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


METRICS: Final = Registry(
    "metric",
    {
        "accuracy": Metric(title="accuracy", of=_accuracy, exact=True, compared=True),
        "balanced_accuracy": Metric(  # over the classes that occur
            title="balanced accuracy",
            of=lambda sums: _mean_defined(_sensitivity(sums).T),
            exact=True,
            compared=True,
        ),
        "macro_f1": Metric(title="macro F1", of=_macro_f1, compared=True),
        "auroc": Metric(title="AUROC", of=_by_class(_auroc), exact=True, compared=True),
        "ap": Metric(title="average precision", of=_by_class(_average_precision)),
        "sensitivity": Metric(title="sensitivity", of=_sensitivity, mean=False, exact=True),
        "specificity": Metric(title="specificity", of=_specificity, mean=False, exact=True),
        "ece": Metric(title="ECE", of=_calibration_error, higher_is_better=False),
        "brier": Metric(  # summed over classes, 0 to 2
            title="Brier score",
            of=lambda sums: sums.losses[:, 0],
            higher_is_better=False,
            compared=True,
        ),
        "log_loss": Metric(
            title="log loss",
            of=lambda sums: sums.losses[:, 1],
            higher_is_better=False,
            column=False,
        ),
    },
)
