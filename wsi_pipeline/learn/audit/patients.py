"""Patients on both sides of a split, and classes with too few patients for what is asked."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from wsi_pipeline.errors import named
from wsi_pipeline.learn.audit.finding import Finding
from wsi_pipeline.learn.splits import INTERNAL, SplitSlide

ENOUGH_TESTED = 10  # patients of a class; a sensitivity of 1 then reaches down to 0.69
ALPHA = 0.025  # in each tail of a 95 % interval


def patients_on_both_sides(slides: Sequence[SplitSlide]) -> Iterator[Finding]:
    """Find patients in two parts.

    Args:
        slides: Labelled slides, each with its part; ``external`` for those held out.
    """
    parts: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        parts[slide.patient_id].add(slide.split)
    for outside in (True, False):
        shared = sorted(
            patient
            for patient, found in parts.items()
            if len(found) > 1 and ("external" in found) == outside
        )
        if not shared:
            continue
        where = named(sorted(set().union(*(parts[patient] for patient in shared))))
        several = len(shared) > 1
        yield Finding(
            kind="patient_overlap",
            text=f"patient{'s' * several} {named(shared)} {'are' if several else 'is'} in more "
            f"than one split ({where}), so a model is judged on people it has seen",
            remedy="give all slides of a patient the same split",
            blocking=True,
            acceptable=not outside,
            patients=tuple(shared),
            slides=tuple(slide.slide_id for slide in slides if slide.patient_id in set(shared)),
        )


def too_few_to_split(slides: Sequence[SplitSlide], folds: int) -> Iterator[Finding]:
    """Find classes that have fewer patients than the parts or folds that are to be drawn."""
    for label, patients in sorted(_patients_by_label(slides).items()):
        count = len(patients)
        if folds and (count < folds or count - -(-count // folds) < 2):
            asked, least = f"{folds} folds, each with a validation part of its own,", folds
            while least - -(-least // folds) < 2:
                least += 1
        elif not folds and count < len(INTERNAL):
            asked, least = f"a split into {', '.join(INTERNAL)}", len(INTERNAL)
        else:
            continue
        yield Finding(
            kind="few_patients",
            text=f"class {label!r} has {count} patient{'s' * (count != 1)}, and {asked} takes at "
            f"least {least}",
            remedy="add patients, leave the class out, or ask for less",
            blocking=True,
            acceptable=False,
            patients=tuple(sorted(patients)),
        )


def too_few_to_test(
    parts: Sequence[SplitSlide], classes: Sequence[str], *, folds: int, least: int
) -> Iterator[Finding]:
    """Find classes with too few patients among those tested on.

    Args:
        parts: Each slide with its part; under cross-validation all slides are tested once.
        classes: All labels.
        folds: 0 without cross-validation.
        least: Patients of each class that must be tested; fewer block.
    """
    tested = [slide for slide in parts if folds or slide.split == "test"]
    found = _patients_by_label(tested)
    for label in classes:
        count = len(found.get(label, ()))
        if count >= max(least, ENOUGH_TESTED):
            continue
        reach = ", so nothing is known about it afterwards"
        if count:
            lowest = ALPHA ** (1 / count)
            reach = f": even if all are right, its sensitivity may be as low as {lowest:.2f}"
        yield Finding(
            kind="few_patients",
            text=f"class {label!r} has {count} patient{'s' * (count != 1)} in the test part{reach}",
            remedy="add patients, test on a larger share, or cross-validate with --folds",
            blocking=count < least,
            patients=tuple(sorted(found.get(label, ()))),
        )


def _patients_by_label(slides: Sequence[SplitSlide]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        found[slide.label].add(slide.patient_id)
    return found
