"""Sets of classes that hold the right one as often as asked, and may be empty: none of these.

Split conformal prediction: a class is in the set where its probability is at least 1 - q, and q is
the quantile of what the right classes of validation patients lacked to 1. A new patient of the same
kind is covered with the probability asked, whatever the model; patients, not slides, are what is
exchangeable, so a patient counts by the worst of its cases.

Validation patients also chose epoch and temperature, so coverage on them says little; what it is on
test and external patients stands beside.

Sources: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005; Sadinle, Lei
and Wasserman, JASA 114, 2019 (least ambiguous sets); Angelopoulos and Bates, arXiv:2107.07511.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.learn.evaluate import Cases, patient_cases, slide_cases
from wsi_pipeline.learn.intervals import Share
from wsi_pipeline.learn.splits import SplitSlide

LEVEL: Final = 0.9  # of coverage
CALIBRATION: Final = "val"
LEVELS: Final = {"slide": slide_cases, "patient": patient_cases}


def fit_lack(cases: Cases, level: float = LEVEL) -> float | None:
    """Return what a class may lack to probability 1 and be in the set.

    Args:
        cases: Of validation patients.
        level: Coverage that is asked.

    Returns:
        None with too few patients: at 90 % it takes nine, and every class would be in every set.
    """
    worst = _worst(cases, 1 - cases.probabilities[np.arange(len(cases.targets)), cases.targets])
    rank = int(np.ceil((len(worst) + 1) * level))
    return float(np.sort(worst)[rank - 1]) if rank <= len(worst) else None


def prediction_sets(probabilities: NDArray[np.float64], lack: float) -> NDArray[np.bool_]:
    """Return which classes are in each set, (n, C); a row without any says none of these."""
    return np.asarray(1 - probabilities <= lack)


def classes_in_set(
    probabilities: NDArray[np.float64], classes: Sequence[str], lack: float
) -> tuple[str, ...]:
    """Return the set of one case, most probable class first; ``probabilities`` are (C,)."""
    inside = prediction_sets(probabilities[None], lack)[0]
    return tuple(classes[index] for index in np.argsort(-probabilities) if inside[index])


def describe_sets(
    predictions: Mapping[str, Mapping[str, NDArray[np.float64]]],
    slides: Sequence[SplitSlide],
    classes: Sequence[str],
    level: float = LEVEL,
) -> list[dict[str, Any]]:
    """Return, JSON-ready, a row for each model, level and part: coverage beside what was asked.

    Args:
        predictions: Model → slide → probabilities (C,).
        slides: Each with its part; those of validation calibrate.
        classes: Names of the classes.
        level: Coverage that is asked.

    Returns:
        ``model``, ``level`` (slide or patient), ``split``, ``asked``, ``calibrated_on`` (patients),
        ``lack`` (None where they are too few), ``patients``, ``coverage`` with ``low`` and
        ``high`` (exact, over patients all of whose cases are covered), ``size`` (mean number of
        classes), ``single`` and ``empty`` (shares of cases). Empty without validation slides.
    """
    parts: dict[str, list[SplitSlide]] = {}
    for slide in slides:
        parts.setdefault(slide.split, []).append(slide)
    if CALIBRATION not in parts:
        return []
    rows = []
    for model, scores in predictions.items():
        for unit, cases_of in LEVELS.items():
            calibration = cases_of(parts[CALIBRATION], scores, classes)
            lack = fit_lack(calibration, level)
            about = {
                "model": model,
                "level": unit,
                "asked": level,
                "calibrated_on": len(set(calibration.patients)),
                "lack": lack,
            }
            rows += [
                {**about, "split": split, **_held(cases_of(part, scores, classes), lack)}
                for split, part in parts.items()
                if split != "train"
            ]
    return rows


def _held(cases: Cases, lack: float | None) -> dict[str, Any]:
    sets = prediction_sets(cases.probabilities, 1.0 if lack is None else lack)
    missed = ~sets[np.arange(len(cases.targets)), cases.targets]
    covered = 1 - _worst(cases, missed.astype(np.float64))
    share = Share(right=covered, cases=np.ones(len(covered)))
    low, high = share.interval
    sizes = sets.sum(1)
    return {
        "patients": len(covered),
        "coverage": share.value,
        "low": low,
        "high": high,
        "size": float(sizes.mean()),
        "single": float((sizes == 1).mean()),
        "empty": float((sizes == 0).mean()),
    }


def _worst(cases: Cases, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest of each patient's ``values`` (n,), by patient."""
    names, owner = np.unique(np.asarray(cases.patients), return_inverse=True)
    worst = np.full(len(names), -np.inf)
    np.maximum.at(worst, owner, values)
    return worst
