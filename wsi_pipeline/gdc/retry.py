"""What may be tried again, when, and how often."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import tenacity

from wsi_pipeline.errors import DownloadError

RETRIED_STATUSES: Final = frozenset({408, 425, 429})  # and every 5xx
MEANINGFUL_BYTES: Final = 1 << 20  # an attempt that brought less has not moved the file


class TransientError(DownloadError):
    """Worth another try; ``retry_after_s`` is what the server asked for."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RefusedError(DownloadError):
    """The server's last word: the same request will be refused again."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class StoppedError(DownloadError):
    """The download was asked to stop."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """``attempts`` in a row without progress end it; waits double up to ``max_wait_s``."""

    attempts: int = 6
    first_wait_s: float = 0.5
    max_wait_s: float = 60.0
    retry_after_cap_s: float = 300.0

    def wait_s(self, failures: int, error: BaseException | None) -> float:
        asked = error.retry_after_s if isinstance(error, TransientError) else None
        if asked is not None:
            return min(asked, self.retry_after_cap_s)
        return min(self.max_wait_s, self.first_wait_s * 2.0 ** (failures - 1))


@dataclass(kw_only=True)
class Patience:
    """Counts one transfer's failures in a row; progress makes it forget them."""

    policy: RetryPolicy
    stop: threading.Event
    failures: int = 0
    tries: int = 0
    waiting: Callable[[str, float], None] = field(default=lambda _reason, _seconds: None)

    def attempts(self, progress: Callable[[], int]) -> Iterator[tenacity.AttemptManager]:
        """Yield attempts until one succeeds.

        Args:
            progress: Bytes brought so far; an attempt that moved it counts as the first again.

        Raises:
            TransientError: The last one, when patience is at its end.
            StoppedError: While waiting.
        """
        mark = progress()

        def after(_: tenacity.RetryCallState) -> None:
            nonlocal mark
            if progress() - mark >= MEANINGFUL_BYTES:
                self.failures = 0
            mark = progress()
            self.failures += 1

        def wait(state: tenacity.RetryCallState) -> float:
            return self.policy.wait_s(self.failures, _error(state))

        yield from tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            after=after,
            wait=wait,
            stop=lambda _: self.failures >= self.policy.attempts,
            sleep=self._sleep,
            before_sleep=lambda state: self.waiting(
                str(_error(state)), state.next_action.sleep if state.next_action else 0.0
            ),
            reraise=True,
        )

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise StoppedError("stopped while waiting for another try")


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


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
