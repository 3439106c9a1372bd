"""A sample of the fault harness, and the mends of what it found; ``make faults`` does it all."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from faults import trials
from faults.corruption import Runs
from faults.scenes import Scene, Workplace, scenes
from faults.shim import build_shim
from faults.trials import Fault, attempt, one_of_each, spread

from wsi_pipeline.atomic import atomic_file, atomic_folder, write_text
from wsi_pipeline.errors import DiskError, DiskFullError, SlideError
from wsi_pipeline.hdf5 import create_hdf5
from wsi_pipeline.inventory import NAME, begin, read_inventory
from wsi_pipeline.microarray import (
    PlacedCore,
    Review,
    check_review,
    read_cores,
    read_map,
    write_reviewed,
)
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.stopping import GRACE_S, Stopped, stoppable, undisturbed


@pytest.fixture(scope="module")
def place(built: Runs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("faults")
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("no C compiler, which builds what does the faults")
    place = Workplace(folder / "place", build_shim(folder), built.slides)
    yield place
    place.close()


@pytest.fixture(scope="module")
def extract(place: Workplace) -> Scene:
    (scene,) = scenes(place, ("extract",))
    return scene


@pytest.mark.parametrize(
    ("fault", "places"),
    [(trials.FULL, 5), (trials.KILL, 4), (trials.TERM, 1), (trials.CTRL_C, 1), (trials.BROKEN, 1)],
)
def test_extract_survives(place: Workplace, extract: Scene, fault: Fault, places: int) -> None:
    """It ends in a sentence, and the same call makes all as if nothing had been."""
    operations = extract.writes if fault is trials.FULL else extract.operations
    nths = spread(operations, fault.ops, places, seed=1)
    assert len(nths) == places
    found = [attempt(place, extract, fault, nth) for nth in nths]
    assert [trial for trial in found if trial is None or trial.wrong] == []


def test_places_are_of_every_sort() -> None:
    operations = [f"write /run/a/SYN-000{n}-1.partial-x{n}" for n in range(5)] + ["open /run/b"]
    chosen = one_of_each(operations, seed=0)
    assert len(chosen) == 2
    assert chosen[1] == 6


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_hdf5_never_hears_of_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It would crash."""
    values = np.random.default_rng(0).normal(size=(500, 64))
    with create_hdf5(tmp_path / "whole.h5") as file:
        file["values"] = values
    with h5py.File(tmp_path / "whole.h5") as file:
        assert np.array_equal(file["values"][()], values)
    real = os.pwrite

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    for nth in range(1, 6):
        calls = iter([real] * (nth - 1))
        monkeypatch.setattr(os, "pwrite", lambda *a, calls=calls: next(calls, fail)(*a))
        kind = DiskFullError if number == errno.ENOSPC else DiskError
        with pytest.raises(kind, match=r"new\.h5"):
            _write_hdf5(tmp_path / "new.h5", [values] * 3)
        monkeypatch.setattr(os, "pwrite", real)
        assert not (tmp_path / "new.h5").exists()


def _write_hdf5(path: Path, parts: Sequence[np.ndarray]) -> None:
    with create_hdf5(path) as file:
        for number, part in enumerate(parts):
            file[f"values {number}"] = part


@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_a_writer_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path, kind) -> None:
    path = tmp_path / "a.json"
    dead = tmp_path / ".a.json.partial-abc.json"
    dead.write_text("half")
    with kind(path) as living, kind(path) as other:
        assert not dead.exists()
        assert living.exists()
        assert other.exists()
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_an_inventory_torn_in_its_first_line_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("x\n")
    begin(tmp_path)
    first = (tmp_path / NAME).read_bytes()
    for torn in (b"", first[:10]):
        (tmp_path / NAME).write_bytes(torn)
        begin(tmp_path)
        assert read_inventory(tmp_path).begun
        assert read_inventory(tmp_path).problems == []


def test_unsure_cores_never_stand_without_their_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table without one counts as a person's own; a person's own stands before its record."""
    (tmp_path / "map.csv").write_text("row,column,core_id,patient_id,label\nA,1,c,p,hcc\n")
    (mapped,) = read_map(tmp_path / "map.csv")
    slide, table = tmp_path / "slide.svs", tmp_path / "tma.csv"
    slide.write_bytes(b"x" * 100)
    cores = [PlacedCore(mapped=mapped, region=None)]
    unsure = Review(slide=slide_digest(slide), map=None, doubts=("it may be mirrored",))
    for review, left in ((unsure, []), (Review(**{**vars(unsure), "accepted": "now"}), cores)):
        monkeypatch.setattr("wsi_pipeline.microarray.review.write_text", _once())
        with pytest.raises(KeyboardInterrupt):
            write_reviewed(table, cores, review)
        monkeypatch.undo()
        assert (read_cores(table) if table.exists() else []) == left
    write_reviewed(table, cores, unsure)
    with pytest.raises(SlideError, match="mirrored"):
        check_review(table, slide, None, "look")


def _once() -> Callable[[Path, str], None]:
    """Write one file, and be interrupted at the next."""
    written: list[Path] = []

    def write(path: Path, text: str) -> None:
        if written:
            raise KeyboardInterrupt
        write_text(path, text)
        written.append(path)

    return write


def test_a_signal_waits_for_callbacks_and_is_not_lost_in_finalisers() -> None:
    """Who is called by C is not interrupted; what a finaliser swallows is raised again."""
    done: list[str] = []

    @undisturbed
    def callback() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(3):
            time.sleep(0.01)
        done.append("callback")

    class Finalised:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    began, before = time.monotonic(), signal.getsignal(signal.SIGTERM)
    for work, status in ((callback, 143), (Finalised, 130)):
        with pytest.raises(Stopped) as stopped:
            _do_and_wait(work)
        assert stopped.value.status == status
    assert done == ["callback"]
    assert time.monotonic() - began < GRACE_S
    assert signal.getsignal(signal.SIGTERM) is before
    for thread in threading.enumerate():
        if thread.name == "stop":
            thread.join(GRACE_S)
            assert not thread.is_alive()


def _do_and_wait(work: Callable[[], object]) -> None:
    with stoppable(lambda: None, ends=False):
        work()
        time.sleep(10)


STUCK = """
import sys, threading, time
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.stopping import stoppable
with stoppable(lambda: print("stopped.", flush=True), ends=True):
    while True:
        try:
            print("begun", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass  # as a library does that swallows whatever it meets
"""


def test_what_does_not_unwind_is_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    began = time.monotonic()
    process.terminate()
    said, _ = process.communicate(timeout=10)
    assert (process.returncode, said.splitlines()[-1]) == (143, "stopped.")
    assert time.monotonic() - began < 5
