"""The predict stage: the training's own figures again, drawn, exported, and refused where wrong."""

import json
import shutil

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile

from wsi_pipeline.cohort import CohortSlide, write_cohort
from wsi_pipeline.engine import NO_TISSUE
from wsi_pipeline.errors import ConfigError, LearnError
from wsi_pipeline.events import (
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    StageStarted,
)
from wsi_pipeline.features import Asked, encoder_of
from wsi_pipeline.journal import Journal
from wsi_pipeline.learn import SplitSlide, patient_cases, read_prediction
from wsi_pipeline.pipeline.predict import run
from wsi_pipeline.pipeline.train import TrainConfig
from wsi_pipeline.pipeline.train import run as train
from wsi_pipeline.predict import main as predict_main
from wsi_pipeline.train import main as train_main
from wsi_pipeline.verbs.models import PredictConfig

ENCODER = "made.for_test"
WIDTH = 8


def write_bag(path, rng, label, flipped=False, **attributes):
    """A slide whose left half shows its class; ``flipped``, it is like none of the others."""
    x, y = np.meshgrid(np.arange(8), np.arange(4))
    features = 0.3 * rng.normal(size=(32, WIDTH)).astype(np.float32) + 1
    features[x.ravel() < 4, "abc".index(label)] += 2
    features[:, ::2] *= -1 if flipped else 1
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["coords"] = np.stack([x.ravel() * 512 + 1024, y.ravel() * 512], axis=1)
        file.attrs.update(
            {"encoder": ENCODER, "tile_px": 256, "tile_px_level0": 512.0, "mpp": 0.5} | attributes
        )


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "features" / ENCODER).mkdir(parents=True)
    rng = np.random.default_rng(1)
    slides = []
    for label in "abc":
        for number in range(7):
            slide_id = f"{label}{number}"
            write_bag(folder / "features" / ENCODER / f"{slide_id}.h5", rng, label)
            slides.append(
                CohortSlide(
                    slide_id=slide_id,
                    path=f"{slide_id}.svs",
                    patient_id=f"p{slide_id}",
                    label=label,
                    cohort="main",
                )
            )
    write_cohort(folder / "cohort.csv", slides)
    quick = {
        "accept_risk": "eight features make many tiles alike",
        "epochs": 20,
        "bag_learning_rate": 2e-3,
        "hidden": 16,
        "resamples": 100,
    }
    for _ in train(TrainConfig(run=folder, encoder="made", device="cpu", **quick)):
        pass
    return folder


@pytest.fixture
def folder(template, tmp_path):
    return shutil.copytree(template, tmp_path / "run")


def predict(folder, **values):
    return list(run(PredictConfig(run=folder, **({"device": "cpu"} | values))))


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def test_predictions_are_those_the_model_was_judged_by(folder):
    events = predict(folder, geojson=False, heatmaps=False)
    assert len(of(SlideDone, events)) == 21
    ours = pd.read_csv(folder / "predictions" / ENCODER / "slides.csv")
    judged = pd.read_csv(folder / "models" / ENCODER / "predictions.csv")
    both = ours.merge(judged, on=["slide_id", "model"], suffixes=("", "_judged"))
    assert len(both) == len(judged) == len(ours)
    # validation slides are judged by a model that did not see them, and predicted by the last
    told = both[both.split != "val"]
    for column in ("p_a", "p_b", "p_c"):
        np.testing.assert_allclose(told[column], told[f"{column}_judged"], atol=2e-6)
    assert (both.split == both.split_judged).all()
    assert any("were trained on" in note.text for note in of(Note, events))


def test_patients_are_combined_as_in_evaluation(folder):
    table = pd.read_csv(folder / "cohort.csv")
    table.loc[table.slide_id.isin(["a1", "a2", "b0"]), "patient_id"] = "pa0"
    table.to_csv(folder / "cohort.csv", index=False)
    predict(folder, geojson=False, heatmaps=False)
    target = folder / "predictions" / ENCODER
    patients = pd.read_csv(target / "patients.csv").set_index(["patient_id", "label", "model"])
    assert patients.loc[("pa0", "a", "abmil")].slides == 3
    assert patients.loc[("pa0", "b", "abmil")].slides == 1
    slides = [
        SplitSlide(
            slide_id=row.slide_id, patient_id=row.patient_id, label=row.label, cohort="main",
            split="test",
        )
        for row in table.itertuples()
    ]  # fmt: skip
    for model in ("abmil", "tile_mean", "mean"):
        scores = {s.slide_id: read_prediction(target / f"{s.slide_id}.h5").slide for s in slides}
        judged = patient_cases(slides, {k: v[model] for k, v in scores.items()}, "abc")
        for patient, label, expected in zip(
            judged.patients, judged.targets, judged.probabilities, strict=True
        ):
            found = patients.loc[(patient, "abc"[label], model)]
            np.testing.assert_allclose(
                found[["p_a", "p_b", "p_c"]].astype(float), expected, atol=1e-6
            )


