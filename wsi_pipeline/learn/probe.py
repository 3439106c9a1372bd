"""How much an encoder's features tell by themselves: probes that train next to nothing.

A slide is the mean of its tiles' features. Three probes look at it, from the one that learns most
to the one that learns least: logistic regression, the nearest training slides, and the nearest mean
of a class. Every patient is judged by probes that never saw it, the same folds for every encoder,
so that what differs between two encoders is the features.

Sources: Alain and Bengio, arXiv:1610.01644 (linear probes); Wang et al., arXiv:1911.04623
(SimpleShot: centred features of unit length, compared with class means); Snell et al., NeurIPS 2017
(their probabilities); Chen et al., Nature Medicine 30, 2024 (all three for encoders of pathology).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import euclidean_distances
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from wsi_pipeline.learn.bootstrap import DEFAULT, Bootstrap, Estimate, estimate
from wsi_pipeline.learn.fit import balanced_weights
from wsi_pipeline.learn.metrics import count_cases
from wsi_pipeline.learn.splits import Splits, SplitSlide

NEIGHBOURS: Final = 5  # that vote; all where there are fewer training slides
MEASURES: Final = ("balanced_accuracy", "auroc", "accuracy")

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What one probe made of one encoder's features.

    Attributes:
        probe: ``linear``, ``neighbours`` or ``prototypes``.
        slides, patients: How many were judged.
        measures: Of slides, with 95 % intervals over patients.
    """

    probe: str
    slides: int
    patients: int
    measures: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Training slides: ``vectors`` (n, D), ``targets`` (n,), ``weights`` (n,) that sum to n."""

    vectors: Array
    targets: NDArray[np.int64]
    weights: Array


def probe_features(
    vectors: NDArray[np.floating[Any]],
    folds: Sequence[Splits],
    classes: Sequence[str],
    bootstrap: Bootstrap = DEFAULT,
) -> Iterator[Probed]:
    """Yield what each probe makes of an encoder's features.

    Args:
        vectors: (n, D), the mean feature of each slide, in the order of a fold's slides.
        folds: The same slides, in each fold with other parts; those of ``test`` are judged by
            probes that are fitted on all others.
        classes: Names of the classes, C.
        bootstrap: Resamples of the intervals.
    """
    rows = np.asarray(vectors, np.float64)
    targets = np.array([classes.index(slide.label) for slide in folds[0]])
    patients = tuple(slide.patient_id for slide in folds[0])
    for name, probe in PROBES.items():
        probabilities = np.full((len(rows), len(classes)), np.nan)
        for fold in folds:
            tested = np.array([slide.split == "test" for slide in fold])
            known = _known(rows[~tested], fold, targets[~tested])
            probabilities[tested] = probe(known, rows[tested], len(classes))
        counts = count_cases(targets, probabilities, patients)
        yield Probed(
            probe=name,
            slides=len(rows),
            patients=counts.patients,
            measures={
                name: value
                for name, value in estimate(counts, classes, bootstrap, MEASURES).items()
                if name in MEASURES
            },
        )


def _known(rows: Array, fold: Splits, targets: NDArray[np.int64]) -> _Known:
    slides: list[SplitSlide] = [slide for slide in fold if slide.split != "test"]
    return _Known(vectors=rows, targets=targets, weights=balanced_weights(slides) * len(slides))


def _linear(known: _Known, asked: Array, classes: int) -> Array:
    """Logistic regression on standardised features; classes and patients count the same."""
    scaler = StandardScaler().fit(known.vectors)
    model = LogisticRegression(max_iter=1000)
    model.fit(scaler.transform(known.vectors), known.targets, sample_weight=known.weights)
    return _spread(model.predict_proba(scaler.transform(asked)), model.classes_, classes)


def _neighbours(known: _Known, asked: Array, classes: int) -> Array:
    """The share of votes that each class has among the nearest slides, by weight."""
    centre = known.vectors.mean(0)
    count = min(NEIGHBOURS, len(known.vectors))
    index = NearestNeighbors(n_neighbors=count).fit(_unit(known.vectors - centre))
    nearest = index.kneighbors(_unit(asked - centre), return_distance=False)
    votes = np.eye(classes)[known.targets] * known.weights[:, None]
    found: Array = votes[nearest].sum(1)
    found /= found.sum(1, keepdims=True)
    return found


def _prototypes(known: _Known, asked: Array, classes: int) -> Array:
    """Softmax of the negative squared distances to the class means (Snell et al., 2017)."""
    centre = known.vectors.mean(0)
    vectors, trained = _unit(known.vectors - centre), np.unique(known.targets)
    means = np.stack([
        np.average(vectors[own], axis=0, weights=known.weights[own])
        for own in (known.targets == index for index in trained)
    ])  # fmt: skip
    away = euclidean_distances(_unit(asked - centre), means, squared=True)
    return _spread(np.asarray(softmax(-away, axis=1)), trained, classes)


def _spread(found: Array, which: NDArray[np.int64], classes: int) -> Array:
    """Return (n, C) of the probabilities of the classes that were trained on; 0 of the others."""
    probabilities = np.zeros((len(found), classes))
    probabilities[:, which] = found
    return probabilities


def _unit(rows: Array) -> Array:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Array = rows / np.maximum(lengths, np.finfo(np.float64).tiny)
    return units


PROBES: Final[dict[str, Callable[[_Known, Array, int], Array]]] = {
    "linear": _linear,
    "neighbours": _neighbours,
    "prototypes": _prototypes,
}
