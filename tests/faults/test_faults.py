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
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from faults import trials
from faults.corruption import Runs, do
from faults.scenes import SLIDES, Scene, Workplace, scenes
from faults.shim import CHANGES, Faults, What, build_shim
from faults.trials import Fault, attempt, one_of_each, spread

from wsi_pipeline.atomic import atomic_file, atomic_folder, sweep, write_text
from wsi_pipeline.errors import DiskError, DiskFullError, NoTissueError, SlideError
from wsi_pipeline.events import SlideDone, SlideFailed
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
from wsi_pipeline.slides import Slide, slide_digest
from wsi_pipeline.stopping import GRACE_S, Stopped, stoppable, undisturbed
from wsi_pipeline.tiles import cut, stores_of


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


REPLACING = """
import os, sys
from pathlib import Path
from wsi_pipeline import atomic
if sys.argv[2] == "two steps":
    atomic._exchange = lambda *_: False
for _ in sys.stdin:
    child = os.fork()
    if not child:
        with atomic.atomic_folder(Path(sys.argv[1])) as partial:
            (partial / "a").write_text("new")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("how", ["one step", "two steps"])
def test_a_folder_that_is_replaced_is_there_at_any_moment(
    place: Workplace, tmp_path: Path, how: str
) -> None:
    """Also where the file system cannot exchange names: the next reader brings the old one back."""
    folder = tmp_path / "tiles"
    path, faults = folder / "S.zarr", Faults(tmp_path / "state")
    process = subprocess.Popen(
        [sys.executable, "-c", REPLACING, path, how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "LD_PRELOAD": str(place.forks.shim), "FAULT_STATE": str(faults.path)},
    )  # fmt: skip
    lost, found, status = 0, [], -signal.SIGKILL
    while status:
        shutil.rmtree(folder, ignore_errors=True)
        path.mkdir(parents=True)
        (path / "a").write_text("old")
        faults.arm(folder, CHANGES, len(found) + 1, What.KILL)
        process.stdin.write("go\n")
        process.stdin.flush()
        status = int(process.stdout.readline())
        lost += not path.exists()
        stores_of(folder)
        found.append((path / "a").read_text())
        sweep(folder)
        assert list(folder.iterdir()) == [path], "nothing is left behind"
        with atomic_folder(path) as partial:
            (partial / "a").write_text("newer")
        assert list(folder.iterdir()) == [path]
    process.communicate()
    assert lost == (how == "two steps")
    assert found[0] == "old"
    assert found[-1] == "new"
    assert found == sorted(found, reverse=True)
    assert len(found) > 8


@pytest.mark.parametrize("verb", ["tile", "extract", "tile, without tissue"])
def test_a_slide_that_is_replaced_half_way_is_refused(
    built: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    changed, sound = SLIDES[:2]
    slides, run = tmp_path / "slides", tmp_path / "run"
    slides.mkdir()
    for name in (changed, sound):
        shutil.copy(built.slides / f"{name}.svs", slides)
    finish, require = cut.finish_tiles, cut.require_tissue

    def replaced(path: str) -> bool:
        """Another slide takes the place; the reader has the old one open."""
        if Path(path).stem != changed:
            return False
        shutil.copy(slides / f"{sound}.svs", tmp_path / "other.svs").replace(path)
        return True

    def finished(slide: Slide, *rest: object, **how: object) -> Iterator[object]:
        for number, part in enumerate(finish(slide, *rest, **how)):
            if number == 0:
                replaced(slide.info.path)
            yield part

    def required(path: str, *rest: object) -> None:
        if verb.endswith("tissue") and replaced(path):
            raise NoTissueError("none")
        require(path, *rest)

    monkeypatch.setattr(cut, "finish_tiles", finished)
    monkeypatch.setattr(cut, "require_tissue", required)
    settings = {"tile_px": 64, "max_background_fraction": 1}
    if verb == "extract":
        given = tmp_path / "tile.toml"
        given.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        told = do("extract", run=run, source="slide", cohort=slides, tile_settings=given,
                  encoder="test_resnet", weights="random", device="cpu")  # fmt: skip
    else:
        told = do("tile", cohort=slides, run=run, **settings)
    (lost,) = [event for event in told if isinstance(event, SlideFailed)]
    assert (lost.slide_id, "changed while it was read" in lost.error) == (changed, True)
    assert [event.slide_id for event in told if isinstance(event, SlideDone)] == [sound]
    made = [path.name for path in run.rglob("*") if not path.is_relative_to(run / ".locks")]
    assert not [name for name in made if changed in name]


def test_an_inventory_torn_in_its_first_line_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("x\n")
    begin(tmp_path)
    first = (tmp_path / NAME).read_bytes()
    for torn in (b"", first[:10]):
        (tmp_path / NAME).write_bytes(torn)
        begin(tmp_path)
        assert read_inventory(tmp_path).begun
        assert read_inventory(tmp_path).problems == []


def test_cores_are_as_sure_as_they_were_until_others_are_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted between record and table: no instant has a table that passes and should not."""
    (tmp_path / "map.csv").write_text(
        "row,column,core_id,patient_id,label\nA,1,c,p,hcc\nA,2,d,q,cca\n"
    )
    mapped = read_map(tmp_path / "map.csv")
    slide, table = tmp_path / "slide.svs", tmp_path / "tma.csv"
    slide.write_bytes(b"x" * 100)
    one, both = ([PlacedCore(mapped=each, region=None) for each in mapped[:n]] for n in (1, 2))
    unsure = Review(slide=slide_digest(slide), map=None, doubts=("it may be mirrored",))
    sure = replace(unsure, doubts=())

    def interrupted(cores: list[PlacedCore], review: Review) -> None:
        monkeypatch.setattr("wsi_pipeline.microarray.review.write_text", _once())
        with pytest.raises(KeyboardInterrupt):
            write_reviewed(table, cores, review)
        monkeypatch.undo()

    interrupted(one, unsure)
    assert not table.exists(), "cores are found anew"
    write_reviewed(table, one, unsure)
    for wanted in (unsure, sure, replace(unsure, accepted="now")):
        interrupted(both, wanted)
        assert read_cores(table) == one
        with pytest.raises(SlideError, match="did not come to the end"):
            check_review(table, slide, None, "look")
    write_reviewed(table, one, replace(unsure, accepted="now"))
    check_review(table, slide, None, "look")
    interrupted(both, unsure)
    assert read_cores(table) == one, "vouched for, and still so"
    check_review(table, slide, None, "look")
    write_reviewed(table, both, unsure)
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
from wsi_pipeline.slides import Slide, slide_digest
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
