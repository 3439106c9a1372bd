"""Measures equal scikit-learn's; intervals cover."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.bootstrap import Bootstrap, estimate
from wsi_pipeline.learn.calibration import apply_temperature, fit_temperature
from wsi_pipeline.learn.evaluate import evaluate, patient_cases, slide_cases, tile_cases
from wsi_pipeline.learn.metrics import count_cases, measure
from wsi_pipeline.learn.splits import SplitSlide

CLASSES = ("cca", "hcc", "normal")


def make_scores(n, seed, skill=1.0, decimals=8):
    """Return targets and probabilities of a classifier with some skill."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) + skill * np.eye(3)[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probabilities = np.round(probabilities, decimals)
    probabilities[:, 2] = 1 - probabilities[:, :2].sum(1)
    return targets, probabilities


def values_of(targets, probabilities, patients=None):
    patients = patients or [str(i) for i in range(len(targets))]
    counts = count_cases(targets, probabilities, patients)
    taken = np.ones((1, counts.patients))
    return {name: v[0] for name, v in measure(counts, taken, CLASSES).items()}


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 200), st.integers(0, 10_000), st.sampled_from([1, 2, 8]))
def test_parity_with_scikit_learn(n, seed, decimals):
    targets, p = make_scores(n, seed, decimals=decimals)
    targets[:3] = [0, 1, 2]  # each class occurs
    predicted, truth = p.argmax(1), np.eye(3)[targets]
    ours = values_of(targets, p, [str(i % 7) for i in range(n)])
    recall = reference.recall_score(targets, predicted, average=None)
    expected = {
        "accuracy": reference.accuracy_score(targets, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(targets, predicted),
        "macro_f1": reference.f1_score(targets, predicted, average="macro"),
        "auroc": reference.roc_auc_score(targets, p, multi_class="ovr"),
        "ap": reference.average_precision_score(truth, p, average="macro"),
        "brier": ((p - truth) ** 2).sum(1).mean(),
        "log_loss": reference.log_loss(targets, p),
    }
    for index, name in enumerate(CLASSES):
        own = truth[:, index]
        expected[f"sensitivity/{name}"] = recall[index]
        expected[f"specificity/{name}"] = reference.recall_score(
            own, predicted == index, pos_label=0
        )
        expected[f"auroc/{name}"] = reference.roc_auc_score(own, p[:, index])
        expected[f"ap/{name}"] = reference.average_precision_score(own, p[:, index])
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name


def test_many_tiles_are_binned_closely():
    targets, p = make_scores(30_000, 1)
    ours = values_of(targets, p, [str(i % 40) for i in range(len(targets))])
    for index, name in enumerate(CLASSES):
        own = targets == index
        assert ours[f"auroc/{name}"] == pytest.approx(
            reference.roc_auc_score(own, p[:, index]), abs=1e-5
        )
        assert ours[f"ap/{name}"] == pytest.approx(
            reference.average_precision_score(own, p[:, index]), abs=5e-4
        )


def test_calibration_error_of_known_case():
    # Four cases at confidence 0.8, of which half are right: the error is 0.3.
    p = np.tile([0.8, 0.1, 0.1], (4, 1))
    assert values_of(np.array([0, 0, 1, 2]), p)["ece"] == pytest.approx(0.3)


def test_resampling_by_counts_equals_resampling_cases():
    targets, p = make_scores(60, 5)
    owner = np.arange(60) // 4
    counts = count_cases(targets, p, [f"{o:02d}" for o in owner])
    drawn = np.random.default_rng(0).integers(0, 15, 15)
    cases = np.concatenate([np.flatnonzero(owner == patient) for patient in drawn])
    taken = np.bincount(drawn, minlength=15)[None].astype(float)
    ours = measure(counts, taken, CLASSES)
    direct = values_of(targets[cases], p[cases])
    for name, value in direct.items():
        assert ours[name][0] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_missing_class_is_undefined_not_wrong():
    targets, p = make_scores(40, 2)
    targets[targets == 2] = 1
    estimates = estimate(count_cases(targets, p, [str(i) for i in range(40)]), CLASSES)
    assert estimates["auroc/normal"].value is None
    assert estimates["sensitivity/normal"].value is None
    assert estimates["auroc"].value == pytest.approx(
        np.mean([estimates["auroc/cca"].value, estimates["auroc/hcc"].value])
    )
    assert estimates["balanced_accuracy"].low is not None


def test_one_patient_has_no_interval():
    targets, p = make_scores(10, 2)
    result = evaluate_values(targets, p, ["one"] * 10)
    assert result["accuracy"]["value"] is not None
    assert result["accuracy"]["low"] is None


def evaluate_values(targets, p, patients):
    slides = [
        SplitSlide(slide_id=str(i), patient_id=patients[i], label=CLASSES[t], cohort="", split="")
        for i, t in enumerate(targets)
    ]
    scores = {str(i): row for i, row in enumerate(p)}
    return evaluate(slide_cases(slides, scores, CLASSES), CLASSES)["measures"]


def test_ignoring_patients_would_not_cover():
    """The same intervals by slide are too narrow when a patient's slides agree."""
    rng = np.random.default_rng(3)
    covered = {"patient": 0, "slide": 0}
    for _ in range(100):
        right = np.repeat(rng.random(40) < 0.8, 6)
        p = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
        targets = np.zeros(240, dtype=np.int64)
        for unit, owners in (("patient", np.repeat(np.arange(40), 6)), ("slide", np.arange(240))):
            counts = count_cases(targets, p, [str(owner) for owner in owners])
            interval = estimate(counts, ("a", "b"), Bootstrap(resamples=100))["accuracy"]
            covered[unit] += interval.low <= 0.8 <= interval.high
    assert covered["patient"] / 100 >= 0.9
    assert covered["slide"] / 100 < 0.8


def test_a_thousand_resamples_take_about_a_second():
    targets, p = make_scores(1500, 4)
    start = time.perf_counter()
    estimate(count_cases(targets, p, [str(i // 3) for i in range(1500)]), CLASSES)
    assert time.perf_counter() - start < 4  # 0.3 s on an idle core


def test_patient_with_tumour_and_normal_is_two_cases_of_one_patient():
    def slide(slide_id, label):
        return SplitSlide(slide_id=slide_id, patient_id="p", label=label, cohort="", split="")

    slides = [slide("t1", "hcc"), slide("t2", "hcc"), slide("n", "normal")]
    scores = {
        "t1": np.array([0.2, 0.8, 0.0]),
        "t2": np.array([0.0, 0.6, 0.4]),
        "n": np.array([0.0, 0.1, 0.9]),
    }
    cases = patient_cases(slides, scores, CLASSES)
    assert cases.patients == ("p", "p")
    np.testing.assert_allclose(cases.probabilities, [[0.1, 0.7, 0.2], [0, 0.1, 0.9]])
    assert evaluate(cases, CLASSES)["patients"] == 1
    tiles = {name: np.tile(row, (2, 1)).astype(np.float32) for name, row in scores.items()}
    assert tile_cases(slides, tiles, CLASSES).targets.tolist() == [1, 1, 1, 1, 2, 2]


def test_unknown_label_and_mixed_shapes_are_refused():
    targets, p = make_scores(5, 0)
    with pytest.raises(LearnError, match="do not describe the same cases"):
        count_cases(targets, p, ["a"])
    with pytest.raises(LearnError, match="sum to one"):
        count_cases(targets, p / 2, list("abcde"))
    slide = SplitSlide(slide_id="s", patient_id="p", label="adenoma", cohort="", split="")
    with pytest.raises(LearnError, match="adenoma is none"):
        slide_cases([slide], {"s": p[0]}, CLASSES)


def test_temperature_tempers_an_overconfident_model():
    targets, p = make_scores(2000, 8, skill=1.5)
    sharp = apply_temperature(p, 1 / 3)
    temperature = fit_temperature(sharp, targets)
    tempered = apply_temperature(sharp, temperature)
    assert temperature == pytest.approx(3 / 1.5, rel=0.1)  # the posterior of these scores is known
    assert (tempered.argmax(1) == p.argmax(1)).all()
    assert values_of(targets, tempered)["ece"] < 0.4 * values_of(targets, sharp)["ece"]
    assert apply_temperature(tempered, 1.0) == pytest.approx(tempered)


def test_temperature_of_a_perfect_or_empty_validation_part_stays_modest():
    assert fit_temperature(np.eye(3)[[0, 1, 2]] * 0.7 + 0.1, np.array([0, 1, 2])) >= 0.5
    assert fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64)) == 1.0
