"""How unlike the external cohort is to the patients trained on: how it was made, and how it looks.

Measured after the external cohort is opened, never before. Every patient counts once.

Sources: Gretton et al., "A Kernel Two-Sample Test", JMLR 13, 2012 (maximum mean discrepancy);
Cohen, "Statistical Power Analysis", 1988 (standardised difference).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.learn.audit import SlideEvidence
from wsi_pipeline.learn.bags import FeatureFolder
from wsi_pipeline.learn.splits import SplitSlide

PERMUTATIONS: Final = 999
STAIN: Final = "stain"
STAIN_PARTS: Final = (
    "H red", "H green", "H blue", "E red", "E green", "E blue", "H amount", "E amount",
)  # fmt: skip

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One number of the slides, inside and outside: means over patients, and their difference.

    ``standardised`` is the difference in pooled standard deviations over patients; None where
    either side has fewer than two patients or nothing varies.
    """

    inside: float
    outside: float
    standardised: float | None


def mmd(inside: Array, outside: Array, seed: int = 0) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy of two samples, and its permutation p.

    Args:
        inside, outside: (n, D) and (m, D), a row a patient.
        seed: Of the permutations.

    Returns:
        The unbiased estimate with a Gaussian kernel, as wide as the median distance, and the share
        of ``PERMUTATIONS`` relabellings (and the labelling itself) that reach it.
    """
    joined = np.concatenate([inside, outside])
    squares = ((joined[:, None] - joined[None]) ** 2).sum(2)
    width = np.median(squares[np.triu_indices(len(joined), 1)])
    kernel = np.exp(-squares / max(width, np.finfo(np.float64).tiny))
    np.fill_diagonal(kernel, 0)
    rng = np.random.default_rng(seed)
    mark = np.arange(len(joined)) < len(inside)
    found = _mmd(kernel, mark)
    reached = sum(_mmd(kernel, rng.permutation(mark)) >= found for _ in range(PERMUTATIONS))
    return found, (reached + 1) / (PERMUTATIONS + 1)


def describe_drift(
    inside: Sequence[SplitSlide],
    outside: Sequence[SplitSlide],
    folder: tuple[FeatureFolder, FeatureFolder],
    evidence: Mapping[str, SlideEvidence],
) -> dict[str, Any]:
    """Return the drift from the internal slides to the external ones, JSON-ready.

    Args:
        inside: The slides trained on.
        outside: The external ones, opened.
        folder: Features of each.
        evidence: What the stores tell of all of them.

    Returns:
        ``features``: ``mmd2``, ``p`` and the patients on each side, for all classes and for each
        that both sides have; ``numbers``: name → :class:`Shift`.
    """
    labels = {slide.label for slide in inside} & {slide.label for slide in outside}
    found = {"all": _features(inside, outside, folder)}
    for label in sorted(labels):
        parts = [[s for s in slides if s.label == label] for slides in (inside, outside)]
        found[label] = _features(parts[0], parts[1], folder)
    return {"features": found, "numbers": _numbers(inside, outside, evidence)}


def _features(
    inside: Sequence[SplitSlide],
    outside: Sequence[SplitSlide],
    folder: tuple[FeatureFolder, FeatureFolder],
) -> dict[str, float | int | None]:
    one, two = (
        _of_patients(slides, {s.slide_id: bags.bag(s.slide_id).features.mean(0) for s in slides})
        for slides, bags in zip((inside, outside), folder, strict=True)
    )
    patients = {"patients_inside": len(one), "patients_outside": len(two)}
    if min(len(one), len(two)) < 2:
        return {"mmd2": None, "p": None, **patients}
    spread = np.concatenate([one, two]).std(0)
    scale = np.where(spread > 0, spread, 1)
    value, p = mmd(one / scale, two / scale)
    return {"mmd2": value, "p": p, **patients}


def _numbers(
    inside: Sequence[SplitSlide],
    outside: Sequence[SplitSlide],
    evidence: Mapping[str, SlideEvidence],
) -> dict[str, Any]:
    shifts = {}
    names = sorted({name for found in evidence.values() for name in found.numbers})
    for name in names:
        sides = []
        for slides in (inside, outside):
            known = [s for s in slides if name in evidence[s.slide_id].numbers]
            values = {s.slide_id: np.array(evidence[s.slide_id].numbers[name]) for s in known}
            sides.append(_of_patients(known, values))
        if not min(map(len, sides)):
            continue
        parts = STAIN_PARTS if name == STAIN else ("",)
        for column, part in enumerate(parts):
            shift = _shift(sides[0][:, column], sides[1][:, column])
            shifts[f"{name} {part}".strip()] = vars(shift)
    return shifts


def _shift(inside: Array, outside: Array) -> Shift:
    means = float(inside.mean()), float(outside.mean())
    standardised = None
    if min(len(inside), len(outside)) > 1:
        pooled = np.sqrt((inside.var(ddof=1) + outside.var(ddof=1)) / 2)
        standardised = float((means[1] - means[0]) / pooled) if pooled > 0 else None
    return Shift(inside=means[0], outside=means[1], standardised=standardised)


def _of_patients(slides: Sequence[SplitSlide], values: Mapping[str, NDArray[Any]]) -> Array:
    """Return a row a patient, the mean of its slides' ``values``."""
    rows: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for slide in slides:
        rows[slide.patient_id].append(values[slide.slide_id])
    return np.array([np.mean(found, axis=0) for found in rows.values()], np.float64)


def _mmd(kernel: Array, mark: NDArray[np.bool_]) -> float:
    one, two = kernel[np.ix_(mark, mark)], kernel[np.ix_(~mark, ~mark)]
    n, m = mark.sum(), (~mark).sum()
    within = one.sum() / (n * (n - 1)) + two.sum() / (m * (m - 1))
    return float(within - 2 * kernel[np.ix_(mark, ~mark)].mean())
