"""A slide's signs of life: whoever reads, times or encodes gives them, whoever waits looks at them.

A thread that hangs in a library cannot be stopped, but one that is only slow can be told to give
up, at its next sign of life.
"""

import os
import sys
import threading
import time
from contextvars import ContextVar
from typing import Final, NoReturn

LEFT_BEHIND: Final = "left-behind"  # name of a thread that hangs


class Pulse:
    """When work on a slide last got on, and whether it is to go on; from any thread."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._error: Exception | None = None

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life; 0 before the first, such as while a model loads."""
        return 0.0 if self._last is None else time.monotonic() - self._last

    def mark(self) -> None:
        """Give a sign of life."""
        self._last = time.monotonic()

    def beat(self) -> None:
        """Give a sign of life, and ask whether to go on.

        Raises:
            Exception: The work is given up; what was said of it then.
        """
        self._last = time.monotonic()
        if self._error is not None:
            raise self._error

    def give_up(self, error: Exception) -> None:
        """Have the next :meth:`beat` raise ``error``, in whichever thread."""
        self._error = error


PULSE: Final[ContextVar[Pulse | None]] = ContextVar("pulse", default=None)
"""Of the slide in hand, where somebody looks at it."""


def pulse_in_hand() -> Pulse:
    """Return the pulse of the slide in hand; one that nobody looks at, where nobody does."""
    return PULSE.get() or Pulse()


def leave(status: int) -> NoReturn:
    """End the process with ``status``, also where a thread hangs that would be waited for."""
    if any(thread.name == LEFT_BEHIND for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
