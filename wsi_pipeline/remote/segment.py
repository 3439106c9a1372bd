"""One segment over one connection: ask, check, write, and ask again for what is still missing.

Is the answer the bytes that were asked for? That is decided from its header, before one is kept.
"""

import re
import threading
import time
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final

import urllib3

from wsi_pipeline.remote.client import Client, read_error
from wsi_pipeline.remote.connections import Gate, RateLimit, Speeds
from wsi_pipeline.remote.partial import PartialFile, Segment
from wsi_pipeline.remote.retry import Patience, RefusedError, StoppedError, TransientError
from wsi_pipeline.remote.wire import MIN_BYTES_PER_S, Leash, Pace

READ_BYTES: Final = 1 << 20  # at most; on a slow line a read returns what there is
CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
PAGES: Final = ("text/html", "application/json", "application/xhtml+xml")
SLOW: Final = 0.25  # of what connections bring otherwise


class RangeIgnoredError(TransientError):
    """The server sends the whole file where a part was asked for."""


@dataclass(frozen=True, kw_only=True)
class Road:
    """What the files of a download share on their way."""

    client: Client
    gate: Gate
    limit: RateLimit
    speeds: Speeds = field(default_factory=Speeds)
    min_bytes_per_s: float = MIN_BYTES_PER_S
    slow_after_s: float = 5.0


@dataclass(kw_only=True, eq=False)
class _Flight:
    """A request under way."""

    segment: Segment
    leash: Leash = field(default_factory=Leash)
    begun: float = field(default_factory=time.monotonic)
    received: int = 0


@dataclass(kw_only=True)
class Fetch:
    """What the segments of one file share.

    One segment goes first and alone: its answer shows whether the server has the file and honours
    ranges, and only while it is alone may an answer that ignores the range be taken as the whole
    file. ``opened`` is set when that answer has been checked.
    """

    road: Road
    path: str
    partial: PartialFile
    cancelled: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    received: int = 0
    requests: int = 0
    last_trouble: str = ""
    _scout: Segment | None = None
    _alone: bool = True
    _flights: list[_Flight] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._client = self.road.client
        self._patience = Patience(self._client.policy, self._client.health)

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

    def slow(self) -> Segment | None:
        """Return a segment that comes far slower than usual, to be asked for a second time."""
        usual, now = self.road.speeds.usual(), time.monotonic()
        if usual is None or not self.opened.is_set():
            return None
        with self._lock:
            for flight in self._flights:
                age = now - flight.begun
                if age < self.road.slow_after_s or flight.received > SLOW * usual * age:
                    continue
                if [each.segment for each in self._flights].count(flight.segment) > 1:
                    continue
                self._alone = False
                return flight.segment
        return None

    def cancel(self) -> None:
        """Give up: no further request, and those under way end."""
        self.cancelled.set()
        self._cut(None)

    def fetch(self, segment: Segment) -> None:
        """Bring what is missing of ``segment``, with as many requests as that takes.

        Raises:
            RangeIgnoredError: The whole file came while other segments are under way.
            RefusedError, TransientError: The server's last word, or patience at its end.
            StoppedError: The download, or this file, was given up.
            OSError: The disk.
        """
        held = [segment]  # replaced when an answer makes the whole file one segment
        while held[0].missing:
            begun = self._patience.now()
            try:
                self._request(held, again=False)
            except TransientError as error:
                if not held[0].missing:
                    return  # a second connection has brought it
                self.last_trouble = str(error)
                self._client.wait(self._patience.failed(error, begun))

    def fetch_again(self, segment: Segment) -> None:
        """Bring the rest of a slow ``segment`` beside the connection that is at it.

        Whichever has it first ends the other. It is one try: the other goes on if it fails.

        Raises:
            StoppedError: See :meth:`fetch`.
            OSError: See :meth:`fetch`.
        """
        try:
            if segment.missing:
                self._request([segment], again=True)
        except (TransientError, RefusedError) as error:
            self.last_trouble = str(error)

    def _request(self, held: list[Segment], *, again: bool) -> None:
        """Make one request for the rest of the segment held."""
        gate = self.road.gate
        with gate.held(self._client.stop):
            if self.cancelled.is_set():
                raise StoppedError("stopped")
            flight = _Flight(segment=held[0])
            with self._lock:
                self._flights.append(flight)
            try:
                self._fly(flight, held, again=again)
            except TransientError as error:
                if self.cancelled.is_set():
                    raise StoppedError("stopped") from None
                if error.crowded and held[0].missing:
                    gate.pushed_back()
                raise
            finally:
                with self._lock:
                    self._flights.remove(flight)
            gate.went_well()
        self.road.speeds.add(flight.received, time.monotonic() - flight.begun)
        self._client.health.answered()
        self._cut(flight.segment)

    def _fly(self, flight: _Flight, held: list[Segment], *, again: bool) -> None:
        segment = held[0]
        size, start, end = self.partial.size, segment.position, segment.end
        whole = start == 0 and end == size
        first, last = (None, None) if whole else (start, end - 1)
        self.requests += 1
        with self._client.stream(self.path, first, last, flight.leash) as response:
            body = check_body(response, start, end, size)
            if body.start != start or body.end > end:
                if again:
                    raise RangeIgnoredError("the server ignored the range asked for")
                held[0] = flight.segment = self._take_whole()
            self.opened.set()
            self._read(response, flight, body)

    def _take_whole(self) -> Segment:
        """Start over with an answer that ignored the range."""
        with self._lock:
            if not self._alone:
                raise RangeIgnoredError("the server ignored the range asked for")
            self.partial.start_over(one_stream=True)
            self._scout = self.partial.segments[0]
        return self._scout

    def _read(self, response: urllib3.BaseHTTPResponse, flight: _Flight, body: "Body") -> None:
        pace = Pace(self._client.timeout_s, self.road.min_bytes_per_s)
        segment, position = flight.segment, body.start
        while chunk := response.read1(READ_BYTES):
            if self.cancelled.is_set() or self._client.stop.is_set():
                raise StoppedError("stopped")
            if not segment.missing:
                return  # another connection was first
            self.road.limit.take(len(chunk))
            self.partial.write(segment, chunk[: body.end - position], position)
            position = min(position + len(chunk), body.end)
            flight.received += len(chunk)
            self._count(len(chunk))
            if position == body.end and not body.framed:
                return  # whatever follows is not the file's
            pace.add(len(chunk))
        if position < body.end:
            raise TransientError(
                f"the connection closed {body.end - position} bytes short", crowded=True
            )

    def _count(self, received: int) -> None:
        with self._lock:
            self.received += received
        self._patience.progressed(received)

    def _cut(self, segment: Segment | None) -> None:
        """End the requests for ``segment``, or all of them."""
        with self._lock:
            flights = [each for each in self._flights if segment in (None, each.segment)]
        for flight in flights:
            flight.leash.cut()


