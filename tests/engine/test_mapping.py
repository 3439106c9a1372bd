"""The engine: every slide has exactly one fate, and no slide takes another along."""

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from engine.work import act

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.engine import SlideTask, is_done, map_slides
from wsi_pipeline.errors import ConfigError, StoreMismatchError
from wsi_pipeline.events import Event, SlideDone, SlideFailed, SlideSkipped, SlideStarted
from wsi_pipeline.settings import StageConfig

HOLDER = """
import sys, time, pathlib
from wsi_pipeline.atomic import try_lock
with try_lock(pathlib.Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(1.5)
"""


def run_all(plan: dict[str, str], folder: Path, workers: int) -> dict[str, Event]:
    tasks = [
        SlideTask(slide_id=name, lock=folder / "locks" / name, payload=(name, what, str(folder)))
        for name, what in plan.items()
    ]
    events = list(map_slides(act, tasks, StageConfig(workers=workers)))
    fates = [event for event in events if not isinstance(event, SlideStarted)]
    names = Counter(event.slide_id for event in fates)
    assert names == Counter(plan.keys()), "one fate a slide"
    return {event.slide_id: event for event in fates}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_slide_that_raises_costs_itself(tmp_path: Path, workers: int) -> None:
    fates = run_all(
        {"a": "ok", "b": "raise", "c": "bug", "d": "skip", "e": "ok"}, tmp_path, workers
    )
    assert fates["a"] == SlideDone(slide_id="a", counts={"tiles kept": 3})
    assert fates["b"] == SlideFailed(slide_id="b", error="b.svs: not a slide")
    assert isinstance(fates["c"], SlideFailed)
    assert "ZeroDivisionError: nobody foresaw this (work.py:" in fates["c"].error
    assert "Traceback" in fates["c"].traceback
    assert fates["d"] == SlideSkipped(slide_id="d", reason="no tissue")
    assert isinstance(fates["e"], SlideDone)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_request_is_no_slides_failure(tmp_path: Path, workers: int) -> None:
    """It ends the work at once: the slides after it are not begun."""
    with pytest.raises(ConfigError, match="no such thing"):
        run_all({"a": "ok", "b": "misuse", **dict.fromkeys("cdefg", "slow")}, tmp_path, workers)
    assert not (tmp_path / "g").exists()


def test_a_dead_worker_costs_its_slide_alone(tmp_path: Path) -> None:
    plan = {"a": "slow", "b": "die", "c": "ok", "d": "die once", "e": "slow", "f": "ok"}
    fates = run_all(plan, tmp_path, workers=2)
    assert isinstance(fates["b"], SlideFailed)
    assert "killed twice" in fates["b"].error
    assert (tmp_path / "b").read_text() == "xx"
    assert all(isinstance(fates[name], SlideDone) for name in "acdef")


def test_a_slide_that_ended_the_process_is_tried_in_another_the_next_time(tmp_path: Path) -> None:
    """Without workers a crashing decoder ends the call; the same call again costs that slide."""

    def call() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "engine.crashing", str(tmp_path), "a=ok", "b=die", "c=ok"]
        tests = Path(__file__).parents[1]
        return subprocess.run(
            command, cwd=tests, capture_output=True, text=True, check=False, timeout=120
        )

    assert call().returncode == -signal.SIGKILL
    assert not (tmp_path / "c").exists()
    for times in (1, 2):
        told = call()
        assert told.returncode == 1
        assert len((tmp_path / "b").read_text()) == 1 + 2 * times, "once there, then in workers"
        assert len((tmp_path / "c").read_text()) == times
        assert "b: failed, its worker process was killed twice" in told.stdout + told.stderr


def test_a_worker_keeps_to_one_core_and_keeps_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    fate = run_all({"a": "environment"}, tmp_path, workers=1)["a"]
    assert isinstance(fate, SlideDone)
    assert {"OMP_NUM_THREADS=1", "OPENCV_FOR_THREADS_NUM=1"} <= set(fate.flags)
    assert not any(flag.startswith("MALLOC_TRIM_THRESHOLD_") for flag in fate.flags)


def test_a_slide_in_other_hands_is_waited_for(tmp_path: Path) -> None:
    """Another process holds the lock for a moment; the slide is done after it lets go."""
    lock = tmp_path / "locks" / "a"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    fates = run_all({"a": "ok", "b": "ok"}, tmp_path, workers=0)
    assert isinstance(fates["a"], SlideDone)
    assert holder.wait() == 0


def test_a_lock_dies_with_its_owner(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import os, sys, pathlib\n"
        "from wsi_pipeline.atomic import try_lock\n"
        "with try_lock(pathlib.Path(sys.argv[1])) as held:\n"
        "    assert held; os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(lock)], check=False).returncode == -9
    with try_lock(lock) as held:
        assert held


def test_a_scheduler_that_does_not_answer_is_a_usage_error(tmp_path: Path) -> None:
    task = SlideTask(slide_id="a", lock=tmp_path / "a", payload=("a", "ok", str(tmp_path)))
    with pytest.raises(ConfigError, match="no Dask scheduler answers"):
        list(map_slides(act, [task], StageConfig(scheduler="tcp://127.0.0.1:9")))


def test_resume_compares_what_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    stored = {"config": {"mpp": 0.5, "stain": "macenko"}, "input": "d1"}
    assert not is_done(path, None, stored, overwrite=False)
    assert is_done(path, stored, {"input": "d1", "config": dict(stored["config"])}, overwrite=False)
    asked = {"config": {"mpp": 0.25, "stain": "macenko"}, "input": "d1"}
    with pytest.raises(StoreMismatchError, match=r"config\.mpp: 0\.5, asked 0\.25.*--overwrite"):
        is_done(path, stored, asked, overwrite=False)
    assert not is_done(path, stored, asked, overwrite=True)
