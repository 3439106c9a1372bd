"""What is there is learned, what is not there is not, and the same seed says the same."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from wsi_pipeline.errors import ConfigError, LearnError
from wsi_pipeline.learn import (
    AGGREGATORS,
    FeatureFolder,
    FitSettings,
    ModelSpec,
    bag_scores,
    balanced_weights,
    create_aggregator,
    create_head,
    fit_aggregator,
    fit_tile_classifier,
    majority_vote,
    split_patients,
    tile_probabilities,
)
from wsi_pipeline.learn.aggregators import Standardise
from wsi_pipeline.learn.fit import LEAST_VALIDATED, is_fixed
from wsi_pipeline.learn.metrics import balanced_accuracy
from wsi_pipeline.learn.splits import SplitSlide

CLASSES = ("cca", "hcc", "normal")
WIDTH = 24
QUICK = FitSettings(epochs=8, patience=4, batch=256, tiles=60)
QUICK_BAGS = FitSettings(epochs=20, patience=6, bag_batch=4, bag_learning_rate=1e-3, tiles=60)


def write_bag(folder, slide_id, features):
    features = np.asarray(features, dtype=np.float32)
    with h5py.File(folder / f"{slide_id}.h5", "w") as file:
        file["features"] = features
        file["coords"] = np.stack(
            [np.arange(len(features)) * 512, np.zeros(len(features))], 1
        ).astype(np.int64)
        file["features"].attrs["encoder"] = "made.for_test"
        file["coords"].attrs["patch_size"] = 256
        file["coords"].attrs["patch_size_level0"] = 512


def make_cohort(folder, seed, signal=1.5, patients=12, witness_share=0.4):
    """36 patients, one or two slides each; a share of a slide's tiles points to its class."""
    rng = np.random.default_rng(seed)
    directions = 3 * np.linalg.qr(rng.normal(size=(WIDTH, 3)))[0].T
    slides = []
    for label, direction in zip(CLASSES, directions, strict=True):
        for patient in range(patients):
            for number in range(rng.integers(1, 3)):
                tiles = 5 + 3 * rng.normal(size=(rng.integers(20, 80), WIDTH))
                tiles[rng.random(len(tiles)) < witness_share] += signal * direction
                slide_id = f"{label}{patient}-{number}"
                write_bag(folder, slide_id, tiles)
                slides.append(
                    SplitSlide(
                        slide_id=slide_id,
                        patient_id=f"{label}{patient}",
                        label=label,
                        cohort="made",
                        split="",
                    )
                )
    return slides


def accuracy_of(model, folder, slides, split="test"):
    chosen = [s for s in slides if s.split == split]
    score = bag_scores if hasattr(model, "pool") else _tile_score
    predicted = [score(model, folder.bag(s.slide_id).features)[0].argmax() for s in chosen]
    return balanced_accuracy(
        np.array([CLASSES.index(s.label) for s in chosen]), np.array(predicted)
    )


def _tile_score(model, features):
    return tile_probabilities(model, features).mean(0), None


def train(name, folder, slides, settings=None):
    settings = settings or (QUICK_BAGS if name in AGGREGATORS else QUICK)
    start = fit_aggregator if name in AGGREGATORS else fit_tile_classifier
    model, epochs = start(ModelSpec(name=name, hidden=32), folder, slides, CLASSES, settings)
    return model, list(epochs)


@pytest.fixture(scope="module")
def separable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    slides = split_patients(make_cohort(folder, 1, signal=3.0))
    return FeatureFolder(folder, slides), slides


@pytest.mark.parametrize("name", ["linear", "mlp", *AGGREGATORS])
def test_separable_bags_are_learned(separable, name):
    folder, slides = separable
    model, epochs = train(name, folder, slides)
    assert accuracy_of(model, folder, slides) >= 0.9
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert [e.best for e in epochs] == [False] * (len(epochs) - 1) + [True], (
        "few patients choose none"
    )
    assert not model.training


def test_enough_validation_patients_choose_the_epoch_and_too_few_do_not(separable):
    folder, slides = separable
    best = QUICK_BAGS.model_copy(update={"schedule": "stopped"})
    _, epochs = train("abmil", folder, slides, best)
    chosen = [e for e in epochs if e.best][-1]
    assert chosen.val_loss == min(e.val_loss for e in epochs)
    counted = [replace(slide, patient_id=slide.slide_id) for slide in slides]
    more = [*counted, *(replace(s, slide_id=f"{label}{n}", patient_id=f"{label}{n}", label=label)
                        for label in CLASSES for n in range(LEAST_VALIDATED)
                        for s in [next(s for s in slides if s.split == "val")])]  # fmt: skip
    assert not is_fixed(more, QUICK_BAGS)
    assert is_fixed(counted, QUICK_BAGS)
    assert is_fixed(more, QUICK_BAGS.model_copy(update={"schedule": "fixed"}))


