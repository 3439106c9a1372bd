"""The train stage: honest order, whole bundles, the same twice."""

import json
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import cohen_kappa_score

from wsi_pipeline.cohort import CohortSlide, read_cohort, write_cohort
from wsi_pipeline.errors import LearnError, StoreError, StoreMismatchError
from wsi_pipeline.events import EpochDone, Note, Planned, StageStarted, Written
from wsi_pipeline.inventory import begin
from wsi_pipeline.learn import (
    METRICS,
    FrozenModels,
    Metric,
    ModelSpec,
    create_aggregator,
    load_bundle,
    require_same_features,
    seal_external,
)
from wsi_pipeline.learn.splits import SplitSlide, read_splits
from wsi_pipeline.pipeline.train import TrainConfig, run
from wsi_pipeline.report import main
from wsi_pipeline.train import main as train_main

ENCODER = "made.for_test"
WIDTH = 16


def write_bag(path, rng, label, mpp=0.5):
    features = rng.normal(size=(rng.integers(5, 40), WIDTH)).astype(np.float32)
    features[:, "abc".index(label)] += 2.5
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["coords"] = np.zeros((len(features), 2), dtype=np.int64)
        file["coords"].attrs["patch_size_level0"] = 512
        file.attrs.update({"encoder": ENCODER, "tile_px": 256, "mpp": mpp})


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A run folder: three classes of ten patients, and an external cohort of six."""
    folder = tmp_path_factory.mktemp("run")
    stores = folder / "features" / ENCODER
    stores.mkdir(parents=True)
    rng = np.random.default_rng(0)
    slides = []
    for label in "abc":
        for patient in range(12):
            cohort = "tma" if patient >= 10 else "main"
            for number in range(1 + patient % 2):
                slide_id = f"{label}{patient}-{number}"
                write_bag(stores / f"{slide_id}.h5", rng, label)
                slides.append(
                    CohortSlide(
                        slide_id=slide_id,
                        path=f"{slide_id}.svs",
                        patient_id=f"{label}{patient}",
                        label=label,
                        cohort=cohort,
                    )
                )
    slides.append(CohortSlide(slide_id="unknown", path="unknown.svs", cohort="main"))
    write_cohort(folder / "cohort.csv", slides)
    return folder


@pytest.fixture
def folder(template, tmp_path):
    return shutil.copytree(template, tmp_path / "run")


def config(folder, **values):
    quick = {
        "epochs": 8,
        "bag_learning_rate": 4e-3,
        "resamples": 100,
        "hidden": 16,
        "device": "cpu",
        "encoder": "made",
    }
    return TrainConfig(run=folder, **(quick | values))


def texts(events):
    return [event.text for event in events if isinstance(event, Note)]


@pytest.fixture(scope="module")
def trained(template, tmp_path_factory):
    folder = shutil.copytree(template, tmp_path_factory.mktemp("trained") / "run")
    return folder, list(run(config(folder, external="tma")))


def test_bundle_is_complete(trained):
    folder, events = trained
    target = folder / "models" / ENCODER
    assert {path.name for path in target.iterdir()} == {
        "model.safetensors", "config.json", "splits.csv", "metrics.json", "predictions.csv",
        "history.csv", "audit.json",
    }  # fmt: skip
    assert isinstance(events[0], StageStarted)
    assert events[-1] == Written(path=str(target), what="model")
    assert {event.model for event in events if isinstance(event, EpochDone)} == {
        "tile", "abmil", "mean"
    }  # fmt: skip
    assert "1 slides without a label are left out" in texts(events)

    metrics = json.loads((target / "metrics.json").read_text())
    found = {(e["model"], e["split"], e["level"]): e for e in metrics["evaluations"]}
    for split in ("train", "val", "test", "external"):
        assert ("tile", split, "tile") in found
        for model in ("tile_mean", "tile_vote", "abmil", "mean"):
            assert {("slide"), ("patient")} <= {k[2] for k in found if k[:2] == (model, split)}
    accuracy = found["abmil", "external", "patient"]["measures"]["balanced_accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert accuracy["value"] >= 0.8
    assert found["abmil", "external", "slide"]["patients"] == 6

    predictions = pd.read_csv(target / "predictions.csv")
    assert len(predictions) == 4 * 54  # 45 internal and 9 external slides, 4 models
    p = predictions[["p_a", "p_b", "p_c"]]
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert (predictions.predicted == p.idxmax(axis=1).str[2:]).all()

    history = pd.read_csv(target / "history.csv")
    assert set(history.model) == {"tile", "abmil", "mean"}
    assert history.best.any()


def test_splits_are_written_first_and_keep_patients_apart(trained):
    folder, _ = trained
    slides = read_splits(folder / "models" / ENCODER / "splits.csv")
    by_split = {}
    for slide in slides:
        by_split.setdefault(slide.split, set()).add(slide.patient_id)
    assert by_split.keys() == {"train", "val", "test", "external"}
    assert sum(map(len, by_split.values())) == 36
    written = read_splits(folder / "splits" / f"{ENCODER}.csv")
    assert written == tuple(slide for slide in slides if slide.split != "external")


def test_bundle_predicts_as_it_was_judged(trained):
    folder, _ = trained
    bundle = load_bundle(folder / "models" / ENCODER)
    assert bundle.config.features == {"encoder": ENCODER, "tile_px": 256, "mpp": 0.5}
    rows = pd.read_csv(
        folder / "models" / ENCODER / "predictions.csv", index_col=["slide_id", "model"]
    )
    temperature = bundle.config.aggregators["abmil"].temperature
    metrics = json.loads((folder / "models" / ENCODER / "metrics.json").read_text())
    assert "a fixed schedule: validation has 1 patient of some class" in metrics["epoch_chosen_by"]
    for part, same in (("train", True), ("test", True), ("val", False)):
        slide_id = next(s for s, m in rows.index if m == "abmil" and rows.split[s, m] == part)
        with h5py.File(folder / "features" / ENCODER / f"{slide_id}.h5") as file:
            bag = torch.from_numpy(file["features"][()])
        found = (bundle.primary(bag).logits.double() / temperature).softmax(0)
        expected = rows.loc[(slide_id, "abmil"), ["p_a", "p_b", "p_c"]].to_numpy(dtype=float)
        # validation slides are judged by the model that did not see them, not by the final one
        assert np.allclose(found, expected, atol=2e-6) is same, part


def test_same_seed_same_metrics_and_resume(trained, folder):
    first, _ = trained
    events = list(run(config(folder, external="tma")))
    for name in ("metrics.json", "predictions.csv", "splits.csv", "history.csv"):
        one, other = (f / "models" / ENCODER / name for f in (first, folder))
        assert one.read_bytes() == other.read_bytes(), name
    again = list(run(config(folder, external="tma")))
    assert any("nothing to do" in text for text in texts(again))
    assert not [event for event in again if isinstance(event, EpochDone)]
    with pytest.raises(StoreMismatchError, match=r"seed: 0, asked 1.*--overwrite"):
        list(run(config(folder, external="tma", seed=1)))
    assert [e for e in run(config(folder, seed=1, overwrite=True)) if isinstance(e, EpochDone)]
    assert events


def test_training_cannot_read_the_external_cohort(trained, folder):
    """With unreadable external features, training goes through and ends up in the same weights."""
    for path in (folder / "features" / ENCODER).glob("?1[01]-*.h5"):
        path.write_bytes(b"sealed")
    events = []
    with pytest.raises(StoreError, match="not a readable HDF5 file"):
        events += run_until_error(config(folder, external="tma"), events)
    assert {e.model for e in events if isinstance(e, EpochDone)} == {"tile", "abmil", "mean"}
    epochs = [e for e in trained[1] if isinstance(e, EpochDone)]
    assert [e for e in events if isinstance(e, EpochDone)] == epochs
    assert not (folder / "models" / ENCODER).exists()


def run_until_error(settings, events):
    events.extend(run(settings))
    return events


def make_slide(slide_id, cohort="main", split="", patient=None):
    return SplitSlide(
        slide_id=slide_id, patient_id=patient or slide_id, label="a", cohort=cohort, split=split
    )


def test_the_seal_opens_once_and_for_frozen_models_only():
    slides = [make_slide("one"), make_slide("two", "tma"), make_slide("three", split="external")]
    internal, sealed = seal_external(slides, "tma")
    assert [s.slide_id for s in internal] == ["one"]
    assert len(sealed) == 2
    model = create_aggregator(ModelSpec(name="mean"), 4, 2)
    frozen = FrozenModels({"mean": model})
    with torch.no_grad():
        model.classify.bias += 1
    with pytest.raises(LearnError, match="changed after they were frozen"):
        sealed.open(frozen)
    assert {s.split for s in sealed.open(FrozenModels({"mean": model}))} == {"external"}
    with pytest.raises(LearnError, match="opened before"):
        sealed.open(FrozenModels({"mean": model}))


def test_external_cohort_is_checked():
    with pytest.raises(LearnError, match="no labelled slide is of the external cohort 'tmx'"):
        seal_external([make_slide("one")], "tmx")
    both = [make_slide("one", patient="p"), make_slide("two", "tma", patient="p")]
    with pytest.raises(LearnError, match="p: in the external cohort and among"):
        seal_external(both, "tma")
    assert seal_external([make_slide("one")], None)[1] is None


def test_dry_run_counts_and_writes_nothing(folder):
    before = sorted(folder.rglob("*"))
    rows = [
        e.row for e in run(config(folder, external="tma", dry_run=True)) if isinstance(e, Planned)
    ]
    assert sum(row["patients"] for row in rows if row["split"] != "external") == 30
    assert rows[-1] == {"split": "external", "class": "tma", "slides": 9}
    assert sorted(folder.rglob("*")) == before


def test_a_table_that_was_edited_by_hand_is_told(folder):
    """Nobody but its author can tell a correction from damage."""
    table = folder / "cohort.csv"
    begin(folder, old=False)
    write_cohort(table, read_cohort(table))
    assert "edited" not in " ".join(texts(run(config(folder, dry_run=True))))
    table.write_text(table.read_text().replace(",a0,", ",a9,"))
    told = [text for text in texts(run(config(folder, dry_run=True))) if "edited" in text]
    assert len(told) == 1
    assert "repair" in told[0]
    assert "--accept cohort.csv" in told[0]


def test_slides_without_features_are_named(folder):
    (folder / "features" / ENCODER / "a0-0.h5").unlink()
    events = list(run(config(folder, external="tma", epochs=1)))
    assert "1 of 45 slides have no features (a0-0)" in texts(events)


def test_mixed_preparation_is_refused(folder):
    write_bag(folder / "features" / ENCODER / "a1-0.h5", np.random.default_rng(0), "a", mpp=0.25)
    with pytest.raises(LearnError, match=r"'a1-0' were prepared differently: mpp is 0.5 and 0.25"):
        list(run(config(folder)))


def test_audit_blocks_and_an_accepted_risk_is_recorded(folder):
    table = pd.read_csv(folder / "cohort.csv")
    table["scanner"] = table.label.map({"a": "S1", "b": "S2", "c": "S2"})
    table.to_csv(folder / "cohort.csv", index=False)
    with pytest.raises(LearnError, match=r"scanner alone tells a from.*--accept-risk REASON"):
        list(run(config(folder)))
    assert not (folder / "models").exists()
    list(run(config(folder, epochs=1, accept_risk="a trial")))
    metrics = json.loads((folder / "models" / ENCODER / "metrics.json").read_text())
    assert metrics["notes"][-1].endswith("(accepted: a trial)")


def test_bad_requests_are_refused(folder):
    with pytest.raises(ValidationError, match="no aggregator 'abmill'; did you mean 'abmil'"):
        config(folder, aggregator=["abmill"])
    with pytest.raises(ValidationError, match="names one twice"):
        config(folder, aggregator=["mean", "mean"])
    with pytest.raises(StoreError, match="no features of this encoder"):
        list(run(config(folder, encoder="vgg16")))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no readable config.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "unreadable weights"),
        (lambda f: edit(f, schema_version=9), "schema version 1 expected"),
        (lambda f: edit(f, width=17), "was changed after it was written"),
        (lambda f: edit(f, classes=["c", "b", "a"]), "was changed after it was written"),
        (lambda f: edit(f, digests={"weights": "other"}), "not those that config.json"),
    ],
)
def test_damaged_bundles_are_refused(trained, tmp_path, damage, message):
    bundle = shutil.copytree(trained[0] / "models" / ENCODER, tmp_path / "bundle")
    damage(bundle)
    with pytest.raises(LearnError, match=message):
        load_bundle(bundle)


def edit(bundle, **changes):
    path = bundle / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_other_features_are_refused(trained):
    expected = load_bundle(trained[0] / "models" / ENCODER).config
    require_same_features(expected, ENCODER, {"encoder": ENCODER, "tile_px": 256, "mpp": 0.505})
    with pytest.raises(
        LearnError, match=r"encoder 'made.for_test', found 'vgg16'.*mpp 0.5, found 1.0"
    ):
        require_same_features(expected, "vgg16", {"encoder": "vgg16", "tile_px": 256, "mpp": 1.0})


def test_a_new_metric_is_one_entry(folder, monkeypatch):
    """Cohen's kappa, from the table to the model's figures, what is compared, and the page."""

    def kappa(sums):
        cases = sums.cases
        chance = (sums.confusion.sum(1) * sums.confusion.sum(2)).sum(1) / cases**2
        return (sums.right.sum(1) / cases - chance) / (1 - chance)

    toy = Metric(title="Cohen's kappa", of=kappa, compared=True, levels=("slide", "patient"))
    monkeypatch.setattr(METRICS, "_entries", {**METRICS, "kappa": toy})
    asked = ["--encoder=made", "--name=measured", "--epochs=8", "--bag-learning-rate=4e-3",
             "--hidden=16", "--resamples=100", "--device=cpu"]  # fmt: skip
    assert train_main([str(folder), *asked]) == 0
    written = json.loads((folder / "models" / "measured" / "metrics.json").read_text())
    for found in written["evaluations"]:
        assert ("kappa" in found["measures"]) == (found["level"] != "tile")
        if found["level"] != "tile":
            value, matrix = found["measures"]["kappa"], np.array(found["confusion"])
            truth, predicted = (
                np.repeat(at, matrix.ravel()) for at in np.indices((3, 3)).reshape(2, -1)
            )
            assert value["value"] == pytest.approx(cohen_kappa_score(truth, predicted))
            assert value["low"] < value["value"] <= value["high"]
    assert all("kappa" in row["measures"] for row in written["differences"])
    assert main([str(folder)]) == 0
    assert "Cohen&#39;s kappa" in (folder / "report" / "index.html").read_text()
