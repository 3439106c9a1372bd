"""A fixed number of connections that work off one queue, first come first served."""

import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]


class Connections:
    """``count`` daemon threads; a job never raises."""

    def __init__(self, count: int) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"connection-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

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
            job()
