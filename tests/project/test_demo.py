"""The demo end to end by the command line, on a small cohort; a second run finds nothing to do."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wsi_pipeline.cli import main
from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.synthetic import TMA_COHORT
from wsi_pipeline.tiles import verify_tiles

ENCODER = "tf_efficientnet_lite0"
SMALL = (
    *("--patients-per-label", "4", "--side-px", "1792", "--tma-rows", "2", "--tma-columns", "3"),
    *("--encoder", ENCODER, "--include-broken"),
)


def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wsi_pipeline.demo", str(folder), *SMALL],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    done = demo(folder)
    # The truncated slide fails, is named, and costs nothing else.
    assert done.returncode == 1, done.stdout + done.stderr
    return folder, done.stdout


def test_one_broken_slide_is_reported_and_costs_nothing_else(finished: tuple[Path, str]) -> None:
    folder, out = finished
    failed = set(re.findall(r"^failed (\S+): ", out, re.MULTILINE))
    assert len(failed) == 1
    slides = {slide.slide_id for slide in read_cohort(folder / "run" / "cohort.csv")}
    stores = {path.stem for path in (folder / "run" / "tiles").glob("*.zarr")}
    assert failed <= slides
    lost = slides - stores - failed
    said = {
        name for name in lost if re.search(rf"^{name}: skipped, no tissue: .+", out, re.MULTILINE)
    }
    assert said == lost
    assert any(name.endswith("-9") for name in lost), "the blank slide"
    assert len(stores) > 15
    assert [problem for name in stores for problem in verify(folder, name)] == []


def verify(folder: Path, slide_id: str) -> list[str]:
    return verify_tiles(folder / "run" / "tiles" / f"{slide_id}.zarr")


def test_slides_too_small_to_keep_a_tile_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["demo", str(tmp_path / "demo"), "--side-px", "1024"]
    assert main(asked) == 2
    assert "1792 or more, or --cohort-only" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "demo").exists()
    assert main([*asked, "--cohort-only", "--dry-run"]) == 0


def test_splits_keep_patients_whole_and_the_microarray_out(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    model = next((folder / "run" / "models").glob("[!.]*"))
    with (model / "splits.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    homes: dict[str, set[str]] = {}
    for row in rows:
        homes.setdefault(row["patient_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in homes.values())
    assert {next(iter(splits)) for splits in homes.values()} >= {"train", "val", "test"}
    cohort = read_cohort(folder / "run" / "cohort.csv")
    external = {slide.patient_id for slide in cohort if slide.cohort == TMA_COHORT}
    assert external
    learned = {name for name, splits in homes.items() if splits != {"external"}}
    assert not external & learned


def test_the_figures_are_written_with_their_origin(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    model = next((folder / "run" / "models").glob("[!.]*"))
    names = {path.name for path in model.iterdir()}
    assert names >= {
        "model.safetensors",
        "config.json",
        "splits.csv",
        "metrics.json",
        "predictions.csv",
    }
    config = (model / "config.json").read_text("utf-8")
    assert f"{ENCODER}.package" in config
    assert json.loads((model / "metrics.json").read_text("utf-8"))
    page = (folder / "run" / "report" / "index.html").read_text("utf-8")
    assert "Synthetic demo cohort" in page
    assert not re.search(r"""(?:src|href)=["']https?://""", page)


def test_a_second_run_finds_everything_done(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = {
        path: path.stat().st_mtime_ns
        for name in ("tiles", "features", "models")
        for path in (folder / "run" / name).rglob("*")
        if path.is_file()
    }
    again = demo(folder)
    assert again.returncode == 1
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
