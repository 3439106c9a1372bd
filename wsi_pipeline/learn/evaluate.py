"""How right a model is, at the level of tiles, slides and patients, with intervals.

Patients count by label: one with tumour and normal slides is two cases of one patient. Its tumour
slides' mean probability is judged against tumour, its normal slides' against normal, and a
resample takes or leaves both.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.bootstrap import DEFAULT, Bootstrap, estimate
from wsi_pipeline.learn.curves import describe_curves
from wsi_pipeline.learn.metrics import METRICS, count_cases
from wsi_pipeline.learn.splits import SplitSlide


@dataclass(frozen=True, kw_only=True)
class Cases:
    """What is judged: ``targets`` (n,) indices, ``probabilities`` (n, C), ``patients`` (n)."""

    targets: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    patients: tuple[str, ...]


def slide_cases(
    slides: Sequence[SplitSlide], scores: Mapping[str, NDArray[np.float64]], classes: Sequence[str]
) -> Cases:
    """Return one case a slide; ``scores`` holds each slide's probabilities, (C,).

    Raises:
        LearnError: A slide's label is none of ``classes``.
    """
    return Cases(
        targets=_targets([slide.label for slide in slides], classes),
        probabilities=_rows([scores[slide.slide_id] for slide in slides], len(classes)),
        patients=tuple(slide.patient_id for slide in slides),
    )


def patient_cases(
    slides: Sequence[SplitSlide], scores: Mapping[str, NDArray[np.float64]], classes: Sequence[str]
) -> Cases:
    """Return one case for each patient and label, with the mean over those slides."""
    grouped: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
    for slide in slides:
        grouped[slide.patient_id, slide.label].append(scores[slide.slide_id])
    return Cases(
        targets=_targets([label for _, label in grouped], classes),
        probabilities=_rows([np.mean(found, axis=0) for found in grouped.values()], len(classes)),
        patients=tuple(patient for patient, _ in grouped),
    )


def tile_cases(
    slides: Sequence[SplitSlide], scores: Mapping[str, NDArray[np.float32]], classes: Sequence[str]
) -> Cases:
    """Return one case a tile, labelled as its slide; ``scores`` holds (N, C) for each slide."""
    counts = [len(scores[slide.slide_id]) for slide in slides]
    targets = _targets([slide.label for slide in slides], classes)
    owners = [slide.patient_id for slide in slides]
    return Cases(
        targets=np.repeat(targets, counts),
        probabilities=np.concatenate(
            [scores[slide.slide_id] for slide in slides], dtype=np.float64
        ),
        patients=tuple(np.repeat(np.array(owners, dtype=object), counts)),
    )


def evaluate(
    cases: Cases, classes: Sequence[str], bootstrap: Bootstrap = DEFAULT, level: str = "slide"
) -> dict[str, Any]:
    """Return JSON-ready measures of ``cases``, all of one level, with 95 % intervals over patients.

    Returns:
        ``cases``, ``patients`` (counts), ``cases_by_class``, ``classes``, ``confusion`` (C, C) true
        × predicted, ``interval`` (how they were made; ``method`` is that of losses), ``curves``
        (see :func:`curves.describe_curves`) and ``measures``: name → ``{value, low, high}``, None
        where undefined (names as of :func:`metrics.measure`, of the metrics told at that level).
    """
    counts = count_cases(cases.targets, cases.probabilities, cases.patients)
    told = [name for name, metric in METRICS.items() if level in metric.levels]
    estimates = estimate(counts, classes, bootstrap, told)
    found = Counter(cases.targets.tolist())
    return {
        "cases": len(cases.targets),
        "patients": counts.patients,
        "cases_by_class": {name: found[index] for index, name in enumerate(classes)},
        "classes": list(classes),
        "confusion": counts.confusion.sum(0).astype(int).tolist(),
        "interval": {
            "level": 0.95,
            "unit": "patient",
            "shares": "exact",
            "auroc": "newcombe",
            **asdict(bootstrap),
        },
        "curves": describe_curves(cases.targets, cases.probabilities, classes),
        "measures": {name: asdict(value) for name, value in sorted(estimates.items())},
    }


def _targets(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise LearnError(
            f"label {', '.join(unknown)} is none of the model's classes ({', '.join(classes)})"
        )
    return np.array([classes.index(label) for label in labels], dtype=np.int64)


def _rows(rows: Sequence[NDArray[Any]], classes: int) -> NDArray[np.float64]:
    return np.array(rows, dtype=np.float64).reshape(len(rows), classes)
