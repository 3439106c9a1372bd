"""Readers beside the model, against values worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, t

from wsi_pipeline.cohort import CohortSlide, read_cohort, write_cohort
from wsi_pipeline.errors import CohortError, LearnError
from wsi_pipeline.learn import JudgedSlide, Reading, compare_readers, readings_of

CLASSES = ("hcc", "normal")
# Ten patients, one slide each, all hcc; the model is wrong on the last, the reader alone on the
# last four, with the model on none.
SLIDES = [
    JudgedSlide(
        slide_id=f"s{n}", patient_id=f"p{n}", truth="hcc", predicted="normal" if n == 9 else "hcc"
    )
    for n in range(10)
]


def read(name: str, answers: list[str | None], *, assisted: bool = False) -> list[Reading]:
    return [
        Reading(slide_id=f"s{n}", reader=name, assisted=assisted, said=said, seconds=60.0 + n)
        for n, said in enumerate(answers)
    ]


ALONE = read("anna", ["hcc"] * 6 + ["normal"] * 4)
HELPED = [replace(r, seconds=30.0) for r in read("anna", ["hcc"] * 10, assisted=True)]


def test_accuracies_are_counts_with_exact_intervals() -> None:
    (found,) = compare_readers([*ALONE, *HELPED], SLIDES, CLASSES)
    for name, right in (("model", 9), ("reader", 6), ("with model", 10)):
        accuracy = found.accuracy[name]
        assert accuracy.value == right / 10
        low = beta.ppf(0.025, right, 11 - right)  # Clopper and Pearson
        high = beta.ppf(0.975, right + 1, 10 - right) if right < 10 else 1.0
        assert (accuracy.low, accuracy.high) == pytest.approx((low, high), abs=1e-9)
        assert (accuracy.slides, accuracy.patients) == (10, 10)


def test_differences_are_paired_and_held_against_the_promise() -> None:
    (found,) = compare_readers([*ALONE, *HELPED], SLIDES, CLASSES, promised=0.05)
    gains = {(gain.first, gain.second): gain for gain in found.gains}
    assert {pair: round(gain.difference.value or 0, 12) for pair, gain in gains.items()} == {
        ("with model", "reader"): 0.4,
        ("model", "reader"): 0.3,
        ("with model", "model"): 0.1,
    }
    best = gains["with model", "reader"]
    # four patients changed, all for the better: of 2^4 exchanges two are as extreme
    assert best.p == pytest.approx(2 / 16, abs=0.03)
    assert best.difference.low < 0.4 < best.difference.high
    assert best.verdict == ("shown" if best.difference.low >= 0.05 else "not shown")


def many(changed: int) -> list[JudgedSlide]:
    return [
        JudgedSlide(slide_id=f"s{n}", patient_id=f"p{n}", truth=CLASSES[n % 2],
                    predicted=CLASSES[n % 2])
        for n in range(changed)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "promised", "verdict"),
    [(100, 0.1, "shown"), (30, 0.1, "not shown"), (0, 0.1, "excluded")],
)
def test_a_gain_is_shown_not_shown_or_excluded(wrong: int, promised: float, verdict: str) -> None:
    slides = many(200)
    other = {"hcc": "normal", "normal": "hcc"}
    alone = [
        Reading(slide_id=s.slide_id, reader="b", assisted=False,
                said=other[s.truth] if n < wrong else s.truth)
        for n, s in enumerate(slides)
    ]  # fmt: skip
    helped = [replace(r, assisted=True, said=s.truth) for r, s in zip(alone, slides, strict=True)]
    (found,) = compare_readers([*alone, *helped], slides, CLASSES, promised=promised)
    assert found.gains[0].difference.value == pytest.approx(wrong / 200)
    assert found.gains[0].verdict == verdict
    assert found.seconds == {}


def test_patients_are_the_sample_not_slides() -> None:
    """Ten slides of one patient are one case: the interval is as wide as one case makes it."""
    one = [replace(slide, patient_id="p") for slide in SLIDES]
    (found,) = compare_readers(ALONE, one, CLASSES)
    (apart,) = compare_readers(ALONE, SLIDES, CLASSES)
    wide, narrow = found.accuracy["reader"], apart.accuracy["reader"]
    assert wide.value == narrow.value
    assert (wide.high - wide.low) > 1.3 * (narrow.high - narrow.low)
    assert found.seconds["alone"].low is None  # one patient says nothing of the others


def test_times_have_students_interval_over_patients() -> None:
    (found,) = compare_readers([*ALONE, *HELPED], SLIDES, CLASSES)
    alone, saved = found.seconds["alone"], found.seconds["difference"]
    assert alone.value == 64.5
    assert found.seconds["with model"].value == 30
    assert saved.value == -34.5
    spread = np.std(np.arange(10), ddof=1) / math.sqrt(10)
    assert alone.high - alone.value == pytest.approx(t.ppf(0.975, 9) * spread)
    two = [replace(slide, patient_id=f"p{n // 5}") for n, slide in enumerate(SLIDES)]
    (found,) = compare_readers(ALONE, two, CLASSES)
    # patients' means are 62 and 67: half of the difference, times Student's t of one degree
    ends = 64.5 - t.ppf(0.975, 1) * 2.5, 64.5 + t.ppf(0.975, 1) * 2.5
    assert (found.seconds["alone"].low, found.seconds["alone"].high) == pytest.approx(ends)


def test_pairs_are_of_the_slides_that_both_judged() -> None:
    helped = HELPED[5:]  # right on all five; alone right on one of them
    (found,) = compare_readers([*ALONE, *helped], SLIDES, CLASSES)
    gain = found.gains[0]
    assert (gain.difference.value, gain.difference.slides) == (pytest.approx(0.8), 5)
    assert found.accuracy["with model"].slides == 5
    strange = [replace(r, slide_id=f"else{r.slide_id}") for r in ALONE]
    assert compare_readers(strange, SLIDES, CLASSES) == []


def test_labels_are_read_as_the_task_has_them_and_typos_refused() -> None:
    slides = [replace(slide, truth="tumour", predicted="tumour") for slide in SLIDES]
    said = read("c", ["hcc", "tumour", "none", "normal"])
    labels = {"hcc": "tumour", "normal": "normal"}
    (found,) = compare_readers(said, slides, ("normal", "tumour"), label_map=labels)
    assert found.accuracy["reader"].value == 0.5  # none of these, and normal, are wrong
    with pytest.raises(LearnError, match=r"slide 's0', reader 'c'.*'hccc'; did you mean 'hcc'"):
        compare_readers(read("c", ["hccc"]), SLIDES, CLASSES)


def test_columns_of_the_cohort_table_are_read_and_kept(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text(
        "slide_id,path,patient_id,label,cohort,reader_dr_b,reader_dr_b_with_model,seconds_dr_b\n"
        "s1,a.svs,p1,hcc,c,hcc,normal,12.5\n"
        "s2,b.svs,p2,hcc,c,,,\n"
    )
    rows = read_cohort(table)
    expected = (
        Reading(slide_id="s1", reader="dr_b", assisted=False, said="hcc", seconds=12.5),
        Reading(slide_id="s1", reader="dr_b", assisted=True, said="normal"),
    )
    assert readings_of(rows) == expected
    write_cohort(tmp_path / "again.csv", rows)
    assert readings_of(read_cohort(tmp_path / "again.csv")) == expected
    assert readings_of([CohortSlide(slide_id="s", path="p")]) == ()
    table.write_text(table.read_text().replace("12.5", "quick"))
    with pytest.raises(LearnError, match="slide 's1': seconds of reader 'dr_b' are 'quick'"):
        readings_of(read_cohort(table))
    table.write_text(table.read_text().replace("reader_dr_b,", "raeder_dr_b,"))
    with pytest.raises(CohortError, match="raeder_dr_b"):
        read_cohort(table)
