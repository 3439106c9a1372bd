"""A slide that stalls, also in C code, or takes too much memory costs itself and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from wsi_pipeline.engine.attempt import SlideTask, attempt
from wsi_pipeline.engine.patience import Limits, memory
from wsi_pipeline.events import SlideDone
from wsi_pipeline.journal import read_outcomes
from wsi_pipeline.run_folder import RunFolder

SLIDE = "CMU-1-Small-Region.svs"
READER = "engine.stalling:by_name"
ENCODER = ("--encoder", "test_resnet", "--weights", "random", "--device", "cpu")


def wsi(*arguments: object) -> str:
    """Run a verb, of which a slide fails; return what it said."""
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "wsi_pipeline", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=280, env=environment,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def slides(tmp_path: Path, data_dir: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("a.svs", "b-stalls.svs", "c.svs"):
        shutil.copy(data_dir / "slides" / SLIDE, folder / name)
    return folder


def fates(run: Path, stage: str) -> dict[str, str]:
    found = read_outcomes(RunFolder(run).journal)
    return {name: each.fate for (name, of), each in found.items() if of == stage}


ONE_STALLS = {"a": "done", "b-stalls": "failed", "c": "done"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_slide_that_stalls_in_c_fails_alone(tmp_path: Path, slides: Path, workers: int) -> None:
    """The process ends, too, although a thread of it still hangs."""
    run = tmp_path / "run"
    said = wsi("tile", slides, "--run", run, "--reader", READER, "--mpp-override", 0.5,
                        "--stall-s", 6, "--workers", workers)  # fmt: skip
    assert "no tile was read or encoded for 6 s" in said
    assert fates(run, "tile") == ONE_STALLS
    assert sorted(path.stem for path in (run / "tiles").glob("[!.]*")) == ["a", "c"]


def test_the_stream_of_the_encoder_goes_on_without_a_slide_that_stalls(
    tmp_path: Path, slides: Path
) -> None:
    run, how = tmp_path / "run", tmp_path / "how.toml"
    how.write_text(f"reader = {json.dumps(READER)}\nmpp_override = 0.5\n")
    said = wsi("extract", run, *ENCODER, "--source", "slide", "--cohort", slides,
                  "--tile-settings", how, "--stall-s", 6)  # fmt: skip
    assert "no tile was read or encoded for 6 s" in said
    assert fates(run, "extract") == ONE_STALLS
    assert sorted(path.stem for path in (run / "features").rglob("*.h5")) == ["a", "c"]


def test_a_slide_that_takes_too_much_memory_fails_alone(tmp_path: Path, slides: Path) -> None:
    (slides / "b-stalls.svs").rename(slides / "b-swells.svs")
    total, used = memory()
    share = 0.9e9 / total  # the process itself takes some 0.3 GB
    if used < share * total:
        pytest.skip("so little memory is in use here that none is short")
    run = tmp_path / "run"
    said = wsi("tile", slides, "--run", run, "--reader", READER, "--mpp-override", 0.5,
                  "--max-memory-share", share, "--workers", 1)  # fmt: skip
    assert "b-swells" in said
    assert "(--max-memory-share)" in said
    assert fates(run, "tile")["b-swells"] == "failed"
    assert fates(run, "tile")["a"] == "done"


def test_what_a_slide_freed_is_given_back() -> None:
    """glibc keeps it otherwise, for each of the threads that come and go with the slides."""
    kept = []

    def work(_: object) -> SlideDone:
        parts = [np.ones(12_000) for _ in range(2_000)]  # 192 MB, in pieces that are not mapped
        kept.append(parts[-1])
        return SlideDone(slide_id="S")

    limits = Limits(stall_s=0, memory_share=1)
    process = psutil.Process()
    before = process.memory_info().rss
    attempt(work, SlideTask(slide_id="S", lock=None, payload=None, limits=limits))
    assert process.memory_info().rss - before < 60e6
