"""A limit on bytes per second that all connections share."""

import threading
import time

from wsi_pipeline.gdc.retry import StoppedError


class RateLimit:
    """Lets ``bytes_per_s`` through, at most a quarter of a second's worth at once.

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
