"""The finetune verb: on images and on tile stores, killed, shared by processes, and used after."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetune_images import PATTERN, write_images, write_run
from safetensors.numpy import load_file

from wsi_pipeline.extract import main as extract
from wsi_pipeline.finetune import main
from wsi_pipeline.learn.finetune import material
from wsi_pipeline.report import main as report
from wsi_pipeline.slides import slide_digest

SMALL = ("--encoder=test_resnet", "--weights=random", "--input-px=32", "--batch=16",
         "--learning-rate=3e-3", "--resamples=100", "--layer-decay=1", "--dropout=0")  # fmt: skip
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, eight patients each, six images a patient; and four patients elsewhere."""
    root = tmp_path_factory.mktemp("images")
    write_images(root / "in", range(8))
    write_images(root / "out", range(20, 24))
    return root


def command(images: Path, run: Path, *more: str) -> list[str]:
    return [str(run), f"--images={images / 'in'}", f"--patient-pattern={PATTERN}", *SMALL,
            "--no-quarter-turns", "--no-flip", "--zoom=0.1", *more]  # fmt: skip


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def accuracy(folder: Path, split: str) -> float:
    (found,) = [
        each
        for each in read(folder, "metrics.json")["evaluations"]
        if (each["split"], each["level"]) == (split, "tile")
    ]
    return float(found["measures"]["accuracy"]["value"])


