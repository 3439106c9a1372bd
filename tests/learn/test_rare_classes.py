"""A class of few patients: what a regression on means says, and models that start from it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from wsi_pipeline.learn import (
    AGGREGATORS,
    FitSettings,
    ModelSpec,
    SplitSlide,
    bag_scores,
    balanced_weights,
    create_aggregator,
    fit_aggregator,
    fold_patients,
)
from wsi_pipeline.learn.means import regress_means

CLASSES = ("a", "b")
ALLOWED = 0.02


def slides_of(labels, slides_each=1):
    return [
        SplitSlide(slide_id=f"{label}{n}-{k}", patient_id=f"{label}{n}", label=label, cohort="",
                   split="train")
        for n, label in enumerate(labels) for k in range(slides_each)
    ]  # fmt: skip


def regressed(means, slides, classes=CLASSES):
    targets = np.array([classes.index(slide.label) for slide in slides])
    return regress_means(means, targets, slides, balanced_weights(slides), seed=0), targets


def test_it_is_logistic_regression_on_standardised_means_but_for_slope_and_shift():
    rng = np.random.default_rng(0)
    slides = slides_of("a" * 7 + "b" * 40)
    means = 3 + rng.standard_normal((47, 100)) * np.linspace(0.1, 5, 100)
    means[:7, :20] += 1
    means[:, 50] = 2  # constant
    found, targets = regressed(means, slides)
    logits = means @ found.weight.T + found.bias
    reference = LogisticRegression(class_weight="balanced", max_iter=1000)
    scaled = StandardScaler().fit_transform(means)
    expected = reference.fit(scaled, targets).decision_function(scaled)
    slope, shift = np.polyfit(expected, logits[:, 1] - logits[:, 0], 1)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], slope * expected + shift, atol=0.05)
    assert 0 < slope <= 1
    assert not found.weight[:, 50].any()


def test_what_is_said_out_of_fold_has_not_seen_the_patient_and_is_not_believed_without_reason():
    """Labels mean nothing, every patient has three slides all but the same: memory alone tells."""
    slopes, areas = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        slides = slides_of("a" * 10 + "b" * 20, slides_each=3)
        own = np.repeat(rng.standard_normal((30, 200)), 3, axis=0)
        found, targets = regressed(own + 0.01 * rng.standard_normal(own.shape), slides)
        areas.append(roc_auc_score(targets, found.out_of_fold[:, 1] - found.out_of_fold[:, 0]))
        slopes.append(np.abs(found.out_of_fold - found.out_of_fold.mean(0)).mean())
        logits = own @ found.weight.T + found.bias
        if np.abs(found.weight).max() > 1e-6:
            assert roc_auc_score(targets, logits[:, 1] - logits[:, 0]) == 1, "it fits what it saw"
    assert np.mean(areas) < 0.75
    assert np.mean(slopes) < 0.3


def test_three_classes_and_a_class_that_cannot_be_left_out():
    rng = np.random.default_rng(1)
    slides = slides_of("a" * 6 + "b" * 9 + "c" * 12)
    means = rng.standard_normal((27, 10))
    means[:6, 0] += 6
    means[6:15, 1] += 6
    found, targets = regressed(means, slides, ("a", "b", "c"))
    assert found.weight.shape == (3, 10)
    assert (found.out_of_fold.argmax(1) == targets).mean() > 0.9
    assert regressed(means[5:], slides[5:], ("a", "b", "c"))[0] is None


@pytest.mark.parametrize("name", AGGREGATORS)
def test_a_model_of_before_says_what_it_said(name):
    torch.manual_seed(0)
    model = create_aggregator(ModelSpec(name=name, hidden=16), 5, 3).eval()
    before = {k: v for k, v in model.state_dict().items() if not k.startswith("of_mean")}
    assert len(before) < len(model.state_dict())
    again = create_aggregator(ModelSpec(name=name, hidden=16), 5, 3).eval()
    again.load_state_dict(before)
    bag = torch.randn(9, 5)
    assert torch.equal(again(bag).logits, again.learned(bag).logits)
    assert torch.equal(again(bag).logits, model(bag).logits)


class Bags(dict):
    """Features in memory, in the place of a folder of stores."""

    folder = Path("drawn")

    def bag(self, slide_id):
        return SimpleNamespace(features=self[slide_id])

    def tile_count(self, slide_id):
        return len(self[slide_id])

    def sample(self, slide_id, count, rng):
        del rng
        return self[slide_id][:count]

    sample_kept = sample


def cohort(seed, signal=1.5):
    """Draw 7 and 60 patients whose classes differ a little in every tile."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((32, 256)) * np.linspace(1, 0.2, 32)[:, None] / 3
    slides = slides_of("a" * 7 + "b" * 60)
    bags = Bags()
    for slide in slides:
        latent = rng.standard_normal((rng.integers(20, 50), 32)) + 0.6 * rng.standard_normal(32)
        latent[:, 5] += signal * (slide.label == "a")
        rows = latent @ mixing + 0.3 * rng.standard_normal((len(latent), 256))
        bags[slide.slide_id] = rows.astype(np.float32)
    return slides, bags


@pytest.mark.parametrize("seed", [0, 1])
def test_seven_patients_of_67_are_told_as_well_as_by_regression_on_means(seed):
    slides, bags = cohort(seed)
    means = np.stack([bags[slide.slide_id].mean(0) for slide in slides])
    rare = np.array([slide.label == "a" for slide in slides])
    scores, expected = np.zeros(67), np.zeros(67)
    for fold in fold_patients(slides, folds=3, val_fraction=0.2, seed=seed):
        tested = np.array([slide.split == "test" for slide in fold])
        scaler = StandardScaler().fit(means[~tested])
        regression = LogisticRegression(class_weight="balanced", max_iter=1000)
        regression.fit(scaler.transform(means[~tested]), rare[~tested])
        expected[tested] = regression.decision_function(scaler.transform(means[tested]))
        kept = [slide for slide in fold if slide.split != "test"]
        kept = [SplitSlide(**(vars(slide) | {"split": "train"})) for slide in kept]
        settings = FitSettings(device="cpu", seed=seed, hidden=64)
        model, training = fit_aggregator(
            ModelSpec(name="abmil", hidden=64), bags, kept, CLASSES, settings
        )
        list(training)
        found = [bag_scores(model, bags[s.slide_id])[0] for s in fold]
        logits = np.log([each[0] / each[1] for each in found])
        scores[tested] = logits[tested]
    allowed = roc_auc_score(rare, expected) - ALLOWED
    assert roc_auc_score(rare, scores) >= allowed
