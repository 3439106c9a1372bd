"""Map one function over slides and report each slide's fate as events.

A slide that raises costs itself; only a ``UsageError``, which is no slide's fault, ends it all. A
slide another process holds is tried again at the end. A slide whose worker process dies is tried
once more, alone, so that a neighbour's crash cannot take it along; if it dies again it is reported.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import chain
from typing import Final, Self

from wsi_pipeline.engine.attempt import Busy, Died, Executor, Fate, SlideTask, Stuck, Work, attempt
from wsi_pipeline.engine.pool import POOL
from wsi_pipeline.events import Event, SlideFailed, SlideStarted
from wsi_pipeline.journal import ended_a_process
from wsi_pipeline.settings import StageConfig

POLL_SECONDS: Final = 0.5
KILLED: Final = "its worker process was killed"


class InProcess:
    """One slide after the other, here, or where need be in a worker: that can be ended, may crash.

    All go there once one hangs, as that may hold what the next slide needs, such as the lock of the
    HDF5 library; and a slide goes there that an earlier call was at work on when it came to its
    end, as a decoder that crashes takes its process along.
    """

    def __init__(self, config: StageConfig) -> None:
        self._config = config
        self._stack = ExitStack()
        self._elsewhere: Executor | None = None
        self._hangs = False
        folder = config.run_folder
        journal = None if folder is None else folder.journal
        self._doubtful = ended_a_process(journal, KILLED) if journal else frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, work: Work, tasks: Iterable[SlideTask]) -> Iterator[SlideStarted | Fate]:
        waiting = iter(tasks)
        for task in waiting:
            if self._hangs:
                yield from self._in_a_worker().run(work, chain([task], waiting))
                return
            if task.slide_id in self._doubtful:
                yield from self._in_a_worker().run(work, [task])
                continue
            yield SlideStarted(slide_id=task.slide_id)
            fate = attempt(work, task)
            self._hangs = isinstance(fate, Stuck)
            yield fate.failed if isinstance(fate, Stuck) else fate

    def _in_a_worker(self) -> Executor:
        if self._elsewhere is None:
            config = self._config.model_copy(update={"workers": 1})
            self._elsewhere = self._stack.enter_context(executor_for(config))
        return self._elsewhere


def map_slides(
    work: Work,
    tasks: Sequence[SlideTask],
    config: StageConfig,
    begun: Executor | None = None,
) -> Iterator[Event]:
    """Apply ``work`` to every task's payload and yield what became of each slide.

    Args:
        work: A function that can be pickled; returns ``SlideDone`` or ``SlideSkipped``, raises a
            ``WsiError`` when the slide cannot be done.
        tasks: One a slide.
        config: Says where: ``workers`` processes, or a running ``scheduler``, or here.
        begun: Where, if that was begun before: see :func:`executor_for`.

    Raises:
        UsageError: ``work`` says that the request is wrong.
    """
    with nullcontext(begun) if begun is not None else executor_for(config) as executor:
        waiting = list(tasks)
        died: set[str] = set()
        while waiting:
            again: list[SlideTask] = []
            by_id = {task.slide_id: task for task in waiting}
            alone = [task for task in waiting if task.slide_id in died]
            together = [task for task in waiting if task.slide_id not in died]
            for batch in (together, *([task] for task in alone)):
                for fate in executor.run(work, batch):
                    if isinstance(fate, Busy):
                        again.append(by_id[fate.slide_id])
                    elif isinstance(fate, Died) and fate.slide_id not in died:
                        died.add(fate.slide_id)
                        again.append(by_id[fate.slide_id])
                    elif isinstance(fate, Died):
                        yield _failure_of(fate)
                    else:
                        yield fate
            if again and len(again) == len(waiting):
                time.sleep(POLL_SECONDS)  # every one of them is in another process's hands
            waiting = again


def _failure_of(fate: Died) -> SlideFailed:
    return SlideFailed(
        slide_id=fate.slide_id,
        error=f"{KILLED} twice (a crashing codec, or out of memory); try it with fewer --workers, "
        "or another --reader",
    )


def executor_for(config: StageConfig) -> AbstractContextManager[Executor]:
    """Begin where the work is done, to be used for several lists of slides.

    Workers of a call of several stages are lent, and stay: see :mod:`wsi_pipeline.engine.pool`.

    Raises:
        ConfigError: The scheduler does not answer or has no workers.
    """
    if config.scheduler is None and config.workers == 0:
        return InProcess(config)
    pool = POOL.get()
    if pool is not None and config.scheduler is None:
        return pool.lend(config)
    from wsi_pipeline.engine.cluster import dask_executor

    return dask_executor(config)