def test_heatmaps_of_every_class_are_drawn_on_request_and_do_not_outlive_it(folder):
    table = pd.read_csv(folder / "cohort.csv")
    table[table.slide_id.isin(["a0", "b0"])].to_csv(folder / "cohort.csv", index=False)
    others = [folder / "heatmaps" / f"{ENCODER}-tiles-{k}-{name}" for k, name in enumerate("abc")]
    predict(folder)
    assert not any(other.exists() for other in others)
    assert of(SlideFailed, predict(folder, heatmap_classes="all"))  # drawn otherwise before
    assert len(of(SlideDone, predict(folder, heatmap_classes="all", overwrite=True))) == 2
    pictures = [cv2.imread(str(other / "b0.png")) for other in others]
    shown = [json.loads((other / "b0.json").read_text())["what"] for other in others]
    assert shown == [f"tile probability of {name}" for name in "abc"]
    plain = cv2.imread(str(folder / "heatmaps" / f"{ENCODER}-tiles" / "b0.png"))
    assert np.array_equal(pictures[1], plain)
    assert not np.array_equal(pictures[0], plain)
    assert all((other / "b0.ome.tif").exists() for other in others)
    assert len(of(SlideSkipped, predict(folder, heatmap_classes="all"))) == 2
    predict(folder, overwrite=True)
    assert not any(list(other.iterdir()) for other in others)