def test_a_fixed_schedule_needs_no_validation(separable):
    folder, slides = separable
    model, epochs = train("mean", folder, [s for s in slides if s.split != "val"])
    assert accuracy_of(model, folder, slides) >= 0.9
    assert all(np.isnan(e.val_loss) for e in epochs)
    stopped = QUICK_BAGS.model_copy(update={"schedule": "stopped"})
    with pytest.raises(LearnError, match="0 validation"):
        train("mean", folder, [s for s in slides if s.split != "val"], stopped)


@pytest.mark.parametrize("name", ["mlp", "abmil"])
def test_shuffled_labels_stay_at_chance(tmp_path, name):
    """The canary: with labels shuffled over patients, anything above chance is a leak."""
    slides = make_cohort(tmp_path, 2)
    patients = sorted({s.patient_id for s in slides})
    found = []
    for seed in range(3):
        labels = np.random.default_rng(seed).permutation([p.rstrip("0123456789") for p in patients])
        shuffled = dict(zip(patients, labels, strict=True))
        mixed = [
            SplitSlide(
                slide_id=s.slide_id,
                patient_id=s.patient_id,
                cohort="",
                split="",
                label=str(shuffled[s.patient_id]),
            )
            for s in slides
        ]
        splits = split_patients(mixed, seed=seed, test_fraction=0.4)
        folder = FeatureFolder(tmp_path, splits)
        found.append(accuracy_of(train(name, folder, splits)[0], folder, splits))
    assert abs(np.mean(found) - 1 / 3) < 0.2


@pytest.mark.parametrize("name", ["mlp", "gated_abmil"])
def test_same_seed_same_numbers(separable, name):
    folder, slides = separable
    settings = FitSettings(epochs=3, tiles=15, seed=4)
    torch.manual_seed(1)
    model, first = train(name, folder, slides, settings)
    torch.manual_seed(2)  # the caller's generator must not matter
    before = torch.random.get_rng_state()
    again, second = train(name, folder, slides, settings)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first == second
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert train(name, folder, slides, FitSettings(epochs=3, tiles=15, seed=5))[1] != first


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("tiles", [1, 7, 100_000])
def test_attention_sums_to_one_and_order_is_nothing_to_those_that_do_not_read_it(name, tiles):
    torch.manual_seed(0)
    model = create_aggregator(ModelSpec(name=name, hidden=16), WIDTH, 3)
    features = np.random.default_rng(0).normal(size=(tiles, WIDTH)).astype(np.float32)
    probabilities, attention = bag_scores(model, features)
    assert attention.shape == (tiles,)
    assert attention.min() >= 0
    assert attention.sum() == pytest.approx(1, abs=1e-4)
    assert probabilities.sum() == pytest.approx(1)
    if name == "transmil":
        return  # it reads a bag's order as where its tiles lie
    order = np.random.default_rng(1).permutation(tiles)
    turned, moved = bag_scores(model, features[order])
    np.testing.assert_allclose(turned, probabilities, atol=1e-5)
    np.testing.assert_allclose(moved, attention[order], atol=1e-6)


def test_abmil_follows_its_equations():
    torch.manual_seed(0)
    model = create_aggregator(ModelSpec(name="gated_abmil", hidden=16), WIDTH, 3).double().eval()
    torch.nn.init.normal_(model.attention_w.weight)  # attention begins all but equal
    bag = torch.randn(9, WIDTH, dtype=torch.float64)
    w = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    h = np.maximum(bag.numpy() @ w["embed.0.weight"].T + w["embed.0.bias"], 0)
    tanh = np.tanh(h @ w["attention_v.weight"].T + w["attention_v.bias"])
    gate = 1 / (1 + np.exp(-(h @ w["attention_u.weight"].T + w["attention_u.bias"])))
    scores = (tanh * gate) @ w["attention_w.weight"][0] + w["attention_w.bias"]
    attention = np.exp(scores) / np.exp(scores).sum()
    logits = w["classify.weight"] @ (attention @ h) + w["classify.bias"]
    output = model(bag)
    np.testing.assert_allclose(output.attention.detach(), attention, rtol=1e-9)
    np.testing.assert_allclose(output.logits.detach(), logits, rtol=1e-9)


def test_attention_finds_the_witness(tmp_path):
    """Bags that differ in one tile in twenty: ABMIL must look there."""
    slides = split_patients(make_cohort(tmp_path, 5, signal=5.0, witness_share=0.08))
    folder = FeatureFolder(tmp_path, slides)
    settings = QUICK_BAGS.model_copy(update={"epochs": FitSettings().epochs})
    model, _ = train("abmil", folder, slides, settings)
    assert accuracy_of(model, folder, slides, "train") > 0.8
    high = []
    for slide in slides:
        features = folder.bag(slide.slide_id).features
        witness = np.linalg.norm(features - 5, axis=1) > 3 * np.sqrt(WIDTH) * 1.35
        if witness.any():
            attention = bag_scores(model, features)[1]
            high.append(attention[witness].mean() / attention.mean())
    assert np.median(high) > 2


def test_balanced_weights():
    def slide(patient, label, number):
        return SplitSlide(
            slide_id=f"{patient}{label}{number}",
            patient_id=patient,
            label=label,
            cohort="",
            split="train",
        )

    slides = [
        slide("a", "hcc", 0),
        slide("a", "hcc", 1),
        slide("b", "hcc", 0),
        slide("a", "normal", 0),
    ]
    np.testing.assert_allclose(balanced_weights(slides), [1 / 8, 1 / 8, 1 / 4, 1 / 2])


