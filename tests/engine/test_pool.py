"""Workers that serve a call's stages one after another: the same ones, and none left behind."""

import json
import os
import subprocess
import sys
import threading
from contextvars import copy_context
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from engine import work
from engine.work import token

from wsi_pipeline.engine import SlideTask, forget, kept_workers, map_slides
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import SlideDone, SlideFailed, SlideStarted
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import StageConfig


def fates(folder: Path, workers: int, plan: dict[str, str]) -> list[SlideDone | SlideFailed]:
    """Work on some slides."""
    tasks = [
        SlideTask(slide_id=name, lock=None, payload=(name, what, str(folder)))
        for name, what in plan.items()
    ]
    events = map_slides(work.act, tasks, StageConfig(workers=workers))
    return [event for event in events if isinstance(event, SlideDone | SlideFailed)]


def who(workers: int) -> dict[int, set[str]]:
    """Return which processes did a stage's slides, and what each kept meanwhile."""
    tasks = [SlideTask(slide_id=name, lock=None, payload=(name, "", "")) for name in "abcdef"]
    found: dict[int, set[str]] = {}
    for event in map_slides(work.who, tasks, StageConfig(workers=workers)):
        if not isinstance(event, SlideStarted):
            assert isinstance(event, SlideDone)
            process, held = event.flags
            found.setdefault(int(process), set()).add(held)
    return found


def test_the_same_processes_serve_two_stages_and_keep_no_model_between() -> None:
    with kept_workers():
        first, second = who(2), who(2)
    assert len(first) == 2
    assert os.getpid() not in first
    assert first.keys() == second.keys()
    for process, held in first.items():
        assert len(held) == 1, "kept from slide to slide"
        assert not held & second[process], "not from stage to stage"
    assert not any(map(psutil.pid_exists, first)), "they end with the call"


def test_without_a_call_around_them_each_stage_has_its_own() -> None:
    assert not who(1).keys() & who(1).keys()


def test_a_stage_that_wants_another_number_of_them_has_that() -> None:
    with kept_workers():
        one, two = who(1), who(2)
        assert (len(one), len(two)) == (1, 2)
        assert not any(map(psutil.pid_exists, one))
        assert who(0).keys() == {os.getpid()}


def test_a_stage_after_one_that_lost_its_workers_is_served(tmp_path: Path) -> None:
    with kept_workers():
        (lost,) = fates(tmp_path, 1, {"x": "die"})
        assert isinstance(lost, SlideFailed)
        assert "killed twice" in lost.error
        assert len(who(1)) == 1


def test_a_stage_that_is_ended_takes_its_workers_and_what_they_do_along(tmp_path: Path) -> None:
    here = psutil.Process()
    with kept_workers():
        before = who(2)
        with pytest.raises(ConfigError, match="no such thing"):
            fates(tmp_path, 2, {"a": "ok", "b": "misuse", "c": "slow", "d": "slow"})
        assert not any(map(psutil.pid_exists, before))
        assert not who(2).keys() & before.keys()
    words = [" ".join(child.cmdline()) for child in here.children(recursive=True)]
    left = [each for each in words if "spawn_main" in each]
    assert left == []


def test_stages_that_work_at_the_same_time_have_workers_of_their_own() -> None:
    found: list[dict[int, set[str]]] = []
    with kept_workers():
        lanes = [
            threading.Thread(target=copy_context().run, args=(lambda: found.append(who(1)),))
            for _ in range(2)
        ]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    first, second = found
    assert not first.keys() & second.keys()


def test_who_has_taken_a_gpu_is_known_when_it_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    held = token("x")
    assert token("x") == held
    for taken in (True, False):
        cuda = SimpleNamespace(is_initialized=lambda taken=taken: taken)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
        assert forget() is taken
    monkeypatch.delitem(sys.modules, "torch")
    assert forget() is False
    assert token("x") != held


def test_a_study_cuts_and_encodes_in_the_same_process(tmp_path: Path, data_dir: Path) -> None:
    study, run = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(
        f"[study]\nrun = {json.dumps(str(run))}\nworkers = 1\nprofile = true\n"
        f"[tile]\ncohort = {json.dumps(str(data_dir / 'slides' / 'CMU-1-Small-Region.svs'))}\n"
        '[extract]\nencoder = "test_resnet"\nweights = "random"\ndevice = "cpu"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "wsi_pipeline.run", str(study), "--profile"],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    trace = json.loads(RunFolder(run).trace("run").read_text("utf-8"))["traceEvents"]
    places = {
        phase: {e["pid"] for e in trace if e["name"] == phase} for phase in ("fit", "forward")
    }
    assert len(places["fit"]) == 1
    assert places["fit"] == places["forward"]
