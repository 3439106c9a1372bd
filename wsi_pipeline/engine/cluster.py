"""The Dask executor: a cluster of our own for ``--workers``, or a scheduler that is running.

Who may speak to a Dask scheduler or worker may run code as its user. A cluster of ours therefore
speaks TLS with a certificate made for it alone, and kept in memory: other users of the machine, and
other clusters on it, are refused. It serves nothing over HTTP unless ``--dashboard`` asks.
"""

import logging
import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import Any, Final

import dask
from distributed import (
    Client,
    Future,
    KilledWorker,
    Nanny,
    Scheduler,
    Security,
    SpecCluster,
    Worker,
    as_completed,
)

from wsi_pipeline import __version__
from wsi_pipeline.engine.attempt import Died, Fate, SlideTask, Stuck, Work, attempt
from wsi_pipeline.errors import ConfigError, UsageError
from wsi_pipeline.events import SlideFailed, SlideStarted
from wsi_pipeline.settings import StageConfig

RESTART_S: Final = 60.0  # for a worker in which a thread hangs
LOOPBACK: Final = "127.0.0.1"
DASHBOARD: Final = f"{LOOPBACK}:8787"

OURS: Final = {
    # Threads may be running by now: a forked worker could inherit a held lock.
    "distributed.worker.multiprocessing-method": "spawn",
    # A slide that kills its worker is judged by map_slides, not sent from worker to worker.
    "distributed.scheduler.allowed-failures": 0,
    # One slide a worker: a crash takes no neighbour along.
    "distributed.scheduler.worker-saturation": 1.0,
    # A worker near its memory limit is full of pixels, which cannot be spilled.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # Nobody looks at a sample of the stacks, which are walked a hundred times a second.
    "distributed.worker.profile.enabled": False,
    # In the place of Dask's own. As many workers as cores are asked for: each keeps to one. And
    # without Dask's MALLOC_TRIM_THRESHOLD_, by which every array of pixels that is freed goes back
    # to the system: the next one's page faults are a quarter of a worker's time.
    "distributed.nanny.pre-spawn-environ": dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), 1
    ),
}


class OnDask:
    """Slides on the workers of a Dask cluster; as many under way as there are threads."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self, work: Work, tasks: Iterable[SlideTask]) -> Iterator[SlideStarted | Fate]:
        waiting = iter(tasks)
        owner: dict[Future, SlideTask] = {}
        under_way = as_completed()
        for task in waiting:
            yield SlideStarted(slide_id=task.slide_id)
            owner[self._submit(work, task, under_way)] = task
            if len(owner) >= self._slots():
                break
        while owner:
            future = next(under_way)
            task = owner.pop(future)
            yield self._fate_of(future, task)
            for following in waiting:
                yield SlideStarted(slide_id=following.slide_id)
                owner[self._submit(work, following, under_way)] = following
                break

    def _submit(self, work: Work, task: SlideTask, under_way: as_completed) -> Future:
        future = self._client.submit(attempt, work, task, pure=False)
        under_way.add(future)
        return future

    def _fate_of(self, future: Future, task: SlideTask) -> Fate:
        fate = _fate(future, task)
        if not isinstance(fate, Stuck):
            return fate
        workers = [worker for held in self._client.who_has([future]).values() for worker in held]
        with suppress(ValueError):  # a worker without a nanny, of a cluster that is not ours
            self._client.restart_workers(workers, timeout=RESTART_S, raise_for_error=False)
        return fate.failed

    def _slots(self) -> int:
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))


class QuietScheduler(Scheduler):  # type: ignore[misc]
    """A scheduler that serves nothing over HTTP, which Dask's does even without a dashboard."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Open no port."""


class QuietWorker(Worker):  # type: ignore[misc]
    """A worker that serves nothing over HTTP."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Open no port."""


@contextmanager
def dask_executor(config: StageConfig) -> Iterator[OnDask]:
    """Yield an executor on the running ``scheduler``, or on ``workers`` processes of our own.

    Raises:
        ConfigError: The scheduler does not answer or has no workers; there is no dashboard to show.
    """
    if config.scheduler is not None:
        with _connect(config.scheduler) as client:
            yield OnDask(client)
        return
    with dask.config.set(OURS), ExitStack() as stack:
        try:
            cluster = stack.enter_context(_deaf_to_ctrl_c(config))
            yield OnDask(stack.enter_context(Client(cluster)))
        except KeyboardInterrupt:
            stack.pop_all()  # no wait for slides under way
            for worker in multiprocessing.active_children():
                worker.kill()
            raise


def _deaf_to_ctrl_c(config: StageConfig) -> SpecCluster:
    """Start a cluster of our own, whose processes do not hear Ctrl-C.

    It goes to every process of a terminal. Ours stops them; each of them would tell where it was.
    """
    resource_tracker.ensure_running()  # else a thread below starts it, and hears again
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return _cluster(config.workers, dashboard=config.dashboard)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _cluster(workers: int, *, dashboard: bool) -> SpecCluster:
    """Start a scheduler in this process and ``workers`` processes that it alone can speak to.

    Raises:
        ConfigError: A dashboard is asked for, and what draws it is not installed.
    """
    if dashboard and find_spec("bokeh") is None:
        raise ConfigError("--dashboard: Dask draws it with bokeh; `pip install bokeh`, or leave it")
    security = Security.temporary()
    common = {"host": LOOPBACK, "protocol": "tls://", "security": security}
    web = {"dashboard": dashboard, "dashboard_address": DASHBOARD if dashboard else None}
    worker = {
        "cls": Nanny,
        "options": {
            **common,
            "nthreads": 1,
            "memory_limit": 0,
            "worker_class": QuietWorker,
            "silence_logs": logging.CRITICAL,  # a death is told as that slide's fate, once
        },
    }
    return SpecCluster(
        scheduler={
            "cls": Scheduler if dashboard else QuietScheduler,
            "options": {**common, **web, "port": 0},
        },
        workers=dict.fromkeys(range(workers), worker),
        worker=worker,
        security=security,
        silence_logs=logging.CRITICAL,
    )


@contextmanager
def _connect(scheduler: str) -> Iterator[Client]:
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({error}); "
            "start one with `dask scheduler` and workers with `dask worker tcp://…`"
        ) from None
    with client:
        _check_workers(client, scheduler)
        yield client


def _check_workers(client: Client, scheduler: str) -> None:
    """Refuse a cluster that cannot do the work before any slide is sent to it."""
    try:
        versions = set(client.run(worker_version).values())
    except Exception as error:
        raise ConfigError(
            f"--scheduler {scheduler}: its workers cannot import wsi_pipeline "
            f"({type(error).__name__}); install the same version there"
        ) from error
    if not versions:
        raise ConfigError(
            f"--scheduler {scheduler}: it has no workers; start some with `dask worker {scheduler}`"
        )
    if versions != {__version__}:
        theirs = " and ".join(sorted(versions))
        raise ConfigError(
            f"--scheduler {scheduler}: its workers have wsi_pipeline {theirs}, here it is "
            f"{__version__}; install the same version there"
        )


def worker_version() -> str:
    """Return the version of this package where the call runs."""
    return __version__


def _fate(future: Future, task: SlideTask) -> Fate | Stuck:
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Died(slide_id=task.slide_id)
    if isinstance(error, UsageError):
        raise error
    if error is not None:  # the result did not come back: not unpicklable work, a broken worker
        return SlideFailed(slide_id=task.slide_id, error=f"its worker failed: {error}")
    fate: Fate | Stuck = future.result()
    return fate
