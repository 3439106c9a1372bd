"""The audit verb and what training makes of it: each planted leak blocks, a clean cohort passes."""

import json
import shutil

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest

from wsi_pipeline.audit import main as audit
from wsi_pipeline.learn import read_openings
from wsi_pipeline.predict import main as predict
from wsi_pipeline.report import main as report
from wsi_pipeline.train import main as train

QUICK = ("--epochs=1", "--resamples=100", "--hidden=16", "--device=cpu")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Three classes of ten patients with features and thumbnails, and an external cohort."""
    folder = tmp_path_factory.mktemp("clean") / "run"
    stores = folder / "features" / "made.for_test"
    stores.mkdir(parents=True)
    (folder / "thumbnails").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(36):
        label, patient = "abc"[number % 3], f"P{number:02}"
        name = f"S{number:02}"
        features = rng.normal(size=(12, 16)).astype(np.float32)
        features[:, number % 3] += 2
        with h5py.File(stores / f"{name}.h5", "w") as file:
            file["features"], file["coords"] = features, np.zeros((12, 2), np.int64)
            file["coords"].attrs["patch_size_level0"] = 512
            file.attrs.update({"encoder": "made.for_test", "tile_px": 256, "mpp": 0.5})
        field = cv2.GaussianBlur(rng.normal(size=(160, 160)), (0, 0), 11)
        grey = np.where(field > np.quantile(field, 0.6), 120, 245).astype(np.uint8)
        cv2.imwrite(str(folder / "thumbnails" / f"{name}.jpg"), grey)
        rows.append(
            {"slide_id": name, "path": f"{name}.svs", "patient_id": patient, "label": label,
             "cohort": "tma" if number >= 30 else "main", "site": f"site{rng.integers(4)}"}
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    return folder


@pytest.fixture
def run(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "run")


def change(run, **columns):
    table = pd.read_csv(run / "cohort.csv")
    for name, values in columns.items():
        table[name] = values(table)
    table.to_csv(run / "cohort.csv", index=False)


def of(run):
    return [str(run), "--encoder=made", "--external=tma"]


def kinds(run):
    found = json.loads((run / "audit.json").read_text())
    return {finding["kind"] for finding in found["findings"] if finding["blocking"]}, found


def test_a_clean_cohort_passes(run, capsys):
    assert audit(of(run)) == 0
    assert "nothing that must be put right" in capsys.readouterr().out
    blocking, found = kinds(run)
    assert found["passed"]
    assert not blocking
    measured = {figure["name"]: figure for figure in found["measured"]}
    assert measured["site"]["low"] < measured["site"]["threshold"]
    assert found["digests"]["splits"]
    assert not (run / "models").exists()


def given_splits(table):
    """Train, test and validation in turn, the TMA outside."""
    parts = ("train", "test", "val")
    return [
        "external" if cohort == "tma" else parts[number // 3 % 3]
        for number, cohort in enumerate(table.cohort)
    ]


def two_splits(run):
    change(run, split=given_splits)
    change(run, patient_id=lambda t: ["P00" if n == 3 else p for n, p in enumerate(t.patient_id)])
    return "patient_overlap", "patient P00 is in more than one split"


def one_slide_twice(run):
    stores = run / "features" / "made.for_test"
    shutil.copy(stores / "S03.h5", stores / "S06.h5")
    return "same_slide", "with the same features"


def one_look_twice(run):
    picture = cv2.imread(str(run / "thumbnails/S03.jpg"))
    turned = cv2.rotate(cv2.resize(picture, (120, 120)), cv2.ROTATE_90_CLOCKWISE)
    cv2.imwrite(str(run / "thumbnails/S04.jpg"), turned, [cv2.IMWRITE_JPEG_QUALITY, 60])
    return "similar_slide", "copies of one picture"


def tiles_twice(run):
    change(run, split=given_splits)
    stores = run / "features" / "made.for_test"
    with h5py.File(stores / "S00.h5") as one, h5py.File(stores / "S03.h5", "r+") as other:
        other["features"][:5] = one["features"][:5] + 1e-3
    return "similar_tiles", "nearly the same as tiles of slide"


def scanner_is_label(run):
    change(run, scanner=lambda t: t.label.map({"a": "S1", "b": "S2", "c": "S2"}))
    return "nuisance", "every a slide comes from scanner 'S1', of the others none"


def freezer_is_label(run):
    change(run, preservation=lambda t: t.label.map({"a": "FFPE", "b": "FFPE", "c": "frozen"}))
    return "nuisance", "by recognising freezing"


def resolution_is_label(run):
    for path in sorted((run / "features" / "made.for_test").glob("*.h5")):
        with h5py.File(path, "r+") as file:
            file.attrs["mpp_level0"] = 0.25 if int(path.stem[1:]) % 3 == 0 else 0.5
    return "nuisance", "median native mpp"


def a_class_too_small(run):
    change(run, label=lambda t: ["a" if n in (2, 5) else "b" for n in range(len(t))])
    return "few_patients", "class 'a' has 2 patients"


LEAKS = [two_splits, one_slide_twice, one_look_twice, tiles_twice, scanner_is_label,
         freezer_is_label, resolution_is_label, a_class_too_small]  # fmt: skip


@pytest.mark.parametrize("plant", LEAKS, ids=lambda plant: plant.__name__)
def test_each_planted_leak_blocks_audit_and_training(run, plant, capsys):
    kind, words = plant(run)
    assert audit(of(run)) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert words in said
    blocking, found = kinds(run)
    assert kind in blocking
    assert not found["passed"]
    assert train([*of(run), *QUICK]) == 1
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (run / "models").exists()


def test_an_accepted_risk_trains_and_is_recorded(run, capsys):
    scanner_is_label(run)
    assert train([*of(run), *QUICK, "--accept-risk=only one scanner was at hand"]) == 0
    bundle = run / "models" / "made.for_test"
    assert json.loads((bundle / "audit.json").read_text())["accepted_risk"]
    assert "only one scanner was at hand" in (bundle / "metrics.json").read_text()


def test_features_of_two_widths_are_refused_in_one_sentence(run, capsys):
    path = run / "features" / "made.for_test" / "S04.h5"
    with h5py.File(path, "r+") as file:
        narrow = file["features"][:, :12]
        del file["features"]
        file["features"] = narrow
    assert train([*of(run), *QUICK]) == 1
    said = capsys.readouterr().err.strip()
    assert "slides 'S00' and 'S04' were prepared differently: width is 16 and 12" in said
    assert len(said.splitlines()) == 1


def test_what_the_tested_patients_can_show_is_said_before_training(run, capsys):
    assert train([*of(run), *QUICK, "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "6 patients are tested: even without a mistake" in said
    assert "would be 0.541; 96% needs 91, and --folds would test all 30" in said


def test_each_opening_of_the_external_cohort_stands_in_the_ledger(run):
    assert train([*of(run), *QUICK]) == 0
    assert train([*of(run), *QUICK]) == 0, "nothing is trained, nothing is opened"
    assert train([*of(run), *QUICK, "--name=other", "--seed=1"]) == 0
    first, second = read_openings(run / "external_openings.jsonl")
    assert (first.cohort, first.slides, first.model) == ("tma", 6, "models/made.for_test")
    assert second.model == "models/other"
    bundle = json.loads((run / "models" / "made.for_test" / "config.json").read_text())
    assert first.weights == bundle["digests"]["weights"] != second.weights
    assert "balanced_accuracy" in first.metrics
    assert report([str(run)]) == 0
    page = (run / "report" / "index.html").read_text()
    assert "The external cohort was opened 2 times" in page
    assert first.when in page
    assert "models/other" in page


def test_cross_validation_is_nested_resumed_and_opens_the_external_cohort_once(run, capsys):
    command = [*of(run), *QUICK, "--folds=3", "--name=cv"]
    assert train(command) == 0
    folder = run / "models" / "cv"
    metrics = json.loads((folder / "metrics.json").read_text())
    pooled = [e for e in metrics["evaluations"] if (e["split"], e["level"]) == ("test", "slide")]
    assert all(e["cases"] == 30 for e in pooled), "every slide is judged once"
    outside = [e for e in metrics["evaluations"] if e["split"] == "external"]
    assert outside
    rows = pd.read_csv(folder / "predictions.csv", comment="#")
    assert set(rows[rows.split == "external"].slide_id) == {f"S{n}" for n in range(30, 36)}
    for number in (1, 2, 3):
        part = pd.read_csv(folder / f"fold-{number}" / "splits.csv", comment="#")
        assert not (part.split == "external").any()
        assert part.groupby("patient_id").split.nunique().max() == 1
    weights = folder / "fold-1" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    shutil.rmtree(folder / "fold-2")
    (folder / "config.json").unlink()
    capsys.readouterr()
    assert train(command) == 0
    assert weights.stat().st_mtime_ns == before, "a finished fold is kept"
    assert json.loads((folder / "metrics.json").read_text()) == metrics, "and the figures are same"


def test_two_tasks_are_trained_from_one_run_folder(run, capsys):
    two = [*of(run), *QUICK, "--name=two", "--label-map=a=tumour,b=tumour,c=normal"]
    assert train(two) == 0
    pair = [*of(run), *QUICK, "--name=pair", "--only-labels=a,b"]
    assert train(pair) == 0
    assert "12 slides of 'c' are left out: not asked for" in capsys.readouterr().out
    for name, classes in {"two": ["normal", "tumour"], "pair": ["a", "b"]}.items():
        metrics = json.loads((run / "models" / name / "metrics.json").read_text())
        assert metrics["classes"] == classes
        rows = pd.read_csv(run / "models" / name / "predictions.csv", comment="#")
        assert sorted(set(rows.label)) == classes
        assert {"test", "external"} <= set(rows.split)
    assert predict([str(run), "--model=two", "--no-heatmaps", "--no-geojson"]) == 0
    said = pd.read_csv(run / "predictions" / "two" / "slides.csv", comment="#")
    assert set(said.label) == {"normal", "tumour"}
    weights = run / "models" / "two" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert train(two) == 0
    assert weights.stat().st_mtime_ns == before
    assert train([*of(run), *QUICK, "--name=two"]) != 0, "another task is another model"
    assert "label_map" in capsys.readouterr().err


def test_a_model_of_before_there_were_tasks_goes_on(run):
    assert train([*of(run), *QUICK]) == 0
    path = run / "models" / "made.for_test" / "config.json"
    text = json.loads(path.read_text())
    for name in ("label_column", "label_map", "only_labels"):
        del text["digests"]["identity"]["settings"][name]
    path.write_text(json.dumps(text))
    weights = path.with_name("model.safetensors")
    before = weights.stat().st_mtime_ns
    assert train([*of(run), *QUICK]) == 0
    assert weights.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("--label-map=aa=x,b=x,c=y", "there is no label 'aa'; did you mean 'a'?"),
        ("--label-map=a=x,b=y", "does not say what c is; add c=c"),
        ("--label-map=a=x,b", "'b' is no pair"),
        ("--label-map=a=x,a=y", "label 'a' stands twice"),
        ("--only-labels=a,bb", "there is no class 'bb'; did you mean 'b'?"),
        ("--label-column=lable", "there is no column of labels 'lable'; did you mean 'label'?"),
        ("--label-column=stage", "the cohort table has nothing in it"),
    ],
)
@pytest.mark.parametrize("verb", [audit, train])
def test_a_task_that_the_table_does_not_bear_is_refused(run, verb, asked, sentence, capsys):
    assert verb([*of(run), asked]) == 2
    assert sentence in capsys.readouterr().err


def test_labels_come_from_another_column(run):
    change(run, sex=lambda table: ["female" if n % 2 else "male" for n in range(len(table))])
    assert audit([*of(run), "--label-column=sex"]) in (0, 1)
    assert json.loads((run / "audit.json").read_text())["settings"]["label_column"] == "sex"
