"""How many connections work at once, and how fast: both follow what the server bears.

A fixed number of threads works off one queue. Before a request each passes a gate, which lets fewer
through while the server pushes back and more again while all is well.
"""

import queue
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from wsi_pipeline.remote.retry import StoppedError

Job = Callable[[], None]
LOOK_S: Final = 0.1
REMEMBERED: Final = 32  # requests whose speed is remembered
ENOUGH: Final = 3  # of them, to say what is usual


class Connections:
    """``count`` daemon threads, first come first served; a job never raises."""

    def __init__(self, count: int, gate: "Gate") -> None:
        self._gate = gate
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._busy = 0
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"connection-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def idle(self) -> bool:
        """Whether a job given now would start at once, and the server would bear it."""
        return self._jobs.empty() and self._busy < min(len(self._threads), self._gate.limit)

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def close(self, timeout_s: float) -> None:
        """Let the threads end after the jobs queued so far."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._count(1)
            job()
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._busy += change


class Gate:
    """Lets at most ``limit`` requests through at once, ``most`` to begin with.

    Each refusal or broken connection takes one away, down to one; as many requests in a row as
    there are places, all well, give one back. So a server that serves four is soon asked by four.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = self._fewest = most
        self._under_way = 0
        self._well = 0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def fewest(self) -> int:
        """The lowest that the limit has been."""
        return self._fewest

    @contextmanager
    def held(self, stop: threading.Event) -> Iterator[None]:
        """Wait for a place and hold it.

        Raises:
            StoppedError: While waiting.
        """
        with self._changed:
            while self._under_way >= self._limit:
                if stop.is_set():
                    raise StoppedError("stopped while waiting for a connection")
                self._changed.wait(LOOK_S)
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify()

    def pushed_back(self) -> None:
        """Take one place away; called while its request still holds its own."""
        with self._changed:
            self._limit = max(1, min(self._limit, self._under_way) - 1)
            self._fewest = min(self._fewest, self._limit)
            self._well = 0

    def went_well(self) -> None:
        with self._changed:
            self._well += 1
            if self._well >= self._limit and self._limit < self._most:
                self._limit += 1
                self._well = 0
                self._changed.notify()


class Speeds:
    """Bytes per second of the requests that ended lately, to know a slow one by."""

    def __init__(self) -> None:
        self._each: deque[float] = deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()

    def add(self, count: int, seconds: float) -> None:
        with self._lock:
            self._each.append(count / max(seconds, 1e-6))

    def usual(self) -> float | None:
        """Return the median; None while too few have ended."""
        with self._lock:
            return statistics.median(self._each) if len(self._each) >= ENOUGH else None


class RateLimit:
    """Lets ``bytes_per_s`` through over all connections, at most a quarter of a second's at once.

    ``None`` lets everything through.
    """

    def __init__(self, bytes_per_s: float | None, stop: threading.Event) -> None:
        self._rate = bytes_per_s
        self._stop = stop
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        """Wait until ``count`` more bytes may be taken.

        Raises:
            StoppedError: While waiting.
        """
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now - 0.25)
            self._free_at = start + count / self._rate
            pause = self._free_at - now
        if pause > 0 and self._stop.wait(pause):
            raise StoppedError("stopped while keeping to the rate limit")
