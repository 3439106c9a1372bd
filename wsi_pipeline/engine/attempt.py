"""One slide's attempt: what is asked of a worker, how it can end, what is kept for the next."""

import ctypes
import gc
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.engine.patience import Limits, watched
from wsi_pipeline.errors import NoTissueError, UsageError, WsiError, disk_error
from wsi_pipeline.events import SlideDone, SlideFailed, SlideSkipped, SlideStarted

NO_TISSUE: Final = "no tissue"
Work = Callable[[Any], SlideDone | SlideSkipped | SlideFailed]
Made = TypeVar("Made")

_FORGETTING: Final[list[Callable[[], None]]] = []  # of this process


@dataclass(frozen=True, kw_only=True)
class SlideTask:
    """One slide's work order: ``payload`` is what the function gets and must pickle.

    Who only reads needs no ``lock``. ``limits`` are for work that gives signs of life.
    """

    slide_id: str
    lock: Path | None
    payload: Any
    limits: Limits | None = None


@dataclass(frozen=True, kw_only=True)
class Busy:
    """Another process is working on the slide."""

    slide_id: str


@dataclass(frozen=True, kw_only=True)
class Died:
    """The worker process that had the slide is gone."""

    slide_id: str


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """The slide is given up, but a thread of the process that had it hangs."""

    failed: SlideFailed


Fate = SlideDone | SlideSkipped | SlideFailed | Busy | Died


class Executor(Protocol):
    """Where the work is done. ``run`` yields ``SlideStarted`` and one fate for each task."""

    def run(self, work: Work, tasks: Iterable[SlideTask]) -> Iterator[SlideStarted | Fate]: ...


def attempt(work: Work, task: SlideTask) -> Fate | Stuck:
    """Do one slide under its lock and turn whatever happens into plain data.

    Raises:
        UsageError: As :func:`fate_of`.
    """
    try:
        with nullcontext(True) if task.lock is None else try_lock(task.lock) as held:
            if not held:
                return Busy(slide_id=task.slide_id)
            if task.limits is None:
                return work(task.payload)
            outcome = watched(work, task.payload, task.limits)
            give_memory_back()
    except Exception as error:  # noqa: BLE001 - a bug in one slide must not end the night's batch
        return fate_of(task.slide_id, error)
    if outcome.error is None:
        return cast("Fate", outcome.result)
    fate = fate_of(task.slide_id, outcome.error)
    return Stuck(failed=fate) if outcome.stuck and isinstance(fate, SlideFailed) else fate


def give_memory_back() -> None:
    """Let the system have what the slide's threads have freed; glibc keeps it, for each thread.

    Some 2 ms, where there is a function for it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def kept(make: Callable[..., Made]) -> Callable[..., Made]:
    """Have a function's last result kept for the slides of a stage; its arguments can be hashed."""
    held = lru_cache(maxsize=1)(make)
    _FORGETTING.append(held.cache_clear)
    return held


def forget() -> bool:
    """Let go of all that is :func:`kept` in this process; return whether it has taken a GPU."""
    for clear in _FORGETTING:
        clear()
    gc.collect()
    give_memory_back()
    torch: Any = sys.modules.get("torch")
    return bool(torch is not None and torch.cuda.is_initialized())


def fate_of(slide_id: str, error: Exception) -> SlideSkipped | SlideFailed:
    """Say what an error makes of its slide: no tissue, or lost; a bug is told with its place.

    Raises:
        UsageError: The request is wrong, not the slide: every other would fail for the same reason.
    """
    if isinstance(error, UsageError):
        raise error
    if isinstance(error, NoTissueError):
        return SlideSkipped(slide_id=slide_id, reason=NO_TISSUE, detail=str(error))
    told = error if isinstance(error, WsiError) else disk_error(error)
    if told is not None:
        return SlideFailed(slide_id=slide_id, error=str(told))
    where = traceback.extract_tb(error.__traceback__)[-1]
    return SlideFailed(
        slide_id=slide_id,
        error=f"unexpected {type(error).__name__}: {error} "
        f"({Path(where.filename).name}:{where.lineno}); please report it",
        traceback="".join(traceback.format_exception(error)),
    )
