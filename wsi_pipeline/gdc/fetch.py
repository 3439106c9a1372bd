"""One segment over one connection: ask, check, write, and ask again for what is still missing."""

import threading
import time
from dataclasses import dataclass, field
from typing import Final

import urllib3

from wsi_pipeline.gdc.body import Body, check_body
from wsi_pipeline.gdc.client import GdcClient
from wsi_pipeline.gdc.limit import RateLimit
from wsi_pipeline.gdc.partial import PartialFile, Segment
from wsi_pipeline.gdc.retry import Patience, StoppedError, TransientError

READ_BYTES: Final = 1 << 20  # at most; on a slow line a read returns what there is


class RangeIgnoredError(TransientError):
    """The server sends the whole file where a part was asked for."""


@dataclass(kw_only=True)
class Fetch:
    """What the segments of one file share.

    One segment goes first and alone: its answer shows whether the server has the file and honours
    ranges, and only while it is alone may an answer that ignores the range be taken as the whole
    file. ``opened`` is set when that answer has been checked.
    """

    client: GdcClient
    path: str
    partial: PartialFile
    limit: RateLimit
    min_bytes_per_s: float = 1024.0
    cancelled: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    received: int = 0
    requests: int = 0
    last_trouble: str = ""
    _scout: Segment | None = None
    _alone: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def first(self) -> list[Segment]:
        """Return the first segment with missing bytes, if any; it will be alone."""
        self._alone = True
        self.opened.clear()
        self.cancelled.clear()
        missing = [segment for segment in self.partial.segments if segment.missing][:1]
        self._scout = missing[0] if missing else None
        return missing

    def others(self) -> list[Segment]:
        """Return the other segments with missing bytes; the first is no longer alone with them."""
        with self._lock:
            segments = self.partial.segments
            missing = [each for each in segments if each.missing and each is not self._scout]
            self._alone = not missing
        return missing

    def fetch(self, segment: Segment) -> None:
        """Bring what is missing of ``segment``, with as many requests as that takes.

        Raises:
            RangeIgnoredError: The whole file came while other segments are under way.
            RefusedError, TransientError: The server's last word, or patience at its end.
            StoppedError: The download, or this file, was given up.
            OSError: The disk.
        """
        patience = Patience(
            policy=self.client.policy, stop=self.client.stop, waiting=self._remember
        )
        held = [segment]  # replaced when an answer makes the whole file one segment
        for attempt in patience.attempts(lambda: held[0].done):
            with attempt:
                while held[0].missing:
                    self._request(held)

    def _request(self, held: list[Segment]) -> None:
        """Make one request for the rest of the segment held."""
        segment = held[0]
        size = self.partial.size
        start, end = segment.position, segment.end
        whole = start == 0 and end == size
        first, last = (None, None) if whole else (start, end - 1)
        self.requests += 1
        with self.client.stream(self.path, first, last) as response:
            body = check_body(response, start, end, size)
            if body.start != start or body.end > end:
                held[0] = self._take_whole()
            self.opened.set()
            self._read(response, held[0], body)

    def _take_whole(self) -> Segment:
        """Start over with an answer that ignored the range."""
        with self._lock:
            if not self._alone:
                raise RangeIgnoredError("the server ignored the range asked for")
            self.partial.start_over(one_stream=True)
            self._scout = self.partial.segments[0]
        return self._scout

    def _read(self, response: urllib3.BaseHTTPResponse, segment: Segment, body: Body) -> None:
        pace = _Pace(self.client.timeout_s, self.min_bytes_per_s)
        while chunk := response.read1(READ_BYTES):
            if self.cancelled.is_set() or self.client.stop.is_set():
                raise StoppedError("stopped")
            self.limit.take(len(chunk))
            self.received += len(chunk)
            self.partial.write(segment, chunk[: body.end - segment.position])
            if segment.position == body.end and not body.framed:
                return  # whatever follows is not the file's
            pace.add(len(chunk))
        if segment.position < body.end:
            raise TransientError(f"the connection closed {body.end - segment.position} bytes short")

    def _remember(self, reason: str, _seconds: float) -> None:
        self.last_trouble = reason


class _Pace:
    """Notices a server that keeps a connection alive with a trickle."""

    def __init__(self, window_s: float, min_bytes_per_s: float) -> None:
        self._window_s = window_s
        self._least = min_bytes_per_s * window_s
        self._begun = time.monotonic()
        self._bytes = 0

    def add(self, count: int) -> None:
        self._bytes += count
        now = time.monotonic()
        if now - self._begun < self._window_s:
            return
        if self._bytes < self._least:
            raise TransientError(f"only {self._bytes} bytes in {now - self._begun:.0f} s")
        self._begun, self._bytes = now, 0
