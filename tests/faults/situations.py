"""What no count of operations reaches: real disks, slides that misbehave, several processes."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from faults.forks import Ended
from faults.scenes import SLIDES, Scene, Workplace, scenes
from faults.shim import Op, What
from faults.trials import IN_TIME_S, STOPPED, mended

from wsi_pipeline.events import SlideDone
from wsi_pipeline.journal import read_journal
from wsi_pipeline.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SMALL = {"tile": 400_000, "extract": 30_000, "train": 200_000}
"""Bytes that are free, and full in the middle of the verb."""


@dataclass(frozen=True)
class Outcome:
    """What was done, to what, what came of it, and whether that is as it should be."""

    fault: str
    to: str
    came: str
    right: bool


def full_disks(place: Workplace) -> Iterator[Outcome]:
    """A file system of some hundred kilobytes; then it grows, and the same call goes on."""
    for verb, room in SMALL.items():
        (scene,) = scenes(place, (verb,))
        what = ("disk full (tmpfs)", verb)
        if os.geteuid():
            yield Outcome(*what, "not tried: only root can mount one", True)
            continue
        with mounted(place, scene, room):
            ended = place.forks.run(scene.command)
            problems = _ended(ended, 1, "the disk is full")
            subprocess.run(["mount", "-o", "remount,size=200m", place.run], check=True)
            problems += mended(place, scene)
        yield _told(what, problems, "one sentence, exit 1; with room again, all is as undisturbed")


@contextmanager
def mounted(place: Workplace, scene: Scene, room: int) -> Iterator[None]:
    """Have the run folder on a file system of its own, as the scene begins."""
    place.begin(None)
    place.run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", place.run], check=True)
    try:
        if scene.start is not None:
            shutil.copytree(scene.start, place.run, dirs_exist_ok=True)
        told = os.statvfs(place.run)
        used = (told.f_blocks - told.f_bfree) * told.f_frsize
        subprocess.run(["mount", "-o", f"remount,size={used + room}", place.run], check=True)
        yield
    finally:
        subprocess.run(["umount", place.run], check=True)


def read_only_archive(place: Workplace) -> Iterator[Outcome]:
    """A finished run on a file system that can only be read."""
    if os.geteuid():
        yield Outcome("read-only mount", "verify", "not tried: only root can mount one", True)
        return
    (scene,) = scenes(place, ("report",))
    with mounted(place, scene, 50_000_000):
        subprocess.run(["mount", "-o", "remount,ro", place.run], check=True)
        verified = _ended(place.forks.run(("verify", place.run)), 0, "")
        wrote = _ended(place.forks.run(scene.command), 2, "no files can be written there")
    yield _told(("read-only mount", "verify"), verified, "all is verified, exit 0")
    yield _told(("read-only mount", "report"), wrote, "one sentence, exit 2")


def names(place: Workplace) -> Iterator[Outcome]:
    """Names of every kind in one folder of slides, a pipe and a link that leads to itself."""
    folder = place.root / "names"
    folder.mkdir()
    content = (place.slides / f"{SLIDES[0]}.svs").read_bytes()
    good = ["plain.svs", "-dash.svs", "with space.svs", "é.svs", "n" * 200 + ".svs"]
    bad = [b"two\nlines.svs", b"b\xff.svs", b"m" * 251 + b".svs"]
    twins = ["Twin.svs", "twin.svs"]
    for name in (*map(os.fsencode, (*good, *twins)), *bad):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(content)
    os.mkfifo(folder / "pipe.svs")
    (folder / "self.svs").symlink_to(folder / "self.svs")
    place.begin(None)
    more = ("--tile-px", "64", "--max-background-fraction", "1")
    ended = place.forks.run(("tile", folder, "--run", place.run, *more))
    problems = _ended(ended, 1, "")
    said = " ".join(ended.said.split())
    done = {path.stem for path in place.run.glob("tiles/*.zarr")}
    if len(done) != len(good):
        problems.append(f"cut are {sorted(done)}")
    named = (*twins, r"two\nlines.svs", r"b\xff.svs", "m" * 100, "pipe.svs", "self.svs")
    problems += [f"{name} is not named" for name in named if name not in said]
    problems += _ended(place.forks.run(place.extract), 0, "")
    problems += _ended(place.forks.run(("verify", place.run)), 0, "")
    came = (
        f"{len(done)} of {len(good)} cut (leading dash, space, accent, 200 bytes); case twins, "
        "newline, non-UTF-8, 255 bytes, FIFO and link loop each named alone, exit 1; extract and "
        "verify 0"
    )
    yield _told(("names of every kind, a FIFO", "tile"), problems, came)


def changing_slides(place: Workplace) -> Iterator[Outcome]:
    """A slide is overwritten with another while it is read."""
    folder = place.root / "changing"
    folder.mkdir()
    one, other = (place.slides / f"{name}.svs" for name in SLIDES[:2])
    slide, beside = folder / one.name, folder / other.name
    shutil.copy(other, beside)
    settings = place.root / "changing.toml"
    settings.write_text("tile_px = 64\n")
    commands = {
        "tile": ("tile", folder, "--run", place.run, "--tile-px", "64"),
        "extract": (*place.extract, "--source", "slide", "--cohort", folder, "--tile-settings",
                    settings),
    }  # fmt: skip
    for (verb, command), share in product(commands.items(), (0.2, 0.5, 0.9)):
        shutil.copy(one, slide)
        place.begin(None)
        faults = place.forks.faults
        faults.arm(slide, Op.READ)
        place.forks.run(command)
        nth = max(1, round(share * faults.count))
        place.begin(None)
        faults.arm(slide, Op.READ, nth, What.SLEEP, number=1500)

        thread = threading.Thread(target=_overwrite, args=(place, slide, other), daemon=True)
        thread.start()
        ended = place.forks.run(command)
        faults.disarm()
        thread.join(5)
        known = place.forks.run(("verify", place.run, "--slides", folder))
        problems = []
        if "Traceback" in ended.said:
            problems.append("a traceback")
        if ended.code == 0:
            problems.append(f"read of two slides, exit 0; verify {known.code}")
        made = {path.stem for room in ("tiles", "features") for path in
                (place.run / room).rglob(f"[!.]*{SUFFIX[verb]}")}  # fmt: skip
        if made != {beside.stem}:
            problems.append(f"made are {sorted(made)}")
        what = (f"slide overwritten after {share:.0%} of its reads", NAMES[verb])
        yield _told(what, problems, "it fails alone, exit 1; the other one is done")


SUFFIX = {"tile": ".zarr", "extract": ".h5"}
NAMES = {"tile": "tile", "extract": "extract --source slide"}


def _overwrite(place: Workplace, slide: Path, other: Path) -> None:
    """Overwrite a slide with another once its reader has been held up."""
    while not place.forks.faults.hit:
        time.sleep(0.01)
    slide.write_bytes(other.read_bytes())


def stalled_reads(place: Workplace) -> Iterator[Outcome]:
    """Reads of one slide take a minute each."""
    place.begin(None)
    slide = place.slides / f"{SLIDES[0]}.svs"
    place.forks.faults.arm(slide, Op.READ, 40, What.SLEEP, number=60_000, lasting=True)
    ended = place.forks.run((*place.tile("two"), "--stall-s", "3"), patience_s=50)
    place.forks.faults.disarm()
    problems = _ended(ended, 1, "no tile was read or encoded for 3 s")
    if not (place.run / "tiles" / f"{SLIDES[1]}.zarr").exists():
        problems.append("the other slide is not cut")
    came = "given up alone (--stall-s 3), the other slide done, exit 1"
    yield _told(("stalled reads", "tile"), problems, came)


def dying_workers(place: Workplace) -> Iterator[Outcome]:
    """A decoder crashes its worker; the out-of-memory killer takes it."""
    (scene,) = scenes(place, ("tile",))
    for name, number in (("segfault of a worker", signal.SIGSEGV), ("OOM kill", signal.SIGKILL)):
        place.begin(None)
        slide = place.slides / f"{SLIDES[0]}.svs"
        place.forks.faults.arm(slide, Op.READ, 40, What.SIGNAL, number=number, lasting=True)
        ended = place.forks.run((*scene.command, "--workers", "2"))
        place.forks.faults.disarm()
        problems = _ended(ended, 1, "its worker process was killed twice")
        if not (place.run / "tiles" / f"{SLIDES[1]}.zarr").exists():
            problems.append("the other slide is not cut")
        problems += mended(place, scene)
        came = "tried again alone, then named; the other slide done, exit 1; the next call does it"
        yield _told((name, "tile --workers 2"), problems, came)


def clock_back(place: Workplace) -> Iterator[Outcome]:
    """The clock goes a day back between two stages."""
    for verb in ("extract", "report"):
        (scene,) = scenes(place, (verb,))
        place.begin(scene.start)
        place.forks.faults.disarm()
        place.forks.faults.set_clock(-86_400)
        problems = [*mended(place, scene)]
        place.forks.faults.disarm()
        yield _told(("clock a day back", verb), problems, "the same as undisturbed")


def several_processes(place: Workplace) -> Iterator[Outcome]:
    """Up to eight at once do the same slides in one run folder."""
    (scene,) = scenes(place, ("audit",))  # whose run folder has six slides with features
    place.begin(scene.start)
    wanted = {
        name: digest
        for name, digest in place.found().items()
        if name.startswith(("tiles", "features"))
    }
    for count in (2, 4, 8):
        place.begin(None)
        calls = [(place.tile("six"), place.extract)] * count
        ended = place.forks.together(calls)
        problems = [f"exit status {one.code}: {one.said[-400:]}" for one in ended if one.code]
        found = {name: digest for name, digest in place.found().items() if name in wanted}
        problems += [f"{name} is another" for name in wanted if found.get(name) != wanted[name]]
        times = Counter(
            (entry.verb, entry.event.slide_id)
            for entry in read_journal(RunFolder(place.run).journal)
            if isinstance(entry.event, SlideDone)
        )
        problems += [f"{slide} was done {n} times by {verb}"
                     for (verb, slide), n in times.items() if n > 1]  # fmt: skip
        problems += _ended(place.forks.run(("verify", place.run)), 0, "")
        yield _told(
            (f"{count} processes in one run folder", "tile, extract"), problems,
            "every slide done once, the same as by one; verify 0",
        )  # fmt: skip


def stopped_workers(place: Workplace) -> Iterator[Outcome]:
    """Ctrl-C goes to all processes of a terminal, SIGTERM to one; then kill -9 to one."""
    signals = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "kill -9": signal.SIGKILL}
    for name, number in signals.items():
        for when in ("rows from this call", "started", "done in"):
            what = (f"{name} once it says {when!r}", "tile --workers 2")
            problems, seconds = _stopped(place, number, when)
            came = "its workers end too" if name == "kill -9" else f"{seconds:.1f} s, one sentence"
            yield _told(what, problems, f"{came}; the same call goes on; verify 0")


def _stopped(place: Workplace, number: signal.Signals, when: str) -> tuple[list[str], float]:
    """Stop a call with workers when it says something; return what was wrong, and the seconds."""
    place.begin(None)
    process = subprocess.Popen(
        [sys.executable, "-m", "wsi_pipeline", *place.tile("six"), "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, cwd=place.root,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    for line in process.stdout:
        if when in line:
            break
    began = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    problems = []
    if number == signal.SIGKILL:
        time.sleep(2)  # its workers see that it is gone
    elif process.returncode != 128 + number or said.count(STOPPED) != 1:
        problems.append(f"exit status {process.returncode}: {said[-600:]}")
    if seconds > IN_TIME_S:
        problems.append(f"after {seconds:.1f} s")
    if "Traceback" in said:
        problems.append(f"a traceback: {said[-1500:]}")
    problems += _ended(place.forks.run(place.tile("six")), 0, "")
    left = [path.name for path in place.run.glob("[!.]*/.*.partial*")]
    problems += [f"{name} is left over" for name in left]
    problems += _ended(place.forks.run(("verify", place.run)), 0, "")
    return problems, seconds


def _ended(ended: Ended, code: int, words: str) -> list[str]:
    """Return in what a process ended otherwise than it should."""
    problems = []
    if ended.code != code:
        problems.append(f"exit status {ended.code}: {ended.said[-600:]}")
    if "Traceback" in ended.said or "please report it" in ended.said:
        problems.append(f"a traceback: {ended.said[-600:]}")
    if words not in " ".join(ended.said.split()):
        problems.append(f"does not say {words!r}: {ended.said[-600:]}")
    return problems


def _told(what: tuple[str, str], problems: list[str], came: str) -> Outcome:
    return Outcome(*what, " ".join("; ".join(problems).split()) or came, not problems)


ALL: tuple[Callable[[Workplace], Iterator[Outcome]], ...] = (
    full_disks, read_only_archive, names, changing_slides, stalled_reads, dying_workers,
    clock_back, several_processes, stopped_workers,
)  # fmt: skip
