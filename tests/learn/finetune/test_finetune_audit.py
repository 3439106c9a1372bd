"""Fine-tuning audits what it learns from: each planted leak stops it, by the command line."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from finetune_images import PATTERN, texture, write_images, write_run

from wsi_pipeline.finetune import main
from wsi_pipeline.learn import read_splits
from wsi_pipeline.learn.finetune.material import NEAR, patterns
from wsi_pipeline.tiles import create_tiles, open_tiles

SMALL = ("--encoder=test_resnet", "--weights=random", "--input-px=32", "--epochs=1",
         "--resamples=100", "--name=m")  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "in", range(8), images=2)
    write_images(tmp_path / "out", range(20, 22), images=2)
    return tmp_path / "in"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run")
    return tmp_path / "run"


def of_images(images: Path) -> list[str]:
    return [str(images.parent / "images-run"), f"--images={images}",
            f"--external-images={images.parent / 'out'}", f"--patient-pattern={PATTERN}",
            *SMALL]  # fmt: skip


def of_run(run: Path) -> list[str]:
    return [str(run), "--external=tma", *SMALL]


def stopped(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what is said by a fine-tuning that the audit stops."""
    capsys.readouterr()
    assert main(command) == 1
    assert not (Path(command[0]) / "finetuned" / "m").exists()
    audit = json.loads((Path(command[0]) / "audit.json").read_text())
    assert not audit["passed"]
    return " ".join(capsys.readouterr().err.split())


def test_a_clean_cohort_is_trained_on_and_the_audit_kept(images: Path, run: Path) -> None:
    for command in (of_images(images), of_run(run)):
        assert main(command) == 0
        audit = json.loads((Path(command[0]) / "finetuned/m/audit.json").read_text())
        assert audit["passed"]
        assert audit["digests"].keys() == {"splits", "tiles"}
        names = {figure["name"] for figure in audit["measured"]}
        copies = "groups of copies that are of several patients"
        tiles = "tiles nearly the same in two parts"
        assert (copies if command == of_images(images) else tiles) in names


def test_one_image_of_two_patients(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(images / "down/Pd1_0.png", images / "down/Pd2_9.png")
    assert "the same file under several names" in stopped(of_images(images), capsys)


def test_an_image_and_its_turned_copy(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The usual way to a perfect test figure: augment first, split afterwards."""
    picture = cv2.imread(str(images / "down/Pd1_0.png"))
    for patient in range(2, 8):
        copy = cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE)[:, :: 1 if patient % 2 else -1]
        name = images / f"down/Pd{patient}_9.jpg"
        cv2.imwrite(str(name), copy, [cv2.IMWRITE_JPEG_QUALITY, 80])
    said = stopped(of_images(images), capsys)
    assert "images down-Pd1_0, down-Pd2_9" in said
    assert "copies of one picture" in said
    run = images.parent / "images-run"
    rows = (run / "groups.csv").read_text().split()
    assert rows[0] == "slide_id,group"
    assert {"down-Pd1_0,g0001", "down-Pd2_9,g0001", "down-Pd7_9,g0001"} <= set(rows)
    assert (run / "copies.html").read_text().count("data:image/jpeg") == 7
    # Split by its groups, every copy is on one side.
    last = images / "down"
    for patient in range(4, 8):
        (last / f"Pd{patient}_9.jpg").unlink()
    assert main(of_images(images)) == 1
    capsys.readouterr()
    assert main([*of_images(images), f"--groups={run / 'groups.csv'}"]) == 0
    splits = read_splits(run / "finetuned/m/splits.csv")
    joined = [s for s in splits if s.slide_id in {"down-Pd1_0", "down-Pd2_9", "down-Pd3_9"}]
    assert len({(s.patient_id, s.split) for s in joined}) == 1
    gone = run / "gone.csv"
    gone.write_text("slide_id,group\nnobody,g1\n")
    assert main([*of_images(images), f"--groups={gone}"]) != 0
    assert "names nobody, which the cohort has not" in capsys.readouterr().err


def test_an_external_image_among_those_trained_on(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(images.parent / "out/down/Pd20_0.png", images / "down/Pd2_9.png")
    said = stopped(of_images(images), capsys)
    assert "external-down-Pd20_0" in said
    assert "the same file" in said


def test_a_size_that_tells_the_class(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in images.glob("down/*.png"):
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (64, 64)))
    assert "by recognising the size of its picture" in stopped(of_images(images), capsys)


def test_a_stain_that_tells_the_class(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in images.glob("down/*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path)) // np.array([1, 3, 1], np.uint8))
    assert "by recognising the staining" in stopped(of_images(images), capsys)


def change(run: Path, name: str, values: list[str | None]) -> None:
    table = pd.read_csv(run / "cohort.csv")
    table[name] = values
    table.to_csv(run / "cohort.csv", index=False)


def test_a_scanner_that_tells_the_class(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(run, "scanner", ["S1" if n % 2 else "S2" for n in range(12)])
    said = stopped(of_run(run), capsys)
    assert "comes from scanner 'S" in said
    assert main([*of_run(run), "--accept-risk=one scanner a hospital"]) == 0
    folder = run / "finetuned" / "m"
    assert json.loads((folder / "audit.json").read_text())["accepted_risk"]
    assert "one scanner a hospital" in (folder / "metrics.json").read_text()


def test_a_patient_in_two_parts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["train"] * 6 + ["val", "val", "test", "test", "external", "external"]
    change(run, "split", list(parts))
    change(run, "patient_id", [f"P{0 if n == 8 else n}" for n in range(12)])
    assert "patient P0 is in more than one split" in stopped(of_run(run), capsys)
    change(run, "patient_id", [f"P{0 if n == 10 else n}" for n in range(12)])
    change(run, "cohort", ["tcga"] * 12)
    said = stopped([str(run), *SMALL, "--accept-risk=none helps"], capsys)
    assert "patient P0 is in more than one split (external and train)" in said


def test_tiles_of_another_patients_slide(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(run, "split", ["train"] * 6 + ["val", "val", "test", "test", "external", "external"])
    tiles = np.asarray(open_tiles(run / "tiles/S09.zarr").tiles[:])
    store = open_tiles(run / "tiles/S01.zarr")
    attributes, coords = dict(store.attributes), np.asarray(store.coords)
    shutil.rmtree(run / "tiles/S09.zarr")
    tiles[:3] = np.rot90(np.asarray(store.tiles[:3]), axes=(1, 2))
    with create_tiles(run / "tiles/S09.zarr", tile_px=64, capacity=8) as writer:
        writer.append(tiles, coords, {"tissue_fraction": np.ones(8, np.float32)})
        writer.commit(attributes)
    said = stopped(of_run(run), capsys)
    assert "3 tiles of slide S01 (train, patient P1) are nearly the same as tiles of" in said


def test_copies_share_a_pattern_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    tiles = np.stack([texture("down", rng, 128) for _ in range(40)])
    found = patterns(tiles)
    apart = np.linalg.norm(found[:, None] - found[None], axis=2)
    usual = np.median(apart[np.triu_indices(40, 1)])
    np.fill_diagonal(apart, 9)
    assert apart.min() > NEAR * usual
    for turns in range(4):
        turned = np.rot90(tiles, turns, axes=(1, 2))
        for copy in (turned, turned[:, ::-1]):
            paler = (copy * 0.8 + 40).astype(np.uint8)
            away = np.linalg.norm(found - patterns(np.ascontiguousarray(paler)), axis=1)
            assert np.quantile(away, 0.9) < NEAR * usual
    assert not patterns(np.full((1, 32, 32, 3), 200, np.uint8)).any()
