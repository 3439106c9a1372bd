"""How well something other than the tissue tells the label, as it would for a model.

Each patient is scored from other patients alone, so that a value only one patient has tells
nothing; the interval is over patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.learn.bootstrap import Estimate
from wsi_pipeline.learn.intervals import TAIL, auroc_interval, effective
from wsi_pipeline.learn.metrics import count_cases, measure

FOLDS: Final = 5  # that left-out patients are scored in
FEW_NUMBERS: Final = 2  # up to so many, squares are added, for a class that lies in the middle

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Slides as the classifier of a nuisance sees them; three sequences of the same length."""

    labels: Sequence[str]
    patients: Sequence[str]

    @property
    def classes(self) -> list[str]:
        return sorted(set(self.labels))

    @property
    def targets(self) -> NDArray[np.int64]:
        return np.array([self.classes.index(label) for label in self.labels], dtype=np.int64)

    def patients_of(self, label: str) -> int:
        pairs = zip(self.labels, self.patients, strict=True)
        return len({patient for found, patient in pairs if found == label})


def by_value(values: Sequence[str], slides: Labelled) -> Array | None:
    """Score each slide (n, C) by which classes its value goes with in other patients.

    Returns:
        None where some class has fewer than two patients to leave out.
    """
    names = sorted(set(values))
    return by_numbers(np.array([[value == name for name in names] for value in values]), slides)


def by_numbers(numbers: NDArray[np.generic], slides: Labelled) -> Array | None:
    """Score each slide (n, C) by logistic regression fitted on other patients.

    Args:
        numbers: (n, d).
        slides: Their labels and patients.

    Returns:
        None where some class has fewer than two patients to leave out.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    numbers = numbers.astype(np.float64)
    folds = min(FOLDS, *(slides.patients_of(label) for label in slides.classes))
    if folds < 2:
        return None
    degree = 2 if numbers.shape[1] <= FEW_NUMBERS else 1
    classifier = make_pipeline(
        StandardScaler(),
        PolynomialFeatures(degree, include_bias=False),
        LogisticRegression(class_weight="balanced", max_iter=1000),
    )
    scores = np.full((len(numbers), len(slides.classes)), 1 / len(slides.classes))
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for fitted, left_out in cut.split(numbers, slides.targets, np.asarray(slides.patients)):
        present = np.unique(slides.targets[fitted])
        if len(present) < 2:  # patients with several labels went together
            continue
        classifier.fit(numbers[fitted], slides.targets[fitted])
        scores[left_out] = 0
        scores[np.ix_(left_out, present)] = classifier.predict_proba(numbers[left_out])
    return scores


def predictability(scores: Array, slides: Labelled) -> tuple[str, Estimate, float]:
    """Return the class that the scores (n, C) tell best from the rest, its AUROC, what is sure.

    The last is the AUROC that is exceeded with 95 % confidence, one-sided. A perfect one is sure
    as it is: how few patients may be chance is the caller's to say.
    """
    classes = slides.classes
    counts = count_cases(slides.targets, scores, slides.patients)
    values = measure(counts, np.ones((1, counts.patients)), classes, ["auroc"])
    label = max(classes, key=lambda name: np.nan_to_num(values[f"auroc/{name}"][0]))
    value = float(values[f"auroc/{label}"][0])
    if not np.isfinite(value):
        return label, Estimate(value=None, low=None, high=None), 0.0
    own = counts.cases[:, classes.index(label)]
    patients = effective(own), effective(counts.cases.sum(1) - own)
    low, high = auroc_interval(value, *patients)
    sure = value if value == 1 else auroc_interval(value, *patients, tail=2 * TAIL)[0]
    return label, Estimate(value=value, low=low, high=high), sure
