"""What may be tried again, when, and how often: by file, and for the server as a whole."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from wsi_pipeline.errors import DownloadError

RETRIED_STATUSES: Final = frozenset({408, 425, 429})  # and every 5xx
CROWDED_STATUSES: Final = frozenset({429, 503})  # the server asks for fewer requests
MEANINGFUL_BYTES: Final = 1 << 20  # what brought less has not moved a file
DOWN_AFTER: Final = 20  # failures in a row, of all files together
RETRY_AFTER_SPREAD: Final = 0.1  # of what a server asked for; never earlier than that


class TransientError(DownloadError):
    """Worth another try; ``retry_after_s`` is what the server asked for.

    ``crowded``: the server refused or broke the connection, as it does when there are too many.
    """

    def __init__(
        self, message: str, retry_after_s: float | None = None, *, crowded: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.crowded = crowded


class RefusedError(DownloadError):
    """The server's last word: the same request will be refused again."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class StoppedError(DownloadError):
    """The download was asked to stop."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """``attempts`` in a row without progress end it; waits double up to ``max_wait_s``.

    ``chance`` returns numbers in [0, 1). It spreads the waits, so that clients that a server lost
    at one moment do not come back at one moment.
    """

    attempts: int = 6
    first_wait_s: float = 0.5
    max_wait_s: float = 60.0
    retry_after_cap_s: float = 300.0
    chance: Callable[[], float] = random.random

    def wait_s(self, failures: int, error: BaseException | None) -> float:
        """Return the pause after the ``failures``-th failure in a row, in seconds.

        Between half and all of the doubled wait; where the server named a time, that and up to a
        tenth more.
        """
        asked = error.retry_after_s if isinstance(error, TransientError) else None
        if asked is not None:
            return min(asked, self.retry_after_cap_s) * (1 + RETRY_AFTER_SPREAD * self.chance())
        longest = min(self.max_wait_s, self.first_wait_s * 2.0 ** (failures - 1))
        return longest * (1 + self.chance()) / 2


class Health:
    """Failures in a row of everything that is asked of a server; any success forgets them.

    The server is taken to be down when a file's patience is at its end and nothing else has come
    for :data:`DOWN_AFTER` failures either; what is under way then need not spend its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._down = False

    @property
    def is_down(self) -> bool:
        return self._down

    @property
    def in_a_row(self) -> int:
        return self._in_a_row

    def failed(self) -> None:
        with self._lock:
            self._in_a_row += 1

    def gave_up(self) -> None:
        """Take note that a file's patience is at its end."""
        with self._lock:
            self._down = self._in_a_row >= DOWN_AFTER

    def answered(self) -> None:
        with self._lock:
            self._in_a_row = 0
            self._down = False


class Patience:
    """Counts the failures in a row of one file, or of one question, over all its connections.

    A megabyte that came over any of them starts the count anew. Connections that break together
    count once: a failure is one more only if its request began after the last that was counted.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._health = health
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._counted_at = -1.0
        self._brought = 0

    def now(self) -> float:
        """Return the moment to hand to :meth:`failed` if what begins now fails."""
        return self._clock()

    def progressed(self, count: int) -> None:
        """Take note of ``count`` bytes that came."""
        with self._lock:
            self._brought += count
            if self._brought < MEANINGFUL_BYTES:
                return
            self._brought = 0
            self._failures = 0
        self._health.answered()

    def failed(self, error: TransientError, begun: float) -> float:
        """Count a failure of a request that began at ``begun``; return the pause before another.

        Raises:
            TransientError: ``error``, when patience is at its end or the server is down.
        """
        self._health.failed()
        with self._lock:
            if begun >= self._counted_at:
                self._failures += 1
                self._brought = 0
                self._counted_at = self._clock()
            failures = self._failures
        if failures >= self._policy.attempts:
            self._health.gave_up()
            raise error
        if self._health.is_down:
            raise error
        return self._policy.wait_s(failures, error)


def parse_retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for; None when it says nothing.

    Source: RFC 9110, section 10.2.3 (a number of seconds, or a date).
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