def test_standardise_keeps_constant_features_silent():
    scale = Standardise(3)
    features = torch.tensor([[1.0, 7.0, 0.0], [3.0, 7.0, 0.0]])
    scale.fit(features)
    assert scale(features).tolist() == [[-1, 0, 0], [1, 0, 0]]
    assert scale(torch.tensor([[2.0, 8.0, 1.0]])).tolist() == [[0, 0, 0]]


def test_vote_and_mean():
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]], dtype=np.float32)
    np.testing.assert_allclose(majority_vote(probabilities), [2 / 3, 1 / 3])


def test_a_folder_shows_only_its_own_slides(separable):
    folder, slides = separable
    few = FeatureFolder(folder.folder, slides[:2])
    few.bag(slides[0].slide_id)
    with pytest.raises(LearnError, match="not among those this step may read"):
        few.bag(slides[2].slide_id)
    assert FeatureFolder(folder.folder, [*slides[:1], make_absent()]).missing() == ["absent"]


def make_absent():
    return SplitSlide(slide_id="absent", patient_id="p", label="hcc", cohort="", split="train")


@pytest.mark.parametrize(
    ("features", "message"),
    [(np.empty((0, WIDTH)), "empty"), (np.full((3, WIDTH), np.nan), "not all finite")],
)
def test_unusable_bags_are_refused(tmp_path, features, message):
    write_bag(tmp_path, "absent", features)
    with pytest.raises(LearnError, match=message):
        FeatureFolder(tmp_path, [make_absent()]).bag("absent")


def test_cache_is_bounded(separable):
    folder, slides = separable
    none = FeatureFolder(folder.folder, slides, cache_bytes=0)
    assert none.bag(slides[0].slide_id) is not none.bag(slides[0].slide_id)
    assert folder.bag(slides[0].slide_id) is folder.bag(slides[0].slide_id)
    assert none.digests() == {slides[0].slide_id: folder.digests()[slides[0].slide_id]}


def test_half_precision_is_kept_in_half_of_the_room_and_means_the_same(tmp_path):
    rng = np.random.default_rng(0)
    slides = [replace(make_absent(), slide_id=f"s{n}") for n in range(4)]
    halves = {s.slide_id: rng.normal(size=(40, 8)).astype(np.float16) for s in slides}
    for name, half in halves.items():
        write_bag(tmp_path, name, half)
    room = sum(half.nbytes for half in halves.values())
    folder, none = FeatureFolder(tmp_path, slides, room), FeatureFolder(tmp_path, slides, 0)
    for name, half in halves.items():
        for _ in range(2):  # read, then kept
            assert folder.bag(name).features.dtype == np.float32
            np.testing.assert_array_equal(folder.bag(name).features, half)
    for path in tmp_path.glob("*.h5"):
        assert np.array_equal(
            folder.sample(path.stem, 7, np.random.default_rng(3)),
            none.sample(path.stem, 7, np.random.default_rng(3)),
        )
        path.unlink()
    assert len(folder.bag("s3").features) == 40, "all four were kept"
    assert folder.digests() == none.digests()


@pytest.mark.parametrize("name", ["mlp", "abmil"])
def test_kept_in_half_precision_the_same_is_learned(tmp_path, name):
    slides = split_patients(make_cohort(tmp_path, 4))
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path) as file:
            half = file["features"][:].astype(np.float16)
        write_bag(tmp_path, path.stem, half)
    few = QUICK.model_copy(update={"epochs": 2})
    kept, read = (train(name, FeatureFolder(tmp_path, slides, room), slides, few)[0].state_dict()
                  for room in (1 << 20, 0))  # fmt: skip
    assert all(torch.equal(kept[key], read[key]) for key in kept)


def test_samples_are_seeded_and_in_order(separable):
    folder, slides = separable
    name = max(slides, key=lambda s: len(folder.bag(s.slide_id).features)).slide_id
    one = folder.sample(name, 5, np.random.default_rng(3))
    np.testing.assert_array_equal(one, folder.sample(name, 5, np.random.default_rng(3)))
    rows = [int(np.flatnonzero((folder.bag(name).features == row).all(1))[0]) for row in one]
    assert rows == sorted(set(rows))


def test_unknown_names_and_missing_parts_are_refused(separable):
    folder, slides = separable
    with pytest.raises(ConfigError, match="Known: linear, mlp"):
        create_head(ModelSpec(name="tree"), 4, 2)
    with pytest.raises(ConfigError, match=r"Known: mean.*module:function"):
        create_aggregator(ModelSpec(name="sum"), 4, 2)
    with pytest.raises(LearnError, match="0 training"):
        train("mean", folder, [s for s in slides if s.split != "train"])


def test_a_diverging_loss_is_an_error(separable):
    folder, slides = separable
    settings = FitSettings(epochs=3, bag_learning_rate=1e30)
    with pytest.raises(LearnError, match="not finite"):
        train("mean", folder, slides, settings)
