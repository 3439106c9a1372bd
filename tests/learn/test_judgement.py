"""Acting on a model, letting it abstain, comparing two, and how far the outside is away."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import accuracy_score, roc_auc_score

from wsi_pipeline.learn import Bootstrap, Cases, compare_models
from wsi_pipeline.learn.bootstrap import ENDS, estimate, widened
from wsi_pipeline.learn.curves import acting_on_all, aurc, net_benefit, risk_at
from wsi_pipeline.learn.drift import PERMUTATIONS, mmd
from wsi_pipeline.learn.drift import _shift as shift
from wsi_pipeline.learn.metrics import count_cases


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(2, 60), threshold=st.floats(0.05, 0.95))
def test_net_benefit_is_what_its_paper_says(seed, count, threshold):
    rng = np.random.default_rng(seed)
    own, scores = rng.random(count) < 0.4, rng.random(count)
    true = sum(bool(o) and s >= threshold for o, s in zip(own, scores, strict=True))
    false = sum(not o and s >= threshold for o, s in zip(own, scores, strict=True))
    expected = true / count - false / count * threshold / (1 - threshold)
    assert net_benefit(own, scores, np.array([threshold]))[0] == pytest.approx(expected)
    prevalence = own.mean()
    on_all = prevalence - (1 - prevalence) * threshold / (1 - threshold)
    assert acting_on_all(own, np.array([threshold]))[0] == pytest.approx(on_all)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 50))
def test_risk_is_the_error_among_the_most_confident(seed, count):
    rng = np.random.default_rng(seed)
    right, confidence = rng.random(count) < 0.7, rng.permutation(count) / count
    order = np.argsort(-confidence)
    shares = np.arange(1, count + 1) / count
    expected = [(~right[order[:k]]).mean() for k in range(1, count + 1)]
    np.testing.assert_allclose(risk_at(right, confidence, shares), expected)
    assert aurc(right, confidence) == pytest.approx(np.mean(expected))
    assert aurc(np.ones(count, bool), confidence) == 0
    tied = risk_at(right, np.ones(count), shares)
    np.testing.assert_allclose(tied, (~right).mean(), err_msg="ties have no order")


def cases(rng, strength, patients=40):
    targets = np.arange(patients) % 2
    score = 1 / (1 + np.exp(-(strength * (2 * targets - 1) + rng.normal(size=patients))))
    return Cases(
        targets=targets, probabilities=np.stack([1 - score, score], axis=1),
        patients=tuple(f"p{k}" for k in range(patients)),
    )  # fmt: skip


def test_two_models_are_compared_on_the_same_patients():
    rng = np.random.default_rng(0)
    good, bad = cases(rng, 2.0), cases(rng, 0.0)
    found = compare_models(good, bad, ("a", "b"), Bootstrap(resamples=500))
    for name, by_library in (
        ("accuracy", lambda c: accuracy_score(c.targets, c.probabilities.argmax(1))),
        ("auroc", lambda c: roc_auc_score(c.targets, c.probabilities[:, 1])),
    ):
        assert found[name].value == pytest.approx(by_library(good) - by_library(bad))
        assert 0 < found[name].low < found[name].value < found[name].high
        assert found[name].p < 0.02
    turned = compare_models(bad, good, ("a", "b"), Bootstrap(resamples=500))
    assert turned["auroc"].high == pytest.approx(-found["auroc"].low)
    same = compare_models(good, good, ("a", "b"), Bootstrap(resamples=100))
    assert same["accuracy"].value == 0
    assert same["accuracy"].low < 0 < same["accuracy"].high, "they may differ on other patients"
    assert same["accuracy"].p == 1


def test_equal_models_are_rarely_told_apart():
    told = 0
    for seed in range(60):
        rng = np.random.default_rng([7, seed])
        one, two = cases(rng, 0.8), cases(rng, 0.8)
        found = compare_models(one, two, ("a", "b"), Bootstrap(resamples=200))
        told += found["auroc"].p < 0.05
    assert told <= 7  # 3 are expected; more than 7 have a chance of 1 %


def test_drift_is_seen_where_there_is_one():
    rng = np.random.default_rng(1)
    inside = rng.normal(size=(25, 16))
    alike, moved = rng.normal(size=(15, 16)), rng.normal(size=(15, 16)) + 1.0
    assert mmd(inside, alike)[1] > 0.05
    value, p = mmd(inside, moved)
    assert value > 0.1
    assert p == 1 / (PERMUTATIONS + 1)


def test_the_permutation_p_is_uniform_without_drift():
    rng = np.random.default_rng(2)
    found = [mmd(rng.normal(size=(8, 4)), rng.normal(size=(7, 4)), seed)[1] for seed in range(80)]
    assert np.mean(np.array(found) <= 0.1) < 0.2
    assert 0.4 < np.mean(found) < 0.6


def test_a_shift_is_in_standard_deviations_between_patients():
    found = shift(np.array([1.0, 2.0, 3.0]), np.array([3.0, 4.0, 5.0]))
    assert (found.inside, found.outside, found.standardised) == (2.0, 4.0, 2.0)
    assert shift(np.array([0.5, 0.5]), np.array([0.5, 0.5])).standardised is None
    assert shift(np.array([1.0]), np.array([2.0, 3.0])).standardised is None


def test_few_patients_widen_the_percentiles():
    assert norm.cdf(widened(10_000)) == pytest.approx(ENDS, abs=1e-4)
    assert norm.cdf(widened(20)) == pytest.approx([0.0159, 1 - 0.0159], abs=2e-4)


@settings(max_examples=40, deadline=None)
@given(
    patients=st.integers(2, 6),
    seed=st.integers(0, 500),
    method=st.sampled_from(["bca", "percentile"]),
)
def test_however_few_the_patients_an_interval_is_one(patients, seed, method):
    rng = np.random.default_rng(seed)
    owners = [f"p{k}" for k in rng.integers(0, patients, 3 * patients)]
    targets = rng.integers(0, 2, len(owners))
    scores = rng.dirichlet([1, 1], len(owners))
    found = estimate(count_cases(targets, scores, owners), ("a", "b"),
                     Bootstrap(resamples=100, method=method))  # fmt: skip
    for each in found.values():
        if each.low is not None:
            assert np.isfinite([each.low, each.high]).all()
            assert each.low <= each.high
