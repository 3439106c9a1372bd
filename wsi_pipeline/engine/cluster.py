"""The Dask executor: a cluster of our own for ``--workers``, or a scheduler that is running.

Who may speak to a Dask scheduler or worker may run code as its user. A cluster of ours therefore
speaks TLS with a certificate made for it alone, and kept in memory: other users of the machine, and
other clusters on it, are refused. It serves nothing over HTTP unless ``--dashboard`` asks.
"""

import logging
import multiprocessing
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing, contextmanager, suppress
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
    wait,
)

from wsi_pipeline import __version__
from wsi_pipeline.engine.attempt import Died, Fate, SlideTask, Stuck, Work, attempt, forget
from wsi_pipeline.errors import ClusterError, ConfigError, UsageError
from wsi_pipeline.events import SlideFailed, SlideStarted
from wsi_pipeline.settings import StageConfig

RESTART_S: Final = 60.0  # for a worker in which a thread hangs
FORGET_S: Final = 10.0  # for workers to let go of a model
GPU: Final = "GPU"  # what a worker with one is started with: dask worker --resources GPU=1
CHATTY: Final = ("distributed", "distributed.client", "tornado.application")
LOOK_S: Final = 2.0  # between two looks at who is there
PATIENCE_S: Final = 60.0  # without a worker
GO_ON: Final = (
    "what is finished is kept: start a scheduler and workers, and the same command goes on"
)
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
    """Slides on the workers of a Dask cluster; as many under way as there are places for them.

    Workers may come and go: a slide whose worker went is given to another. Where workers say that
    they have ``GPU=1``, a stage that uses one goes to them alone, a slide for each.
    """

    def __init__(self, client: Client, *, uses_gpu: bool = False) -> None:
        self._client = client
        self._uses_gpu = uses_gpu
        self._without_workers: float | None = None  # since when

    def run(self, work: Work, tasks: Iterable[SlideTask]) -> Iterator[SlideStarted | Fate]:
        """Yield as :class:`Executor` says.

        Raises:
            ClusterError: The scheduler is gone, or has had no workers for a while.
        """
        waiting = iter(tasks)
        owner: dict[Future, SlideTask] = {}
        left = True
        while left or owner:
            while left and len(owner) < self._places():
                task = next(waiting, None)
                if task is None:
                    left = False
                    break
                yield SlideStarted(slide_id=task.slide_id)
                owner[self._submit(work, task)] = task
            for future in self._ended(list(owner)):
                yield self._fate_of(future, owner.pop(future))

    def forget(self) -> bool:
        """Have all workers let go of what they keep; return whether the next stage can have them.

        Not those that have taken a GPU, or do not answer.
        """
        try:
            asked = [
                self._client.submit(forget, workers=[address], pure=False)
                for address in self._client.nthreads()
            ]
            wait(asked, timeout=FORGET_S)
            return not any(each.result() for each in asked)
        except (CancelledError, KilledWorker, OSError):  # a timeout is one, too
            return False

    def _submit(self, work: Work, task: SlideTask) -> Future:
        resources = {GPU: 1} if self._gpus() else None
        with self._connected():
            return self._client.submit(attempt, work, task, pure=False, resources=resources)

    def _ended(self, futures: Sequence[Future]) -> Collection[Future]:
        """Return those that have ended, after a while at the latest: workers may have come."""
        if not futures:
            return ()
        with self._connected():
            try:
                done: Collection[Future] = wait(
                    futures, timeout=LOOK_S, return_when="FIRST_COMPLETED"
                ).done
            except TimeoutError:
                done = ()
        if not done:
            self._require_workers()
        return done

    def _require_workers(self) -> None:
        with self._connected():
            workers = self._client.nthreads()
        if workers:
            self._without_workers = None
            return
        now = time.monotonic()
        since = self._without_workers = self._without_workers or now
        if now - since > PATIENCE_S:
            raise ClusterError(
                f"{self._address}: it has had no workers for {PATIENCE_S:.0f} s; {GO_ON}"
            )

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Say that the scheduler is gone, where it is.

        A scheduler that was started anew knows nothing of the work, which is cancelled.
        """
        gone = f"{self._address}: the scheduler is gone, or was started anew; {GO_ON}"
        if self._client.status != "running":
            raise ClusterError(gone)
        try:
            yield
        except (CancelledError, OSError):
            raise ClusterError(gone) from None

    @property
    def _address(self) -> str:
        return str(self._client.scheduler.address if self._client.scheduler else "scheduler")

    def _fate_of(self, future: Future, task: SlideTask) -> Fate:
        with self._connected():
            fate = _fate(future, task)
        if not isinstance(fate, Stuck):
            return fate
        workers = [worker for held in self._client.who_has([future]).values() for worker in held]
        with suppress(ValueError):  # a worker without a nanny, of a cluster that is not ours
            self._client.restart_workers(workers, timeout=RESTART_S, raise_for_error=False)
        return fate.failed

    def _places(self) -> int:
        """How many slides can be worked on at once; a worker that is full of others' has none."""
        with self._connected():
            threads: dict[str, int] = self._client.nthreads()
        return max(1, self._gpus() or sum(threads.values()))

    def _gpus(self) -> int:
        """How many GPUs the workers say they have, if the stage uses one."""
        if not self._uses_gpu:
            return 0
        with self._connected():
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return sum(int(worker.get("resources", {}).get(GPU, 0)) for worker in workers)


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
            yield OnDask(client, uses_gpu=config.uses_gpu)
        return
    with dask.config.set(OURS), ExitStack() as stack:
        cluster: SpecCluster | None = None
        try:
            cluster = stack.enter_context(_deaf_to_ctrl_c(config))
            # closed by whichever thread ends it; as a context manager it belongs to one
            yield OnDask(stack.enter_context(closing(Client(cluster))))
        except KeyboardInterrupt:
            stack.pop_all()  # no wait for slides under way
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks that wait for them
            for nanny in cluster.workers.values() if cluster else ():
                nanny.auto_restart = False
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
    for name in CHATTY:  # that the scheduler is gone is told once, in a sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)
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
