"""Readers beside the model, and with its help: accuracy, time and cost of a case.

What a reader said of a slide, and after how many seconds, is held against the same slides' truth as
the model's answer is, on slides that it was not trained on. Two are compared on the slides that
both have judged, by :func:`paired.compare_models`: patients are the sample, and differences are
paired. A gain that was promised counts as shown where the whole interval reaches it.

Times are means over slides, with Student's interval of a ratio of sums over patients (Cochran,
"Sampling Techniques", 3rd ed. 1977, chapter 6).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from wsi_pipeline.cohort import READING, CohortSlide
from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.bootstrap import DEFAULT, Bootstrap
from wsi_pipeline.learn.evaluate import Cases
from wsi_pipeline.learn.intervals import TAIL, Share
from wsi_pipeline.learn.paired import compare_models
from wsi_pipeline.learn.settings import PROMISED
from wsi_pipeline.registry import unknown

NONE: Final = "none"  # a reader's word for none of the classes; always counted as wrong
MEASURE: Final = "accuracy"
PAIRS: Final = (("with model", "reader"), ("model", "reader"), ("with model", "model"))

Verdict = Literal["shown", "not shown", "excluded"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What ``reader`` said of a slide, with the model's help or without, and how long it took."""

    slide_id: str
    reader: str
    assisted: bool
    said: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class JudgedSlide:
    """A slide that the model was not trained on: its class, and which the model says it is."""

    slide_id: str
    patient_id: str
    truth: str
    predicted: str


@dataclass(frozen=True, kw_only=True)
class Ranged:
    """A value with its 95 % interval over patients, and how many slides and patients it is of."""

    value: float | None
    low: float | None
    high: float | None
    slides: int
    patients: int


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Accuracy of ``first`` less that of ``second``, on the same slides, and what it shows."""

    first: str
    second: str
    difference: Ranged
    p: float | None
    promised: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class ReaderResult:
    """One reader on one part of the slides.

    Attributes:
        reader: The name.
        accuracy: Of ``model`` and ``reader`` on the slides read alone, and of ``with model`` on
            those read with its help.
        gains: Pairs of these, on the slides that both have.
        seconds: Mean time of a case ``alone`` and ``with model``, and the ``difference`` on slides
            timed both ways.
    """

    reader: str
    accuracy: Mapping[str, Ranged]
    gains: tuple[Gain, ...]
    seconds: Mapping[str, Ranged]


def readings_of(slides: Iterable[CohortSlide]) -> tuple[Reading, ...]:
    """Return what readers said, from the columns of a cohort table.

    Raises:
        LearnError: A time is not a positive number.
    """
    found: dict[tuple[str, str, bool], dict[str, str]] = {}
    for slide in slides:
        for column, text in slide.readings:
            match = READING.fullmatch(column)
            assert match is not None
            who = (slide.slide_id, match["reader"], match["assisted"] is not None)
            found.setdefault(who, {})[match["what"]] = text
    return tuple(
        Reading(
            slide_id=slide_id,
            reader=reader,
            assisted=assisted,
            said=cells.get("reader"),
            seconds=_seconds(cells.get("seconds"), slide_id, reader),
        )
        for (slide_id, reader, assisted), cells in found.items()
    )


def compare_readers(
    readings: Sequence[Reading],
    slides: Sequence[JudgedSlide],
    classes: Sequence[str],
    *,
    label_map: Mapping[str, str] | None = None,
    promised: float = PROMISED,
    bootstrap: Bootstrap = DEFAULT,
) -> list[ReaderResult]:
    """Return each reader's result on these slides; readers of none of them are left out.

    Args:
        readings: Of any slides.
        slides: Those of one part that the model was not trained on.
        classes: Names of the model's classes.
        label_map: Label → class of the task, or ``none``, where a reader may say a label.
        promised: Gain in accuracy that is looked for.
        bootstrap: How many resamples and permutations, and their seed.

    Raises:
        LearnError: A reader said what is no class of the task, no label and not ``none``.
    """
    known = {slide.slide_id: slide for slide in slides}
    names = dict.fromkeys(r.reader for r in readings if r.slide_id in known)
    results = []
    for name in names:
        mine = [r for r in readings if r.reader == name and r.slide_id in known]
        said = {
            "model": {slide.slide_id: slide.predicted for slide in slides},
            "reader": _said(mine, False, classes, label_map),
            "with model": _said(mine, True, classes, label_map),
        }
        gains = []
        for pair in PAIRS:
            found = _gain(pair, said, known, classes, bootstrap)
            if found is not None:
                difference, p = found
                gains.append(
                    Gain(first=pair[0], second=pair[1], difference=difference, p=p,
                         promised=promised, verdict=_verdict(difference, promised))
                )  # fmt: skip
        results.append(
            ReaderResult(
                reader=name,
                accuracy=_accuracies(said, known),
                gains=tuple(gains),
                seconds=_times(mine, known),
            )
        )
    return results


def _seconds(text: str | None, slide_id: str, reader: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value > 0):
        raise LearnError(
            f"slide {slide_id!r}: seconds of reader {reader!r} are {text!r}; give a positive number"
        )
    return value


def _said(
    readings: Sequence[Reading],
    assisted: bool,
    classes: Sequence[str],
    label_map: Mapping[str, str] | None,
) -> dict[str, str]:
    """Return the class that was said of each slide."""
    words = {name: name for name in (*classes, NONE)} | dict(label_map or {})
    found = {}
    for reading in readings:
        if reading.assisted != assisted or reading.said is None:
            continue
        if reading.said not in words:
            raise LearnError(
                f"slide {reading.slide_id!r}, reader {reading.reader!r}: "
                f"{unknown('class', reading.said, sorted(words))}"
            )
        found[reading.slide_id] = words[reading.said]
    return found


def _accuracies(
    said: Mapping[str, Mapping[str, str]], known: Mapping[str, JudgedSlide]
) -> dict[str, Ranged]:
    """Accuracy of each; the model's on the slides that the reader judged, one way or another."""
    read = said["reader"] or said["with model"]
    parts = {
        "model": {slide_id: said["model"][slide_id] for slide_id in read},
        "reader": said["reader"],
        "with model": said["with model"],
    }
    return {name: _accuracy(part, known) for name, part in parts.items() if part}


