"""Intervals hold what they promise, on any few patients, and never reward a mistake."""

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from wsi_pipeline.learn import (
    Bootstrap,
    Cases,
    compare_models,
    lower_bound_if_perfect,
    patients_needed,
)
from wsi_pipeline.learn.bootstrap import estimate
from wsi_pipeline.learn.intervals import Share, auroc_interval, mean_interval
from wsi_pipeline.learn.metrics import count_cases

QUICK = Bootstrap(resamples=100)
SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ap")


def share(right, patients):
    outcomes = np.arange(patients) < right
    return Share(right=outcomes.astype(float), cases=np.ones(patients))


def judged(targets, wrong, owners):
    """Estimates of hard, confident predictions; ``wrong`` ones name the next class."""
    classes = int(targets.max()) + 1
    predicted = np.where(wrong, (targets + 1) % classes, targets)
    p = np.full((len(targets), classes), 0.1 / (classes - 1))
    p[np.arange(len(targets)), predicted] = 0.9
    names = [f"c{k}" for k in range(classes)]
    return estimate(count_cases(targets, p, [str(o) for o in owners]), names, QUICK)


@pytest.mark.parametrize(("right", "patients"), [(0, 5), (1, 5), (7, 7), (19, 21), (59, 60)])
def test_one_case_a_patient_is_clopper_and_pearson(right, patients):
    low = beta.ppf(0.025, right, patients - right + 1) if right else 0
    high = beta.ppf(0.975, right + 1, patients - right) if right < patients else 1
    assert share(right, patients).interval == pytest.approx((low, high))
    # four slides each, all right or all wrong together, tell no more
    four = Share(right=4.0 * (np.arange(patients) < right), cases=np.full(patients, 4.0))
    assert four.interval == pytest.approx((low, high))


@pytest.mark.parametrize("seed", range(3))
def test_shares_of_unequal_patients_are_the_weighted_quantile(seed):
    """The inversion against simulation of what it inverts."""
    rng = np.random.default_rng(seed)
    cases = rng.integers(1, 6, 15).astype(float)
    right = rng.binomial(cases.astype(int), 0.8).astype(float)
    weights = rng.standard_exponential((400_000, 16))
    own, imagined = weights[:, :-1], weights[:, -1] * cases.mean()
    low = np.quantile(own @ right / (own @ cases + imagined), 0.025)
    high = np.quantile((own @ right + imagined) / (own @ cases + imagined), 0.975)
    assert Share(right=right, cases=cases).interval == pytest.approx((low, high), abs=2e-3)


@pytest.mark.parametrize("sizes", [(7, 40), (4, 4, 4), (14, 14), (10, 10)])
@pytest.mark.parametrize("sensitivities", [(0.8, 0.95), (0.95, 0.95), (0.9, 0.9)])
def test_balanced_accuracy_is_covered(sizes, sensitivities):
    """Exactly: over all outcomes, by their probability. benchmarks/coverage.py draws cohorts."""
    rates = (*sensitivities, sensitivities[1])[: len(sizes)]
    truth, covered = np.mean(rates), 0.0
    for outcome in product(*(range(size + 1) for size in sizes)):
        chance = np.prod(
            [binom.pmf(k, n, r) for k, n, r in zip(outcome, sizes, rates, strict=True)]
        )
        if chance > 1e-4:
            low, high = mean_interval([share(k, n) for k, n in zip(outcome, sizes, strict=True)])
            covered += chance * (low <= truth <= high)
    assert covered >= 0.95


