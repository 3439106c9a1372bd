"""Where a run's time goes: seconds by phase, and, where asked, every stretch of it for a trace.

The phases of a run are ``read`` (bytes from the file), ``decode``, ``resample``, ``normalise``,
``judge``, ``encode`` (tiles to bytes), ``forward`` (through the network), ``write``, ``wait`` (for
the threads that work ahead), and the smaller ones ``open``, ``plan``, ``fit``, ``thumbnail``.
From reading to encoding, tiles are worked on in threads beside the rest.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from wsi_pipeline.pulse import pulse_in_hand

AHEAD: Final = ("read", "decode", "resample", "normalise", "judge", "encode")  # by threads ahead
DEVICE: Final = ("forward", "write")  # … and what is left beside it where there is a network
FORWARD: Final = "forward"
WAIT: Final = "wait"
IDLE: Final = 0.1  # share of waiting beyond which it is the others that limit


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of one phase: ``start`` in seconds since 1970, in which process and thread."""

    phase: str
    start: float
    seconds: float
    process: int
    thread: str


class Stopwatch:
    """Adds up seconds by phase, from any thread; each phase is a sign of the slide's life.

    Attributes:
        seconds: By phase.
        spans: Every stretch, where they are kept.
        pulse: Of the slide in hand where it was made.
    """

    def __init__(self, *, keep_spans: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self.spans: list[Span] = []
        self.pulse = pulse_in_hand()
        self._keep = keep_spans
        self._lock = threading.Lock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside.

        Raises:
            Exception: The slide is given up.
        """
        self.pulse.beat()
        start, begun = time.time(), time.perf_counter()
        try:
            yield
        finally:
            self.spend(name, time.perf_counter() - begun, start)
            self.pulse.mark()

    def spend(self, name: str, seconds: float, start: float | None = None) -> None:
        """Add to a phase; without ``start`` it is no stretch of its own."""
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            if self._keep and start is not None:
                self.spans.append(
                    Span(phase=name, start=start, seconds=seconds, process=os.getpid(),
                         thread=threading.current_thread().name)
                )  # fmt: skip

    def move(self, seconds: float, source: str, target: str) -> None:
        """Count seconds that were measured within one phase as another's."""
        self.spend(target, seconds)
        self.spend(source, -seconds)


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def bottleneck(phases: Mapping[str, float]) -> str | None:
    """Return the phase that limits a run: the longest of the threads that are waited for.

    Those are the ones that work ahead, if the rest waits for more than a tenth of its own work; or,
    where waiting was not measured, if they have more to do.
    """
    busy = {name: seconds for name, seconds in phases.items() if name != WAIT}
    here = DEVICE if FORWARD in busy else tuple(name for name in busy if name not in AHEAD)
    beside = {name: seconds for name, seconds in busy.items() if name in here}
    ahead = {name: seconds for name, seconds in busy.items() if name not in here}
    own = sum(beside.values())
    late = phases[WAIT] > IDLE * own if WAIT in phases else sum(ahead.values()) >= own
    slower = (ahead or beside) if late else (beside or ahead)
    return max(slower, key=lambda name: slower[name]) if slower else None


def trace_events(spans: Mapping[str, tuple[Span, ...]]) -> dict[str, Any]:
    """Return spans, by slide, as a trace that Perfetto and Chrome's tracing page open.

    Source: the Trace Event Format, complete events (``X``), microseconds.
    """
    threads: dict[tuple[int, str], int] = {}
    events: list[dict[str, Any]] = []
    for slide_id, own in spans.items():
        for span in own:
            place = threads.setdefault((span.process, span.thread), len(threads) + 1)
            events.append(
                {"name": span.phase, "ph": "X", "ts": span.start * 1e6, "dur": span.seconds * 1e6,
                 "pid": span.process, "tid": place, "args": {"slide": slide_id}}
            )  # fmt: skip
    names = [
        {"name": "thread_name", "ph": "M", "pid": process, "tid": place, "args": {"name": thread}}
        for (process, thread), place in threads.items()
    ]
    return {"traceEvents": names + events, "displayTimeUnit": "ms"}