def _accuracy(said: Mapping[str, str], known: Mapping[str, JudgedSlide]) -> Ranged:
    right = np.array([answer == known[slide_id].truth for slide_id, answer in said.items()], float)
    right_of, cases = _by_patient(right, [known[slide_id].patient_id for slide_id in said])
    share = Share.of(right_of, cases)
    low, high = share.interval
    return Ranged(value=share.value, low=low, high=high, slides=len(said), patients=len(cases))


def _gain(
    pair: tuple[str, str],
    said: Mapping[str, Mapping[str, str]],
    known: Mapping[str, JudgedSlide],
    classes: Sequence[str],
    bootstrap: Bootstrap,
) -> tuple[Ranged, float | None] | None:
    """Return the difference in accuracy and its p; None without a slide that both judged."""
    both = [slide_id for slide_id in said[pair[0]] if slide_id in said[pair[1]]]
    if not both:
        return None
    one, other = (
        _cases([known[i] for i in both], [said[name][i] for i in both], classes) for name in pair
    )
    found = compare_models(one, other, classes, bootstrap)[MEASURE]
    ranged = Ranged(
        value=found.value, low=found.low, high=found.high, slides=len(both),
        patients=len(set(one.patients)),
    )  # fmt: skip
    return ranged, found.p


def _verdict(difference: Ranged, promised: float) -> Verdict:
    if difference.low is not None and difference.low >= promised:
        return "shown"
    if difference.high is not None and difference.high < promised:
        return "excluded"
    return "not shown"


def _cases(slides: Sequence[JudgedSlide], said: Sequence[str], classes: Sequence[str]) -> Cases:
    """Answers as probabilities of 1; none of the classes is as wrong as any other wrong one."""
    targets = np.array([classes.index(slide.truth) for slide in slides], np.int64)
    answers = [
        classes.index(word) if word in classes else (target + 1) % len(classes)
        for word, target in zip(said, targets.tolist(), strict=True)
    ]
    return Cases(
        targets=targets,
        probabilities=np.eye(len(classes))[answers],
        patients=tuple(slide.patient_id for slide in slides),
    )


def _times(readings: Sequence[Reading], known: Mapping[str, JudgedSlide]) -> dict[str, Ranged]:
    alone, helped = (
        {r.slide_id: r.seconds for r in readings if r.assisted == assisted and r.seconds}
        for assisted in (False, True)
    )
    saved = {slide_id: helped[slide_id] - alone[slide_id] for slide_id in alone if slide_id in
             helped}  # fmt: skip
    parts = {"alone": alone, "with model": helped, "difference": saved}
    return {name: _mean(part, known) for name, part in parts.items() if part}


def _mean(values: Mapping[str, float], known: Mapping[str, JudgedSlide]) -> Ranged:
    """The mean over slides, with its interval over patients."""
    sums, cases = _by_patient(
        np.array([*values.values()]), [known[slide_id].patient_id for slide_id in values]
    )
    count, mean = len(cases), float(sums.sum() / cases.sum())
    low = high = None
    if count > 1:
        spread = np.sqrt(count / (count - 1) * ((sums - mean * cases) ** 2).sum()) / cases.sum()
        reach = float(stdtrit(count - 1, 1 - TAIL) * spread)
        low, high = mean - reach, mean + reach
    return Ranged(value=mean, low=low, high=high, slides=len(values), patients=count)


def _by_patient(
    values: NDArray[np.float64], patients: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each patient's sum of ``values`` (n,) and number of slides, (P,) each."""
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    return (
        np.bincount(owner, weights=values, minlength=len(names)).astype(np.float64),
        np.bincount(owner, minlength=len(names)).astype(np.float64),
    )