def test_the_cases_that_were_reported():
    targets = np.repeat([0, 1], [7, 60])
    none, one = np.zeros(67, bool), np.arange(67) == 66
    perfect, nearly = (judged(targets, wrong, np.arange(67)) for wrong in (none, one))
    for name in SHARES:
        assert nearly[name].low < perfect[name].low < 1, name
        assert perfect[name].high == 1, name
    rare = judged(targets, targets == 0, np.arange(67))
    assert rare["balanced_accuracy"].high >= rare["sensitivity/c0"].high / 2 + 0.4
    assert perfect["auroc"].low == pytest.approx(0.75, abs=0.05)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    slides=st.lists(st.integers(1, 3), min_size=18, max_size=18),
    seed=st.integers(0, 9999),
)
def test_one_more_mistake_never_raises_a_bound(sizes, slides, seed):
    rng = np.random.default_rng(seed)
    of_patient = np.repeat(np.arange(len(sizes)), sizes)
    owners = np.repeat(np.arange(len(of_patient)), slides[: len(of_patient)])
    targets, wrong = of_patient[owners], rng.random(len(owners)) < rng.random()
    more = wrong.copy()
    more[rng.integers(len(more))] = True
    before, after = judged(targets, wrong, owners), judged(targets, more, owners)
    # (average precision itself may rise with a mistake among ties)
    for name in (*SHARES[:-1], *(f"sensitivity/c{k}" for k in range(len(sizes)))):
        assert after[name].low <= before[name].low + 1e-6, name
        assert after[name].high <= before[name].high + 1e-6, name
        assert after[name].low <= after[name].value <= after[name].high, name


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4), seed=st.integers(0, 999))
def test_balanced_accuracy_keeps_within_what_classes_allow(sizes, seed):
    rng = np.random.default_rng(seed)
    shares = [share(rng.integers(size + 1), size) for size in sizes]
    low, high = mean_interval(shares)
    ends = np.mean([each.interval for each in shares], axis=0)
    assert ends[0] - 1e-9 <= low <= np.mean([each.value for each in shares]) <= high
    assert high <= ends[1] + 1e-9
    assert mean_interval(shares, dependence=1.0) == pytest.approx(tuple(ends))


def test_patients_with_cases_of_two_classes_are_no_two_patients():
    targets = np.tile([0, 1], 20)
    together = judged(targets, np.zeros(40, bool), np.repeat(np.arange(20), 2))
    apart = judged(targets, np.zeros(40, bool), np.arange(40))
    assert together["balanced_accuracy"].low == pytest.approx(0.025 ** (1 / 20))
    assert apart["balanced_accuracy"].low > together["balanced_accuracy"].low
    assert apart["accuracy"].low == pytest.approx(0.025 ** (1 / 40))
    assert together["accuracy"].low == pytest.approx(0.025 ** (1 / 20))


@settings(max_examples=60, deadline=None)
@given(
    value=st.floats(0, 1), step=st.floats(0, 0.2), own=st.integers(1, 60), others=st.integers(1, 60)
)
def test_auroc_intervals_are_intervals_and_monotone(value, step, own, others):
    low, high = auroc_interval(value, own, others)
    assert 0 <= low <= value <= high <= 1
    assert high - low > 0.01
    better = auroc_interval(min(value + step, 1), own, others)
    assert better[0] >= low - 1e-9
    assert better[1] >= high - 1e-9


def test_what_can_be_reached_is_known_beforehand():
    assert lower_bound_if_perfect(21) == pytest.approx(0.839, abs=5e-4)
    assert patients_needed(0.96) == 91
    assert lower_bound_if_perfect(91) >= 0.96 > lower_bound_if_perfect(90)
    assert patients_needed(0.96, mistakes=2) > patients_needed(0.96, mistakes=1) > 91
    assert lower_bound_if_perfect([7, 60]) == pytest.approx(
        judged(np.repeat([0, 1], [7, 60]), np.zeros(67, bool), np.arange(67))[
            "balanced_accuracy"
        ].low
    )
    assert lower_bound_if_perfect(0) == 0


def test_four_thousand_patients_take_seconds_and_little_memory():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 4000)
    p = rng.dirichlet([1, 1, 1], 4000)
    began = time.process_time()
    estimate(count_cases(targets, p, [str(k) for k in range(4000)]), list("abc"))
    assert time.process_time() - began < 6  # 2 s on an idle core


def test_models_that_differ_on_no_patient_may_yet_differ():
    targets = np.repeat([0, 1], 6)
    p = np.where(targets[:, None] == [0, 1], 0.9, 0.1)
    cases = Cases(targets=targets, probabilities=p, patients=tuple(map(str, range(12))))
    found = compare_models(cases, cases, ("a", "b"), QUICK)
    assert found["accuracy"].low < -0.1
    assert found["accuracy"].p == 1
