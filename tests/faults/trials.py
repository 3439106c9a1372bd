"""One fault at one operation of one verb: how it ends, and whether the same call mends all."""

import errno
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from faults.scenes import Scene, Workplace, names
from faults.shim import CHANGES, TAKES_SPACE, Op, What

SEED = 17
SAYS = {
    errno.ENOSPC: "the disk is full",
    errno.EIO: "the disk reports an error",
    errno.EROFS: "the disk can only be read|no files can be written|cannot be written",
    errno.EACCES: "no permission|no files can be written|cannot be written",
}
STOPPED = "stopped. What is finished is kept; the same command goes on from there."
IN_TIME_S = 5.0


@dataclass(frozen=True)
class Fault:
    """What is done, to which operations."""

    name: str
    what: What
    number: int = 0
    ops: Op = CHANGES
    lasting: bool = False


KILL = Fault("kill -9", What.KILL)
FULL = Fault("disk full", What.FAIL, errno.ENOSPC, TAKES_SPACE, lasting=True)
BROKEN = Fault("EIO", What.FAIL, errno.EIO, Op.WRITE | Op.SYNC)
READ_ONLY = Fault("read-only", What.FAIL, errno.EROFS, CHANGES & ~Op.SYNC, lasting=True)
FORBIDDEN = Fault(
    "no permission", What.FAIL, errno.EACCES, Op.CREATE | Op.RENAME | Op.REMOVE, lasting=True
)
CTRL_C = Fault("Ctrl-C", What.SIGNAL, signal.SIGINT)
TERM = Fault("SIGTERM", What.SIGNAL, signal.SIGTERM)


@dataclass(frozen=True)
class Trial:
    """One: what was done where, how it ended, and what was not as it should be."""

    fault: str
    verb: str
    where: str
    code: int
    wrong: tuple[str, ...]


def attempt(place: Workplace, scene: Scene, fault: Fault, nth: int) -> Trial | None:
    """Do a fault at an operation; None if the verb did not come so far."""
    place.begin(scene.start)
    faults = place.forks.faults
    faults.arm(place.run, fault.ops, nth, fault.what, number=fault.number, lasting=fault.lasting)
    ended = place.forks.run(scene.command)
    hit, where = faults.hit, faults.where
    faults.disarm()
    if not hit:
        return None
    wrong = [*_ending(scene, fault, ended.code, ended.said, ended.seconds)]
    if wrong:
        wrong.append(ended.said[-600:])
    wrong += _lost(place, scene)
    wrong += mended(place, scene)
    return Trial(fault.name, scene.name, where, ended.code, tuple(wrong))


def _ending(scene: Scene, fault: Fault, code: int, said: str, seconds: float) -> Iterator[str]:
    """Yield in what a verb ended otherwise than it should."""
    if "Traceback" in said or "please report it" in said:
        yield "a traceback"
    if fault.what is What.KILL:
        if code != -signal.SIGKILL:
            yield f"exit status {code} of a killed process"
    elif fault.what is What.SIGNAL:
        if code not in (128 + fault.number, scene.code):  # it may have been at its very end
            yield f"exit status {code} on signal {fault.number}"
        if code == 128 + fault.number and said.count(STOPPED) != 1:
            yield f"said {said.count(STOPPED)} times that it was stopped"
    elif code not in (1, 2, scene.code):
        yield f"exit status {code}"
    elif code != scene.code and not re.search(SAYS[fault.number], " ".join(said.split())):
        yield "does not say what the disk said"


def _lost(place: Workplace, scene: Scene) -> Iterator[str]:
    """Yield what was there, and would be in the end, and is not there until the next call."""
    if scene.start is None or scene.name == "repair":  # which removes what it makes again
        return
    for name in names(scene.start):
        inside = ".zarr/" in name and not name.endswith(".zarr/zarr.json")
        if name in scene.wanted and not inside and not (place.run / name).exists():
            yield f"{name} is lost"


def mended(place: Workplace, scene: Scene) -> Iterator[str]:
    """Call the verb again, undisturbed; yield what is not as if nothing had been."""
    again = place.forks.run(scene.command)
    if again.code != scene.code:
        yield f"the next call: exit status {again.code}: {again.said[-600:]}"
        return
    found = place.found()
    for name in sorted(found.keys() | scene.wanted.keys()):
        if name not in found:
            yield f"the next call: {name} is missing"
        elif name not in scene.wanted:
            yield f"the next call: {name} is left over"
        elif found[name] != scene.wanted[name]:
            yield f"the next call: {name} is another"
    if place.remote is not None:
        verified = place.forks.run(("verify", place.remote, "--scratch", place.root / "verified"))
    elif (place.run / "cohort.csv").exists():
        verified = place.forks.run(("verify", place.run))
    else:
        return
    if verified.code:
        yield f"verify: {verified.said[-600:]}"


KINDS = {
    "write": Op.WRITE, "pwrite": Op.WRITE, "writev": Op.WRITE, "pwritev": Op.WRITE,
    "sendfile": Op.WRITE, "copy_file_range": Op.WRITE, "ftruncate": Op.WRITE, "fsync": Op.SYNC,
    "fdatasync": Op.SYNC, "rename": Op.RENAME, "unlink": Op.REMOVE, "open": Op.CREATE,
    "fopen": Op.CREATE, "mkdir": Op.CREATE, "symlink": Op.CREATE, "link": Op.CREATE,
}  # fmt: skip


def spread(operations: Sequence[str], ops: Op, count: int, seed: int) -> list[int]:
    """Choose ``count`` of the operations of some kinds at random, evenly spread, from 1."""
    operations = [each for each in operations if KINDS[each.partition(" ")[0]] & ops]
    edges = np.linspace(0, len(operations), count + 1).astype(int).tolist()
    rng = np.random.default_rng([SEED, seed])
    places = {int(rng.integers(*pair)) + 1 for pair in pairwise(edges) if pair[0] < pair[1]}
    return sorted(places)


def one_of_each(operations: Sequence[str], seed: int) -> list[int]:
    """Choose, from 1, one operation of each sort on each sort of file, whichever of them.

    Files are of one sort that differ by slide, number and random name alone.
    """
    rng = np.random.default_rng([SEED, seed])
    places: dict[str, list[int]] = {}
    for place, operation in enumerate(operations, start=1):
        sort = re.sub(r"SYN-\d+-\d", "S", operation)
        sort = re.sub(r"partial-\w+", "partial", sort)
        sort = re.sub(r"[0-9a-f]{16,}|\d+", "N", sort)
        places.setdefault(sort, []).append(place)
    return sorted(int(rng.choice(found)) for found in places.values())
