"""compare --probe: what stored features tell by themselves, in seconds and without the sealed."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest

from wsi_pipeline.compare import main
from wsi_pipeline.learn import PROBES, probe_features
from wsi_pipeline.learn.splits import SplitSlide, fold_patients

WIDTH = 12


def write_features(folder: Path, slide_id: str, features: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{slide_id}.h5", "w") as file:
        file["features"] = features.astype(np.float16)
        file["coords"] = np.zeros((len(features), 2), np.int64)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """24 patients of two classes and four external ones, under two encoders: one tells, one not."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "run"
    rows = ["slide_id,path,patient_id,label,cohort,stage"]
    for number in range(28):
        label, cohort = "ab"[number % 2], "tma" if number >= 24 else "main"
        for slide in "12"[: 1 + number % 3]:
            name = f"s{number}-{slide}"
            rows.append(f"{name},{name}.svs,p{number},{label},{cohort},{number % 5}")
            tiles = rng.normal(size=(30, WIDTH))
            write_features(folder / "features" / "blind.made", name, tiles)
            told = tiles + 1.5 * (label == "b") * np.eye(WIDTH)[0] + 0.3 * rng.normal(size=WIDTH)
            write_features(folder / "features" / "seeing.made", name, told)
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    return folder


def table(run: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (run / "comparison" / "probe.csv").open() as file:
        return {(row["encoder"], row["probe"]): row for row in csv.DictReader(file)}


def test_an_encoder_that_tells_is_told_from_one_that_does_not(run: Path) -> None:
    for path in (run / "features").rglob("s2[4567]-*.h5"):
        path.write_bytes(b"sealed")  # nothing external may be read
    assert main([str(run), "--probe", "--external=tma"]) == 0
    found = table(run)
    assert {probe for _, probe in found} == set(PROBES)
    for probe in PROBES:
        seeing, blind = found["seeing.made", probe], found["blind.made", probe]
        assert float(seeing["auroc"]) > 0.9
        assert float(seeing["balanced_accuracy_low"]) > 0.6
        assert float(blind["auroc_low"]) < 0.5 < float(blind["auroc_high"])
        assert seeing["patients"] == blind["patients"] == "24"
    assert main([str(run), "--probe", "--external=tma", "--only=seeing"]) == 0
    alone = table(run)
    assert {encoder for encoder, _ in alone} == {"seeing.made"}
    assert all(found[which] == row for which, row in alone.items()), "others change nothing"


def test_the_plan_says_who_is_external(run: Path, tmp_path: Path, capsys) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'[compare]\nrun = "{run}"\nencoders = ["seeing", "blind"]\n'
        '[extract]\n[train]\nexternal = "tma"\n'
    )
    assert main([str(plan), "--probe"]) == 0
    assert table(run)["seeing.made", "linear"]["patients"] == "24"
    assert main([str(plan), "--probe", "--external=main"]) == 2
    assert "says it; change it there" in " ".join(capsys.readouterr().err.split())
    assert main([str(run)]) == 2
    assert "a run folder takes --probe" in " ".join(capsys.readouterr().err.split())


def test_slides_that_an_encoder_lacks_are_left_out_and_damage_costs_its_encoder(
    run: Path, capsys
) -> None:
    (run / "features/blind.made/s3-1.h5").unlink()
    (run / "features/blind.made/s5-1.h5").write_bytes(b"no file")
    assert main([str(run), "--probe", "--external=tma"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of 40 slides lack features of an encoder and are left out (s3-1)" in said
    assert "s5-1.h5: not a readable HDF5 file" in said
    assert {encoder for encoder, _ in table(run)} == {"seeing.made"}


def test_another_task_is_probed_by_flags(run: Path) -> None:
    task = ["--label-column=stage", "--label-map=0=early,1=early,2=late,3=late,4=late"]
    assert main([str(run), "--probe", "--external=tma", *task]) == 0
    assert float(table(run)["seeing.made", "linear"]["auroc"]) < 0.8, "the class tells no stage"


def test_no_slide_of_a_tested_patient_is_trained_on() -> None:
    """With labels at random a patient's slides, all alike, would give a leak away."""
    rng = np.random.default_rng(1)
    slides, vectors = [], []
    for patient in range(40):
        own = 5 * rng.normal(size=WIDTH)
        for number in range(3):
            slides.append(
                SplitSlide(slide_id=f"{patient}-{number}", patient_id=str(patient),
                           label="ab"[patient % 2], cohort="", split="")
            )  # fmt: skip
            vectors.append(own + 0.01 * rng.normal(size=WIDTH))
    folds = fold_patients(slides, folds=4, val_fraction=0.2, seed=0)
    for found in probe_features(np.array(vectors), folds, ("a", "b")):
        assert found.measures["auroc"].value < 0.75, found.probe
        assert found.patients == 40
