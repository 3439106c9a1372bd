"""How far a download is: events with bytes, speed and the time left."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from wsi_pipeline.events import Event, FileProgress, TotalProgress

WINDOW_S: Final = 10.0
READ_S: Final = 0.5
TOTAL_EVERY_S: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class Moving:
    """A file on its way at one moment; ``received_bytes`` came in this run."""

    slide_id: str
    done_bytes: int
    total_bytes: int
    received_bytes: int


class Meter:
    """Bytes per second over the last seconds."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque()

    def read(self, now: float, received: int) -> float:
        self._readings.append((now, received))
        while len(self._readings) > 2 and now - self._readings[0][0] > WINDOW_S:
            self._readings.popleft()
        then, before = self._readings[0]
        return (received - before) / (now - then) if now > then else 0.0


class Meters:
    """The meters of all files and of the whole, read twice a second at most."""

    def __init__(
        self, total_bytes: int, files: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total_bytes = total_bytes
        self._files = files
        self._clock = clock
        self._each: dict[str, Meter] = {}
        self._whole = Meter()
        self._ended_bytes = self._ended_received = self._ended_files = 0
        self._read_at = self._said = clock()
        self._whole.read(self._said, 0)

    def ended(self, size: int, received: int) -> None:
        """Count a file that is done or failed."""
        self._ended_files += 1
        self._ended_bytes += size
        self._ended_received += received

    def progress(self, moving: Sequence[Moving]) -> Iterator[Event]:
        """Yield the progress that is due."""
        now = self._clock()
        if now - self._read_at < READ_S:
            return
        self._read_at = now
        self._each = {file.slide_id: self._each.get(file.slide_id, Meter()) for file in moving}
        for file in moving:
            speed = self._each[file.slide_id].read(now, file.received_bytes)
            yield FileProgress(
                slide_id=file.slide_id,
                done_bytes=file.done_bytes,
                total_bytes=file.total_bytes,
                bytes_per_s=speed,
                eta_s=_left(file.total_bytes - file.done_bytes, speed),
            )
        speed = self._whole.read(now, self._ended_received + sum(f.received_bytes for f in moving))
        if now - self._said >= TOTAL_EVERY_S:
            self._said = now
            yield self._total(self._ended_bytes + sum(f.done_bytes for f in moving), speed)

    def _total(self, done: int, speed: float) -> TotalProgress:
        left = _left(self._total_bytes - done, speed)
        text = f"{self._ended_files} of {self._files} files, {size_text(done)} of "
        text += f"{size_text(self._total_bytes)}, {size_text(speed)}/s"
        return TotalProgress(
            text=text if left is None else f"{text}, {time_text(left)} left",
            done_bytes=done,
            total_bytes=self._total_bytes,
            bytes_per_s=speed,
            eta_s=left,
        )


def _left(count: int, speed: float) -> float | None:
    return count / speed if speed > 0 else None


def size_text(count: float) -> str:
    """Return a number of bytes as ``812 B``, ``3.90 MB``, ``1.27 TB`` (powers of 1000)."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.2f} {unit}"
    return f"{count / 1000:.2f} TB"


def time_text(seconds: float) -> str:
    """Return a duration as ``42 s``, ``7 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