def test_heatmaps_and_geojson_show_where_the_class_is(folder):
    predict(folder)
    slide = read_prediction(folder / "predictions" / ENCODER / "b0.h5")
    left = slide.coords[:, 0] < 1024 + 4 * 512
    assert slide.tiles[left, 1].mean() > slide.tiles[~left, 1].mean() + 0.2
    assert slide.attention["abmil"].sum() == pytest.approx(1, abs=1e-4)
    for kind in ("attention", "tiles"):
        picture = folder / "heatmaps" / f"{ENCODER}-{kind}" / "b0.png"
        assert cv2.imread(str(picture)).std() > 10
        legend = json.loads(picture.with_suffix(".json").read_text())
        assert legend["low"] == 0
        with tifffile.TiffFile(picture.with_suffix(".ome.tif")) as file:
            shown = (file.asarray() != 255).any(axis=2)
            assert file.is_ome
        numbers = tifffile.imread(picture.with_name("b0.values.ome.tif"))
        assert np.array_equal(np.isfinite(numbers), shown)
        if kind == "tiles":
            assert set(np.unique(numbers[shown])) == set(slide.tiles[:, 1])
        # white where there is no tile; the slide's size is not told, so its tiles end it
        assert shown[:, 1024 // 32 :].all()
        assert not shown[:, : 1024 // 32].any()
    text = (folder / "predictions" / ENCODER / "b0.geojson").read_text()
    found = json.loads(text)["features"]
    assert len(found) == 32
    corner = found[5]["geometry"]["coordinates"][0]
    assert corner[0] == slide.coords[5].tolist()
    assert corner[2] == (slide.coords[5] + 512).tolist()
    named = found[5]["properties"]["measurements"]
    assert named["p(b)"] == pytest.approx(slide.tiles[5, 1], abs=1e-6)
    assert named["attention abmil"] == pytest.approx(32 * slide.attention["abmil"][5], abs=1e-6)


def test_finished_slides_are_not_redone(folder):
    predict(folder, geojson=False, heatmaps=False)
    before = (folder / "predictions" / ENCODER / "slides.csv").read_bytes()
    again = predict(folder, geojson=False, heatmaps=False)
    assert {event.reason for event in of(SlideSkipped, again)} == {"predicted earlier"}
    assert (folder / "predictions" / ENCODER / "slides.csv").read_bytes() == before
    rng = np.random.default_rng(9)
    write_bag(folder / "features" / ENCODER / "a0.h5", rng, "a")
    changed = predict(folder, geojson=False, heatmaps=False)
    assert [event.slide_id for event in of(SlideFailed, changed)] == ["a0"]
    assert "--overwrite" in of(SlideFailed, changed)[0].error
    redone = predict(folder, geojson=False, heatmaps=False, overwrite=True)
    assert [event.slide_id for event in of(SlideDone, redone)] == ["a0"]


def test_other_preparation_costs_the_slide_alone(folder):
    rng = np.random.default_rng(2)
    stores = folder / "features" / ENCODER
    write_bag(stores / "a0.h5", rng, "a", mpp=0.25)
    write_bag(stores / "a1.h5", rng, "a", tile_px=224)
    (stores / "a2.h5").write_bytes(b"not HDF5")
    (stores / "a3.h5").unlink()
    write_bag(stores / "a4.h5", rng, "a", flipped=True)
    events = predict(folder, geojson=False, heatmaps=False)
    errors = {event.slide_id: event.error for event in of(SlideFailed, events)}
    assert errors.keys() == {"a0", "a1", "a2", "a3"}
    assert "mpp 0.5, found 0.25" in errors["a0"]
    assert "tile_px 256, found 224" in errors["a1"]
    assert "no features of made.for_test; tile and extract it, or drop it" in errors["a3"]
    assert of(SlideSkipped, events) == []
    flags = {event.slide_id: event.flags for event in of(SlideDone, events)}
    assert flags.pop("a4") == ("unlike_training",)
    assert sum(map(bool, flags.values())) == 0
    table = pd.read_csv(folder / "predictions" / ENCODER / "slides.csv")
    assert set(table.slide_id) == flags.keys() | {"a4"}
    assert set(table[table.unlike_training == "yes"].slide_id) == {"a4"}
    assert set(table[table.novelty > table.novelty_limit].slide_id) == {"a4"}
    assert any(n.text.endswith("do not trust their scores: a4") for n in of(Note, events))


def test_a_row_without_a_prediction_is_a_failure_unless_that_was_chosen(folder, capsys):
    quick = ["--device", "cpu", "--no-geojson", "--no-heatmaps"]
    stores = folder / "features" / ENCODER
    for name in ("a0", "a1", "a2"):
        (stores / f"{name}.h5").unlink()
    (folder / "qc").mkdir()
    (folder / "qc" / "decisions.csv").write_text(
        "slide_id,x,y,decision,reason\na0,,,drop,wrong organ\n"
    )
    with Journal(folder / "logs" / "journal.jsonl", "tile") as journal:
        journal.take(StageStarted(stage="tile", total=2))
        journal.take(SlideSkipped(slide_id="a1", reason=NO_TISSUE, detail="all glass"))
        journal.take(SlideFailed(slide_id="a2", error="the file ends in the middle"))
    assert predict_main([str(folder), *quick]) == 1
    told = " ".join("".join(capsys.readouterr()).split())
    assert "a2" in told
    assert "has no prediction: there are no features of made.for_test" in told
    (stores / "a2.h5").write_bytes((stores / "a3.h5").read_bytes())
    assert predict_main([str(folder), *quick]) == 0
    table = pd.read_csv(folder / "predictions" / ENCODER / "slides.csv")
    assert not {"a0", "a1"} & set(table.slide_id)


def test_sets_of_classes_are_those_that_validation_calibrated(folder):
    metrics = folder / "models" / ENCODER / "metrics.json"
    stored = json.loads(metrics.read_text())
    lacks = {"slide": 0.3, "patient": 0.75}
    for row in stored["sets"]:
        row["lack"] = lacks[row["level"]]
    metrics.write_text(json.dumps(stored))
    events = predict(folder, geojson=False, heatmaps=False)
    for level, key in (("slide", "slide_id"), ("patient", "patient_id")):
        table = pd.read_csv(folder / "predictions" / ENCODER / f"{level}s.csv")
        values = table[["p_a", "p_b", "p_c"]].to_numpy()
        for row, probabilities in zip(table.itertuples(), values, strict=True):
            inside = [n for n in np.argsort(-probabilities) if 1 - probabilities[n] <= lacks[level]]
            assert row.set == ("|".join("abc"[n] for n in inside) or "none of these"), key
        assert set(table.set_coverage) == {0.9}
    table = pd.read_csv(folder / "predictions" / ENCODER / "slides.csv")
    primary = table[table.model == stored["primary"]]
    none = list(primary[primary.set == "none of these"].slide_id)
    (said,) = [n.text for n in of(Note, events) if n.text.startswith("sets of classes at 90%")]
    assert f"{len(none)} none of these" in said
    assert all(name in said for name in none[:3])
    for row in stored["sets"]:
        row["lack"] = None  # too few validation patients
    metrics.write_text(json.dumps(stored))
    events = predict(folder, geojson=False, heatmaps=False)
    assert pd.read_csv(folder / "predictions" / ENCODER / "slides.csv").set.isna().all()
    assert not [n for n in of(Note, events) if "sets of classes" in n.text]


def test_the_model_must_be_named_where_several_are(folder, tmp_path):
    shutil.copytree(folder / "models" / ENCODER, folder / "models" / "second")
    with pytest.raises(ConfigError, match=r"found made.for_test, second; choose with --model"):
        predict(folder)
    for model in ("second", folder / "models" / "second"):
        assert of(Planned, predict(folder, model=model, dry_run=True))
    with pytest.raises(ConfigError, match="no model there"):
        predict(folder, model="third")
    with pytest.raises(ConfigError, match="found none"):
        predict(tmp_path / "elsewhere")


def test_new_slides_need_a_folder_of_their_own_and_known_tiling(folder, tmp_path):
    with pytest.raises(ConfigError, match="run folder of their own"):
        predict(folder, new_slides=tmp_path)
    with pytest.raises(ConfigError, match="does not know how its slides were tiled"):
        predict(tmp_path / "new", model=folder / "models" / ENCODER, new_slides=tmp_path)


def test_another_encoder_is_refused_before_anything_is_tiled(folder, tmp_path):
    path = folder / "models" / ENCODER / "config.json"
    edit(path.parent, encoder="vgg16.random-seed0", tiling={"mpp": 1})
    new = {"model": path.parent, "new_slides": tmp_path, "encoder": "resnet50"}
    with pytest.raises(
        ConfigError,
        match=r"features of vgg16.random-seed0, .* makes those of resnet50.random-seed0",
    ):
        predict(tmp_path / "new", **new)
    assert not (tmp_path / "new").exists()


def edit(bundle, *, sealed=False, **changes):
    """Change what a model says of itself; without its seal, as models of before have none."""
    path = bundle / "config.json"
    values = json.loads(path.read_text()) | changes
    if not sealed:
        del values["digests"]["bundle"]
    path.write_text(json.dumps(values))


def test_classes_in_another_order_are_refused_and_an_older_model_is_told_of(folder):
    bundle = folder / "models" / ENCODER
    before = (bundle / "config.json").read_text()
    edit(bundle, sealed=True, classes=["c", "b", "a"])
    with pytest.raises(LearnError, match="was changed after it was written"):
        predict(folder)
    (bundle / "config.json").write_text(before)
    edit(bundle)
    events = predict(folder, geojson=False, heatmaps=False)
    assert any("cannot be checked" in note.text for note in of(Note, events))
    assert len(of(SlideDone, events)) == 21


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "evilmod:factory"},
        {"encoder": "../../features"},
        {"name": "../../../x"},
        {"name": "/tmp/x"},
        {"name": ".."},
    ],
)
def test_a_bundle_is_data_and_leads_nowhere_else(folder, tmp_path, monkeypatch, changes):
    (tmp_path / "evilmod.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    edit(folder / "models" / ENCODER, tiling={"mpp": 1}, **changes)
    with pytest.raises(LearnError, match="is no plain folder's name"):
        predict(tmp_path / "new", model=folder / "models" / ENCODER, new_slides=tmp_path)
    with pytest.raises(LearnError, match="is no plain folder's name"):
        predict(folder)
    assert not (tmp_path / "ran").exists()


OWN = """
from wsi_pipeline.learn import Aggregator, BagOutput

class First(Aggregator):
    def __init__(self, width, classes, hidden, dropout):
        super().__init__(width, classes, hidden, dropout)
        from torch import nn
        self.classify = nn.Linear(hidden, classes)

    def pool(self, embedded):
        weights = embedded.new_full((len(embedded),), 1 / len(embedded))
        return BagOutput(self.classify(embedded.mean(0)), weights)
"""


def test_an_aggregator_of_ones_own_works_from_the_command_line_and_is_never_brought_along(
    folder, tmp_path, monkeypatch, capsys
):
    (tmp_path / "ownbags.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = "ownbags:First"
    asked = [str(folder), "--encoder=made", f"--aggregator={own}", "--name=own", "--epochs=6",
             "--hidden=16", "--resamples=100", "--bag-learning-rate=2e-3", "--device=cpu",
             "--accept-risk=eight features make many tiles alike"]  # fmt: skip
    assert train_main(asked) == 0
    quick = [str(folder), "--model=own", "--no-heatmaps", "--no-geojson", "--device=cpu"]
    assert predict_main(quick) == 1
    assert f"--aggregator {own}" in " ".join(capsys.readouterr().out.split())
    assert predict_main([*quick, f"--aggregator={own}"]) == 0
    table = pd.read_csv(folder / "predictions" / "own" / "slides.csv")
    assert set(table.model) == {"tile_mean", "tile_vote", own}
    assert train_main([*asked[:2], "--aggregator=ownbags:Nothing"]) == 2
    assert "cannot import it" in capsys.readouterr().err


def test_a_cross_validated_model_predicts_by_the_mean_of_its_folds_or_by_one(folder):
    table = pd.read_csv(folder / "cohort.csv")
    table.loc[table.slide_id.str.endswith("6"), "cohort"] = "outside"
    table.to_csv(folder / "cohort.csv", index=False)
    quick = {"epochs": 4, "hidden": 16, "resamples": 100, "bag_learning_rate": 2e-3}
    risk = {"accept_risk": "eight features make many tiles alike", "device": "cpu"}
    asked = {"encoder": "made", "name": "cv", "folds": 3, "external": "outside"}
    list(train(TrainConfig(run=folder, **asked, **quick, **risk)))
    model = folder / "models" / "cv"
    plain = {"model": "cv", "geojson": False, "heatmaps": False}
    events = predict(folder, **plain)
    assert not of(SlideFailed, events)
    ours = pd.read_csv(folder / "predictions" / "cv" / "slides.csv")
    judged = pd.read_csv(model / "predictions.csv")
    judged = judged[judged.split == "external"]
    both = ours.merge(judged, on=["slide_id", "model"], suffixes=("", "_judged"))
    assert len(both) == len(judged) == 12
    for column in ("p_a", "p_b", "p_c"):
        np.testing.assert_allclose(both[column], both[f"{column}_judged"], atol=2e-6)
    assert set(ours.split) == {"train", "external"}, "each other fold was trained on them"
    found = []
    for number in (1, 2, 3):
        assert not of(SlideFailed, predict(folder, fold=number, **plain))
        of_fold = pd.read_csv(folder / "predictions" / f"cv-fold-{number}" / "slides.csv")
        assert of_fold.spread.isna().all()
        found.append(of_fold[["p_a", "p_b", "p_c"]].to_numpy())
    np.testing.assert_allclose(ours[["p_a", "p_b", "p_c"]], np.mean(found, axis=0), atol=2e-6)
    best = ours[["p_a", "p_b", "p_c"]].to_numpy().argmax(1)
    deviation = np.std(found, axis=0, ddof=1)[np.arange(len(best)), best]
    np.testing.assert_allclose(ours.spread, deviation, atol=2e-6)
    with pytest.raises(ConfigError, match=r"--fold 4: .* has fold-1, fold-2, fold-3"):
        predict(folder, fold=4, **plain)


def test_encoder_of_a_tag():
    package, random = ("package", "auto"), ("random", "auto")
    for tag, name, (weights, pooling) in (
        ("tf_efficientnet_lite0.package", "tf_efficientnet_lite0", package),
        ("vgg16.random-seed0", "vgg16", random),
        ("densenet121.ra_in1k", "densenet121.ra_in1k", ("auto", "auto")),
        ("uni.hub", "uni", ("auto", "auto")),
        ("virchow2.random-seed0-class", "virchow2", ("random", "class")),
        ("h0-mini.hub-class+mean", "h0-mini", ("auto", "class+mean")),
    ):
        assert encoder_of(tag) == Asked(name=name, weights=weights, pooling=pooling)
