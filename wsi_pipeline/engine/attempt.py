"""One slide's attempt: what is asked of a worker, and every way it can end."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.errors import UsageError, WsiError
from wsi_pipeline.events import SlideDone, SlideFailed, SlideSkipped, SlideStarted

Work = Callable[[Any], SlideDone | SlideSkipped]


@dataclass(frozen=True, kw_only=True)
class SlideTask:
    """One slide's work order: ``payload`` is what the function gets and must pickle."""

    slide_id: str
    lock: Path
    payload: Any


@dataclass(frozen=True, kw_only=True)
class Busy:
    """Another process is working on the slide."""

    slide_id: str


@dataclass(frozen=True, kw_only=True)
class Died:
    """The worker process that had the slide is gone."""

    slide_id: str


Fate = SlideDone | SlideSkipped | SlideFailed | Busy | Died


class Executor(Protocol):
    """Where the work is done. ``run`` yields ``SlideStarted`` and one fate for each task."""

    def run(self, work: Work, tasks: Iterable[SlideTask]) -> Iterator[SlideStarted | Fate]: ...


def attempt(work: Work, task: SlideTask) -> Fate:
    """Do one slide under its lock and turn whatever happens into plain data.

    Raises:
        UsageError: The request is wrong, not the slide: every other would fail for the same reason.
    """
    started = time.monotonic()
    try:
        with try_lock(task.lock) as held:
            if not held:
                return Busy(slide_id=task.slide_id)
            return work(task.payload)
    except UsageError:
        raise
    except WsiError as error:
        return SlideFailed(slide_id=task.slide_id, error=str(error))
    except Exception as error:  # noqa: BLE001 - a bug in one slide must not end the night's batch
        where = traceback.extract_tb(error.__traceback__)[-1]
        return SlideFailed(
            slide_id=task.slide_id,
            error=f"unexpected {type(error).__name__}: {error} "
            f"({Path(where.filename).name}:{where.lineno}, after "
            f"{time.monotonic() - started:.0f} s); please report it",
            traceback=traceback.format_exc(),
        )
