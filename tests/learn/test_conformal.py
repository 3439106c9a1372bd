"""Sets hold the right class as often as asked, for patients with several slides too."""

import numpy as np
import pytest

from wsi_pipeline.learn import SplitSlide, describe_sets
from wsi_pipeline.learn.conformal import fit_lack, prediction_sets
from wsi_pipeline.learn.evaluate import Cases

CLASSES = ("a", "b", "c")


def draw(rng, patients, split, slides=1, signal=1.5):
    """Slides of patients that share a difficulty, and their probabilities."""
    found, scores = [], {}
    for patient in range(patients):
        target, shared = int(rng.integers(3)), rng.normal(size=3)
        for number in range(slides):
            logits = signal * np.eye(3)[target] + shared + 0.3 * rng.normal(size=3)
            name = f"{split}{patient}-{number}"
            powers = np.exp(logits)
            scores[name] = powers / powers.sum()
            found.append(SplitSlide(slide_id=name, patient_id=f"{split}{patient}", cohort="",
                                    label=CLASSES[target], split=split))  # fmt: skip
    return found, scores


@pytest.mark.parametrize("slides", [1, 4])
def test_new_patients_are_covered_as_often_as_asked(slides):
    """Mean over calibrations: at least 90 %, and with one slide at most 1/(n+1) more."""
    coverage = {"slide": [], "patient": []}
    for seed in range(60):
        rng = np.random.default_rng([slides, seed])
        val, scores = draw(rng, 29, "val", slides)
        test, more = draw(rng, 40, "test", slides)
        for row in describe_sets({"m": scores | more}, [*val, *test], CLASSES):
            if row["split"] == "test":
                coverage[row["level"]].append(row["coverage"])
                assert row["low"] <= row["coverage"] <= row["high"]
                assert row["calibrated_on"] == 29
    for level, found in coverage.items():
        assert 0.88 <= np.mean(found) <= 0.96, level


def test_what_is_like_no_class_is_none_of_these():
    rng = np.random.default_rng(0)
    val, scores = draw(rng, 60, "val", signal=6.0)
    odd = [SplitSlide(slide_id="odd", patient_id="odd", label="a", cohort="", split="external")]
    rows = describe_sets({"m": scores | {"odd": np.full(3, 1 / 3)}}, [*val, *odd], CLASSES)
    (external,) = [r for r in rows if (r["split"], r["level"]) == ("external", "patient")]
    assert (external["empty"], external["size"], external["coverage"]) == (1, 0, 0)


def test_too_few_patients_are_said_and_nothing_is_left_out():
    rng = np.random.default_rng(0)
    val, scores = draw(rng, 8, "val")
    (row, _) = describe_sets({"m": scores}, val, CLASSES)
    assert row["lack"] is None
    assert row["size"] == 3
    assert describe_sets({"m": scores}, [], CLASSES) == []


def test_the_quantile_is_that_of_the_paper():
    lacks = np.arange(1, 20) / 20  # 19 patients: the ⌈20 x 0.9⌉ = 18th smallest
    p = np.stack([1 - lacks, lacks], axis=1)
    cases = Cases(targets=np.zeros(19, int), probabilities=p, patients=tuple(map(str, range(19))))
    assert fit_lack(cases) == pytest.approx(18 / 20)
    assert prediction_sets(np.array([[0.09, 0.91], [0.5, 0.5]]), 0.9).tolist() == [
        [False, True],
        [True, True],
    ]
