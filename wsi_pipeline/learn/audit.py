"""What would make a good figure worthless, looked for before training.

A nuisance (where, how and on what a slide was made) that tells the label lets a model score well
without looking at the tissue. How well it tells is measured as it would be for a model: each
patient is scored from the other patients alone, with an interval over patients.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.learn.bootstrap import Bootstrap, estimate
from wsi_pipeline.learn.metrics import count_cases
from wsi_pipeline.learn.splits import Splits, SplitSlide

NUISANCES: Final = ("site", "preservation", "scanner")
TELLING: Final = 0.75  # a nuisance whose AUROC is above this, even at its lower end, is refused


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found; ``blocking`` ones must be put right, or accepted with a reason."""

    kind: Literal["nuisance", "duplicate"]
    text: str
    blocking: bool


def audit(
    splits: Splits, cohort: Sequence[CohortSlide], bag_digests: Mapping[str, str]
) -> tuple[Finding, ...]:
    """Look for leaks and for nuisances that tell the label.

    Args:
        splits: The internal slides.
        cohort: The cohort table's rows, for the nuisances.
        bag_digests: Digest of each slide's features.
    """
    rows = {slide.slide_id: slide for slide in cohort}
    return (*_duplicates(splits, bag_digests), *_nuisances(splits, rows))


def _duplicates(splits: Splits, digests: Mapping[str, str]) -> Iterator[Finding]:
    """Equal features mean the same slide under two names."""
    same: dict[str, list[SplitSlide]] = defaultdict(list)
    for slide in splits:
        same[digests[slide.slide_id]].append(slide)
    for found in same.values():
        if len(found) < 2:
            continue
        where = sorted({slide.split for slide in found})
        names = ", ".join(slide.slide_id for slide in found)
        yield Finding(
            kind="duplicate",
            text=f"slides {names} are one slide under several names, in {' and '.join(where)}; "
            "keep one",
            blocking=len({slide.patient_id for slide in found}) > 1 or len(where) > 1,
        )


def _nuisances(splits: Splits, rows: Mapping[str, CohortSlide]) -> Iterator[Finding]:
    for name in NUISANCES:
        values = {
            slide.slide_id: value
            for slide in splits
            if (value := getattr(rows[slide.slide_id], name)) is not None
        }
        known = [slide for slide in splits if slide.slide_id in values]
        if len(set(values.values())) < 2 or len({slide.label for slide in known}) < 2:
            continue
        yield from _judge(name, known, values)


def _judge(name: str, slides: Sequence[SplitSlide], values: Mapping[str, str]) -> Iterator[Finding]:
    classes = sorted({slide.label for slide in slides})
    scores = _left_out_scores(slides, values, classes)
    targets = np.array([classes.index(slide.label) for slide in slides], dtype=np.int64)
    counts = count_cases(targets, scores, [slide.patient_id for slide in slides])
    found = estimate(counts, classes, Bootstrap(resamples=500))
    label = max(classes, key=lambda label: found[f"auroc/{label}"].value or 0)
    auroc = found[f"auroc/{label}"]
    if auroc.value is None or auroc.value <= TELLING:
        return
    low = auroc.value if auroc.low is None else auroc.low
    interval = "" if auroc.low is None else f" (95 % interval {low:.2f} to {auroc.high:.2f})"
    yield Finding(
        kind="nuisance",
        text=f"{name} alone tells {label} from the rest with an AUROC of {auroc.value:.2f}"
        f"{interval}: {_in_words(name, slides, values)}; a model can score as well by "
        f"recognising the {name}",
        blocking=low > TELLING,
    )


def _left_out_scores(
    slides: Sequence[SplitSlide], values: Mapping[str, str], classes: Sequence[str]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Score each slide (n, C) by how often its value goes with each class in other patients."""
    joint = Counter((values[s.slide_id], s.label) for s in slides)
    of_patient: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for slide in slides:
        of_patient[slide.patient_id][values[slide.slide_id], slide.label] += 1
    scores = np.empty((len(slides), len(classes)))
    for row, slide in enumerate(slides):
        value, own = values[slide.slide_id], of_patient[slide.patient_id]
        others = [joint[value, label] - own[value, label] for label in classes]
        scores[row] = (np.array(others) + 1) / (sum(others) + len(classes))
    return scores


def _in_words(name: str, slides: Sequence[SplitSlide], values: Mapping[str, str]) -> str:
    """Say for each class which values it has: ``normal is frozen in 12 of 12 slides``."""
    parts = []
    for label in sorted({slide.label for slide in slides}):
        found = Counter(values[slide.slide_id] for slide in slides if slide.label == label)
        value, count = found.most_common(1)[0]
        parts.append(f"{label} has {name} {value!r} in {count} of {found.total()} slides")
    return ", ".join(parts)