def test_it_learns_and_is_judged_on_patients_it_has_not_seen(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = command(images, tmp_path, "--epochs=14", "--patience=14", "--batch=8", "--name=m",
                    f"--external-images={images / 'out'}")  # fmt: skip
    assert main(asked) == 0
    folder = tmp_path / "finetuned" / "m"
    assert accuracy(folder, "test") > 0.9
    assert accuracy(folder, "external") > 0.9
    rows = list(csv.DictReader((folder / "splits.csv").open()))
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["patient_id"], set()).add(row["split"])
    assert all(len(found) == 1 for found in parts.values()), "no patient on two sides"
    assert {row["split"] for row in rows} == {"train", "val", "test", "external"}
    config = read(folder, "config.json")
    assert config["classes"] == ["across", "down"]
    assert config["digests"]["identity"]["splits"]
    assert config["versions"]["timm"]
    assert not list((tmp_path / "finetuned" / ".checkpoints").iterdir())
    capsys.readouterr()
    assert main(asked) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*asked, "--seed=1"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert report([str(tmp_path)]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "m (fine-tuned)" in page, "the report has the model"
    assert f"{accuracy(folder, 'external'):.3f}" in page
    (folder / "metrics.json").unlink()
    assert report([str(tmp_path)]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "not a whole fine-tuned model" in page


def test_a_killed_training_goes_on_to_the_same_weights(images: Path, tmp_path: Path) -> None:
    """Kill -9 while it trains, twice; then the weights are those of one that ran through."""
    more = ("--epochs=4", "--patience=9", "--name=m", "--tiles-per-epoch=200")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    killed = [
        sys.executable,
        "-m",
        "wsi_pipeline.finetune",
        *command(images, tmp_path / "a", *more),
    ]
    checkpoint = tmp_path / "a" / "finetuned" / ".checkpoints" / "m.pt"
    seen = 0.0
    for _ in range(2):
        process = subprocess.Popen(killed, env=environment, stdout=subprocess.DEVNULL)
        limit = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < limit:
            if checkpoint.exists() and checkpoint.stat().st_mtime > seen:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen = checkpoint.stat().st_mtime
    done = subprocess.run(killed, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "epoch 1 was finished earlier" in done.stdout
    straight = [*killed[:3], *command(images, tmp_path / "b", *more)]
    subprocess.run(straight, env=environment, capture_output=True, check=True)
    folders = [tmp_path / each / "finetuned" / "m" for each in "ab"]
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert read(folders[0], "metrics.json") == read(folders[1], "metrics.json")


def test_two_processes_do_what_one_does(images: Path, tmp_path: Path) -> None:
    """Without batch statistics, dropout and augmentation the gradients are the same."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    plain = ("--encoder=test_vit", "--input-px=160", "--epochs=1", "--zoom=0", "--stain=0",
             "--tiles-per-epoch=48", "--warmup-epochs=0", "--learning-rate=1e-3", "--name=m",
             "--optimiser=adamw")  # fmt: skip
    alone = [sys.executable, "-m", "wsi_pipeline.finetune"]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node=2", "-m", "wsi_pipeline.finetune"]  # fmt: skip
    for name, how in (("one", alone), ("two", together)):
        done = subprocess.run(
            [*how, *command(images, tmp_path / name, *plain)], env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    folders = [tmp_path / name / "finetuned" / "m" for name in ("one", "two")]
    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    for name in one:
        assert np.allclose(one[name], two[name], atol=2e-4), name
    first, second = (read(folder, "history.json")[0] for folder in folders)
    assert first["train_loss"] == pytest.approx(second["train_loss"], rel=1e-4)
    assert len(list(csv.DictReader((folders[1] / "predictions.csv").open()))) == 2 * 96


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_nearly_the_same(
    images: Path, tmp_path: Path, precision: str
) -> None:
    losses = {}
    for asked in ("fp32", precision):
        more = ("--epochs=2", f"--precision={asked}", f"--name={asked}", "--device=cpu")
        assert main(command(images, tmp_path, *more)) == 0
        history = read(tmp_path / "finetuned" / asked, "history.json")
        losses[asked] = [row["train_loss"] for row in history]
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses[precision] != losses["fp32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with tile stores: two classes, six patients each, one slide of eight tiles."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


def test_tile_stores_and_the_encoder_after(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [str(run), *SMALL, "--epochs=3", "--patience=3", "--external=tma", "--name=m",
             "--no-quarter-turns", "--no-flip"]  # fmt: skip
    assert main([*asked, "--dry-run"]) == 0
    assert "external" in capsys.readouterr().out
    assert not (run / "finetuned").exists()
    assert main(asked) == 0
    folder = run / "finetuned" / "m"
    found = {(e["split"], e["level"]) for e in read(folder, "metrics.json")["evaluations"]}
    assert {("external", level) for level in ("tile", "slide", "patient")} <= found
    weights = folder / "encoder.safetensors"
    assert extract([str(run), "--encoder=test_resnet", f"--weights={weights}"]) == 0
    (features,) = (run / "features").iterdir()
    assert features.name.startswith("test_resnet.file-")
    assert len(list(features.glob("*.h5"))) == 12


def test_folds_are_those_of_train_and_tiles_are_digested_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digested: list[Path] = []

    def counted(path: Path) -> str:
        digested.append(path)
        return slide_digest(path)

    monkeypatch.setattr(material, "slide_digest", counted)
    asked = command(images, tmp_path, "--epochs=1", "--folds=2", "--name=cv",
                    f"--external-images={images / 'out'}")  # fmt: skip
    assert main(asked) == 0
    assert len(digested) == len(set(digested)), "no picture is digested twice"
    folder = tmp_path / "finetuned" / "cv"
    pooled = [
        each
        for each in read(folder, "metrics.json")["evaluations"]
        if (each["split"], each["level"], each["model"]) == ("test", "slide", "tile_mean")
    ]
    assert [each["patients"] for each in pooled] == [16], "every patient is tested once"
    outside = {each["split"] for each in read(folder, "metrics.json")["evaluations"]}
    assert outside == {"test", "external"}
    kept = (folder / "fold-1" / "model.safetensors").stat().st_mtime_ns
    (folder / "config.json").unlink()
    shutil.rmtree(folder / "fold-2")
    assert main(asked) == 0
    assert (folder / "fold-1" / "model.safetensors").stat().st_mtime_ns == kept
    assert (folder / "fold-2" / "model.safetensors").exists()


def test_what_cannot_be_done_is_said(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [str(tmp_path), *SMALL]
    assert main([*base, f"--images={tmp_path / 'none'}"]) == 2
    assert main([*base, f"--external-images={images / 'out'}"]) == 2
    assert main([*base, f"--images={images / 'in'}", "--patient-pattern=^(X)"]) == 1
    assert "no patient in its name" in capsys.readouterr().err
    assert main([*base, f"--images={images / 'in'}", "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "each counts as a patient of its own" in said
    (tmp_path / "bad" / "a").mkdir(parents=True)
    assert main([*base, f"--images={tmp_path / 'bad'}"]) == 1
    assert "no images" in capsys.readouterr().err


def test_few_validation_patients_choose_no_epoch(images: Path, tmp_path: Path) -> None:
    assert main(command(images, tmp_path, "--epochs=3", "--patience=1", "--name=few")) == 0
    folder = tmp_path / "finetuned" / "few"
    assert "a fixed schedule: validation has" in read(folder, "metrics.json")["epoch_chosen_by"]
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [row["best"] for row in rows] == ["False", "False", "True"]
    stopped = ("--epochs=3", "--patience=1", "--name=stopped", "--schedule=stopped")
    assert main(command(images, tmp_path, *stopped)) == 0
    folder = tmp_path / "finetuned" / "stopped"
    assert "stopping after 1 epochs" in read(folder, "metrics.json")["epoch_chosen_by"]
    rows = list(csv.DictReader((folder / "history.csv").open()))
    losses = [float(row["val_loss"]) for row in rows]
    assert [row["best"] for row in rows].index("True") == 0
    assert len(rows) == 3 or losses[-1] >= min(losses[:-1])
