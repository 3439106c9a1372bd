"""Where, how and on what a slide was made, where that tells its label.

What the glass brings along (preservation, site, scanner, resolution) has nothing to do with the
disease and blocks early. Focus and stain also follow the tissue itself (steatosis looks blurred, a
cellular tumour is bluer), so they block only where they all but give the label away. What a record
says of the patient or the piece of tissue (sex, age, stage, share of tumour) may go with the
disease by right, so it never blocks, but is told: who reads the figures must know.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.learn.audit.evidence import Numbers, SlideEvidence
from wsi_pipeline.learn.audit.finding import Audit, Finding, Measured
from wsi_pipeline.learn.audit.predictability import (
    Array,
    Labelled,
    by_numbers,
    by_value,
    predictability,
)
from wsi_pipeline.learn.bootstrap import Estimate
from wsi_pipeline.learn.splits import SplitSlide

GLASS: Final = 0.75  # AUROC that a nuisance of the glass must not be sure to exceed
TISSUE: Final = 0.9  # the same of a nuisance that the tissue has a part in
LEAST_PATIENTS: Final = 5  # of the class that is told; with fewer, chance is not ruled out

SITE: Final = "site"
COLUMNS: Final = {  # of the cohort table: what a slide with a value does, what is recognised
    "preservation": ("is {}", "how it was preserved"),
    SITE: ("comes from site {!r}", "the site"),
    "scanner": ("comes from scanner {!r}", "the scanner"),
    "cohort": ("comes from source {!r}", "the source"),
}
FACTS: Final = {  # the same of what a record says of the patient and of the tissue
    "sex": ("is of a {} patient", "the patient's sex"),
    "stage": ("is of {}", "the stage"),
    "grade": ("is of grade {}", "the grade"),
    "section_location": ("is a {} section", "the section"),
    "warnings": ("is flagged {!r}", "what its source warns of"),
}
AMOUNTS: Final = {  # and its numbers
    "age": "the patient's age",
    "percent_tumor_nuclei": "the share of tumour nuclei",
    "percent_tumor_cells": "the share of tumour",
    "percent_necrosis": "the share of necrosis",
}
WHOLE_SITES: Final = "the parts keep sites whole, so the test figures do not gain from it"
OF_THE_PATIENT: Final = "it is the patient's or the tissue's, and may go with the label by right"
RECOGNISED: Final = {"frozen": "freezing", "ffpe": "paraffin", "paraffin": "paraffin"}
NUMBERS: Final = {  # of tile stores and pictures: threshold, what is recognised
    "picture size": (GLASS, "the size of its picture"),
    "native mpp": (GLASS, "the scanner's resolution"),
    "effective mpp": (GLASS, "the resolution"),
    "focus": (TISSUE, "how sharp a slide is"),
    "stain": (TISSUE, "the staining"),
}


@dataclass(frozen=True, kw_only=True)
class _Told:
    """A nuisance that tells ``label`` from the rest."""

    name: str
    label: str
    auroc: Estimate
    sure: float  # what the AUROC exceeds with 95 % confidence
    threshold: float
    patients: int


def find_nuisances(
    slides: Sequence[SplitSlide],
    rows: Mapping[str, CohortSlide],
    evidence: Mapping[str, SlideEvidence],
    *,
    whole_sites: bool = False,
) -> Audit:
    """Measure each nuisance; those that tell the label are findings.

    Args:
        slides: The internal slides.
        rows: Their rows of the cohort table, by slide.
        evidence: What their stores tell, by slide.
        whole_sites: The split keeps sites whole, so that a model is tested on other sites than it
            was trained on and gains nothing from recognising one.
    """
    found = Audit()
    for name in COLUMNS:
        values = {s.slide_id: getattr(rows[s.slide_id], name) for s in slides}
        known = [slide for slide in slides if values[slide.slide_id] is not None]
        if len({values[slide.slide_id] for slide in known}) > 1:
            excuse = WHOLE_SITES if whole_sites and name == SITE else ""
            found += _categorical(name, known, values, excuse)
    for name in NUMBERS:
        numbers = {s.slide_id: evidence[s.slide_id].numbers.get(name) for s in slides}
        known = [slide for slide in slides if numbers[slide.slide_id] is not None]
        if len({numbers[slide.slide_id] for slide in known}) > 1:
            found += _numeric(name, known, numbers)
    return found + _clinical(slides, rows)


def _clinical(slides: Sequence[SplitSlide], rows: Mapping[str, CohortSlide]) -> Audit:
    """Measure what the cohort table says of patients and tissue; its findings never block."""
    found = Audit()
    for name in (*FACTS, *AMOUNTS):
        values = {s.slide_id: getattr(rows[s.slide_id], name) for s in slides}
        known = [slide for slide in slides if values[slide.slide_id] is not None]
        if len({values[slide.slide_id] for slide in known}) < 2:
            continue
        if name in FACTS:
            found += _categorical(name, known, values, OF_THE_PATIENT)
            continue
        numbers = {each: _number(text) for each, text in values.items()}
        known = [slide for slide in known if numbers[slide.slide_id] is not None]
        if len({numbers[slide.slide_id] for slide in known}) > 1:
            found += _numeric(name, known, numbers, OF_THE_PATIENT)
    return found


def _number(text: str | None) -> Numbers | None:
    try:
        return (float(text),) if text is not None and math.isfinite(float(text)) else None
    except ValueError:
        return None


def _categorical(
    name: str, slides: Sequence[SplitSlide], values: Mapping[str, str], excuse: str = ""
) -> Audit:
    own = [values[slide.slide_id] for slide in slides]
    labelled = _labelled(slides)
    if len(labelled.classes) < 2:
        return Audit()
    scores = by_value(own, labelled)
    if scores is None:
        return Audit()
    told = _told(name, scores, labelled, GLASS)
    words = f"{_values_in_words(name, told.label, slides, values)}; {_by_recognising(told, own)}"
    return _judged(told, len(slides), words, _remedy(name), excuse)


def _numeric(
    name: str,
    slides: Sequence[SplitSlide],
    numbers: Mapping[str, Numbers | None],
    excuse: str = "",
) -> Audit:
    labelled = _labelled(slides)
    if len(labelled.classes) < 2:
        return Audit()
    own = np.array([numbers[slide.slide_id] for slide in slides], dtype=np.float64)
    scores = by_numbers(own, labelled)
    if scores is None:
        return Audit()
    threshold, recognised = (GLASS, AMOUNTS[name]) if name in AMOUNTS else NUMBERS[name]
    told = _told(name, scores, labelled, threshold)
    inside = np.array([slide.label == told.label for slide in slides])
    words = f"{_numbers_in_words(name, told.label, own, inside)}; " + _scores_by(told, recognised)
    return _judged(told, len(slides), words, _remedy(name), excuse)


def _labelled(slides: Sequence[SplitSlide]) -> Labelled:
    return Labelled(
        labels=[slide.label for slide in slides], patients=[slide.patient_id for slide in slides]
    )


def _told(name: str, scores: Array, slides: Labelled, threshold: float) -> _Told:
    label, auroc, sure = predictability(scores, slides)
    return _Told(
        name=name,
        label=label,
        auroc=auroc,
        sure=sure,
        threshold=threshold,
        patients=slides.patients_of(label),
    )


def _judged(told: _Told, cases: int, words: str, remedy: str, excuse: str) -> Audit:
    """Make a finding of it, where it is one; with an ``excuse`` it does not block."""
    auroc = told.auroc
    measured = Measured(
        check="nuisance",
        name=told.name,
        value=auroc.value,
        low=auroc.low,
        high=auroc.high,
        threshold=told.threshold,
        cases=cases,
    )
    if auroc.value is None or auroc.value <= told.threshold:
        return Audit(measured=(measured,))
    interval = ""
    if auroc.low is not None:
        interval = f", 95 % interval {auroc.low:.2f} to {auroc.high:.2f}"
    if excuse:
        words += f"; {excuse}"
    elif told.patients < LEAST_PATIENTS:
        words += f"; with {told.patients} patients of {told.label} it may be chance"
    finding = Finding(
        kind="nuisance",
        text=f"{told.name} alone tells {told.label} from the rest (AUROC {auroc.value:.2f} on "
        f"patients left out{interval}): {words}",
        remedy=remedy,
        blocking=not excuse and told.sure > told.threshold and told.patients >= LEAST_PATIENTS,
    )
    return Audit(findings=(finding,), measured=(measured,))


def _values_in_words(
    name: str, label: str, slides: Sequence[SplitSlide], values: Mapping[str, str]
) -> str:
    """Say what the class has: ``every normal slide is frozen, of the others 3 of 40``."""
    own = Counter(values[slide.slide_id] for slide in slides if slide.label == label)
    others = Counter(values[slide.slide_id] for slide in slides if slide.label != label)
    # The value that sets the class apart most: its share inside less its share outside.
    value = max(own, key=lambda v: own[v] / own.total() - others[v] / others.total())
    does = (COLUMNS | FACTS)[name][0].format(value)
    if own[value] == own.total():
        inside = f"every {label} slide {does}"
    else:
        inside = f"{own[value]} of {own.total()} {label} slides {does.replace('is ', 'are ', 1)}"
        inside = inside.replace("comes from", "come from")
    outside = f"{others[value]} of {others.total()}" if others[value] else "none"
    return f"{inside}, of the others {outside}"


def _by_recognising(told: _Told, values: Sequence[str]) -> str:
    recognised = (COLUMNS | FACTS)[told.name][1]
    if told.name == "preservation":
        names = {RECOGNISED[v.lower()] for v in values if v.lower() in RECOGNISED}
        recognised = "freezing" if "freezing" in names else recognised
    return _scores_by(told, recognised)


def _scores_by(told: _Told, recognised: str) -> str:
    return f"a model can score {told.auroc.value or 0:.2f} by recognising {recognised}"


def _numbers_in_words(
    name: str, label: str, own: Array, inside: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> str:
    if own.shape[1] > 1:
        return f"the {name} of {label} slides differs from that of the others"
    values = np.expm1(own[:, 0]) if name == "focus" else own[:, 0]
    low, middle, high = np.quantile(values[inside], [0.25, 0.5, 0.75])
    others = np.quantile(values[~inside], [0.25, 0.5, 0.75])
    return (
        f"{label} slides have a median {name} of {middle:.4g} (half of them {low:.4g} to "
        f"{high:.4g}), the others {others[1]:.4g} ({others[0]:.4g} to {others[2]:.4g})"
    )


def _remedy(name: str) -> str:
    if name == SITE:
        return "add sites that have every class, or keep sites whole with --split site"
    return f"take slides of every class with the same {name}, or leave out those that differ"
