"""The script for a day with a GPU runs through on a CPU, and says what it cannot measure there."""

import re
import time

import pytest

from benchmarks.gpu import main


def test_it_runs_through_on_a_cpu_with_a_small_budget(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--device=cpu", "--models=test_resnet", "--tiles=8", "--each-s=0.1", "--budget-s=240"]
    assert main(flags) == 0
    said = capsys.readouterr().out
    assert re.search(r"test_resnet fp32, bare forward \| [\d,]+ \| 100% ", said)
    for what in ("tiles from memory", "from stores", "from a slide", "fine-tuning step of 2"):
        assert re.search(rf"{what}[^|]*\| [\d,]+ \|", said), what
    assert said.count("needs a CUDA device") == 3
    assert "out of time" not in said


def test_it_ends_in_time_and_says_what_it_had_no_time_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    budget = 8.0
    flags = ["--device=cpu", "--models=vit_large_patch16_224,test_resnet", "--each-s=0.1"]
    begun = time.monotonic()
    assert main([*flags, f"--budget-s={budget}"]) == 0
    assert time.monotonic() - begun <= 1.2 * budget
    said = capsys.readouterr().out
    assert re.search(r"vit_large_patch16_224, the rest \|.*out of time: takes \d+ s", said)
    assert re.search(r"test_resnet fp32, tiles from memory \| [\d,]+ \|", said)
