"""How long one slide is waited for, and how much memory it may take before it is given up.

The work is done in a thread beside the one that waits. Work that is told to give up does so at its
next sign of life. Work that hangs in a library, on a share that does not answer, cannot be ended by
anything but the end of its process: its thread is left behind, and whoever asked for the work is
told that this process should not be used for more.
"""

import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from wsi_pipeline.errors import SlideError
from wsi_pipeline.pulse import LEFT_BEHIND, PULSE, Pulse
from wsi_pipeline.settings import PatienceSettings, StageConfig

LOOK_S: Final = 0.5  # between two looks at a slide
GRACE_S: Final = 10.0  # for work to end that was told to give up
CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one slide may take.

    Attributes:
        stall_s: Seconds without a sign of life; 0 waits for ever.
        memory_share: Of the memory that this machine or container has.
        processes: That share the memory.
    """

    stall_s: float
    memory_share: float
    processes: int = 1


def limits_of(config: StageConfig) -> Limits | None:
    """Return what a stage's config allows a slide; None where it says nothing of it."""
    if not isinstance(config, PatienceSettings):
        return None
    processes = max(1, config.workers)
    return Limits(stall_s=config.stall_s, memory_share=config.max_memory_share, processes=processes)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the work ended: with a result or an error; ``stuck`` if it did not, and was left."""

    result: Any = None
    error: Exception | None = None
    stuck: bool = False


def watched(work: Callable[[Any], Any], payload: Any, limits: Limits) -> Outcome:
    """Do the work and look at it meanwhile.

    Raises:
        BaseException: What ends the process, such as Ctrl-C; the work is told to give up first.
    """
    pulse, ended = Pulse(), threading.Event()
    outcome: list[Outcome] = []

    def run() -> None:
        PULSE.set(pulse)
        try:
            outcome.append(Outcome(result=work(payload)))
        except Exception as error:  # noqa: BLE001  handed over
            outcome.append(Outcome(error=error))
        except BaseException as error:  # noqa: BLE001  no result, and no silence either
            outcome.append(Outcome(error=RuntimeError(f"the work was ended: {error!r}")))
        finally:
            ended.set()

    thread = threading.Thread(target=copy_context().run, args=(run,), name="slide", daemon=True)
    thread.start()
    try:
        error = _given_up(ended, pulse, limits)
    except BaseException:
        pulse.give_up(SlideError("stopped"))
        if not ended.wait(GRACE_S / 4):
            thread.name = LEFT_BEHIND
        raise
    if ended.is_set():
        return outcome[0]
    thread.name = LEFT_BEHIND
    return Outcome(error=error, stuck=True)


def _given_up(ended: threading.Event, pulse: Pulse, limits: Limits) -> Exception | None:
    """Wait for the end of the work; return why it was given up, if it was."""
    while not ended.wait(LOOK_S):
        error = exceeded(limits, pulse.silent_s)
        if error is not None:
            pulse.give_up(error)
            ended.wait(GRACE_S)
            return error
    return None


def exceeded(limits: Limits, silent_s: float) -> SlideError | None:
    """Return why the slide in hand is to be given up, after so many seconds of silence."""
    if not limits.stall_s or silent_s <= limits.stall_s:
        return _too_large(limits)
    return SlideError(
        f"no tile was read or encoded for {limits.stall_s:g} s, and it was given up (--stall-s); "
        "see whether the disk or share that it lies on answers"
    )


def _too_large(limits: Limits) -> SlideError | None:
    """Say that memory is short, and this process holds more than its part of it."""
    total, used = memory()
    own = psutil.Process().memory_info().rss
    allowed = limits.memory_share * total
    if used <= allowed or own <= allowed / limits.processes:
        return None
    return SlideError(
        f"it took {own / 1e9:.1f} GB when {used / 1e9:.1f} of {total / 1e9:.1f} GB were in use, "
        f"more than {limits.memory_share:.0%} (--max-memory-share), and it was given up; try it "
        "with fewer --workers, or where there is more memory"
    )


def memory() -> tuple[int, int]:
    """Return the memory there is and what is in use, bytes: the container's, if it has less."""
    machine = psutil.virtual_memory()
    try:
        limit = int((CGROUP / "memory.max").read_text("utf-8"))
        held = int((CGROUP / "memory.current").read_text("utf-8"))
        lines = (CGROUP / "memory.stat").read_text("utf-8").splitlines()
        files = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):  # no cgroup, or one without a limit
        return machine.total, machine.total - machine.available
    if limit >= machine.total:
        return machine.total, machine.total - machine.available
    return limit, held - files