@dataclass(frozen=True, kw_only=True)
class Body:
    """The response carries the file's bytes ``start`` up to ``end``.

    ``framed``: it says its own length, so that its connection can be used again.
    """

    start: int
    end: int
    framed: bool = True


def check_body(response: urllib3.BaseHTTPResponse, start: int, end: int, size: int) -> Body:
    """Check the header of an answer to a request for bytes ``start`` up to ``end``.

    A 206 may bring less than asked, never other bytes; a 200 is the whole file, whatever was asked.

    Args:
        response: Its status is 2xx or 416.
        start: First byte asked for.
        end: One past the last.
        size: The file's size as the manifest says.

    Raises:
        TransientError: It is something else; the message says what.
    """
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", ""):
        raise TransientError(f"the server sent {encoding}-encoded data although none was asked for")
    status = response.status
    if status == HTTPStatus.PARTIAL_CONTENT:
        body = _partial(response, start, end, size)
    elif status == HTTPStatus.OK:
        body = Body(start=0, end=size)
    elif status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        offered = response.headers.get("Content-Range", "")
        raise TransientError(
            f"the server has no bytes {start}-{end - 1} ({offered or 'no Content-Range'}), though "
            f"the manifest says {size} bytes"
        )
    else:
        raise TransientError(f"HTTP {status} instead of 200 or 206")
    _check_page(response)
    length = _length(response)
    if length is not None and length != body.end - body.start:
        raise TransientError(
            f"the server offers {length} bytes where {body.end - body.start} belong "
            f"(the manifest says {size} in all)"
        )
    return replace(body, framed=length is not None)


def _partial(response: urllib3.BaseHTTPResponse, start: int, end: int, size: int) -> Body:
    text = response.headers.get("Content-Range", "")
    match = CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise TransientError(f"HTTP 206 with Content-Range {text!r}")
    first, last = int(match[1]), int(match[2])
    if match[3] not in ("*", str(size)):
        raise TransientError(f"the server has {match[3]} bytes, the manifest says {size}")
    if first != start or not first <= last < end:
        raise TransientError(f"asked for bytes {start}-{end - 1}, offered {first}-{last}")
    return Body(start=first, end=last + 1)


def _check_page(response: urllib3.BaseHTTPResponse) -> None:
    """Catch a maintenance page or a JSON error that comes with status 200."""
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind not in PAGES:
        return
    if "attachment" in response.headers.get("Content-Disposition", "").lower():
        return  # a file that happens to be of this type
    what = "JSON" if kind.endswith("json") else "an HTML page"
    raise TransientError(f"{what} instead of the file: {read_error(response, 10.0) or 'empty'}")


def _length(response: urllib3.BaseHTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None
