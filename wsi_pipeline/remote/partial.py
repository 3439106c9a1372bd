"""A file on its way: its bytes, and which of them have arrived.

``<name>.partial`` holds the bytes at their final places. ``<name>.partial.state`` holds one line of
JSON (size, md5, segment length) and then, for each segment, how many bytes of it are there, as a
little-endian uint64. The count is written after the bytes, so a process killed at any moment loses
at most the buffer it was writing. A state file that does not fit the manifest, or whose bytes are
not all there, is worth nothing and is started over.
"""

import json
import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VERSION: Final = 1
COUNT: Final = struct.Struct("<Q")


@dataclass(kw_only=True, eq=False)
class Segment:
    """Bytes ``start`` up to ``end`` of the file, of which the first ``done`` are on disk."""

    index: int
    start: int
    end: int
    done: int = 0

    @property
    def position(self) -> int:
        return self.start + self.done

    @property
    def missing(self) -> int:
        return self.end - self.start - self.done


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """What a state file says: the segments' length, and the bytes that came of each."""

    segment_bytes: int
    counts: tuple[int, ...]


class PartialFile:
    """Opened for one transfer by one process, whose threads write disjoint segments.

    ``generation`` counts the times that everything was thrown away.
    """

    def __init__(self, path: Path, *, size: int, md5: str, segment_bytes: int) -> None:
        self.path = path
        self.size = size
        self.generation = 0
        self._md5 = md5
        self.data_path, self._state_path = _paths(path)
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        arrived = read_state(path, size, md5)
        self._state = os.open(self._state_path, os.O_RDWR | os.O_CREAT, 0o666)
        self._data = os.open(self.data_path, os.O_RDWR | os.O_CREAT, 0o666)
        if arrived is None:
            self._clear(segment_bytes)
        else:
            self._lay_out(arrived.segment_bytes)
            for segment, done in zip(self.segments, arrived.counts, strict=True):
                segment.done = done

    @property
    def done(self) -> int:
        return sum(segment.done for segment in self.segments)

    @property
    def missing(self) -> int:
        return self.size - self.done

    @property
    def frontier(self) -> int:
        """Bytes that are there without a gap from the file's start."""
        end = 0
        for segment in self.segments:
            end = segment.position
            if segment.missing:
                break
        return end

    def write(self, segment: Segment, data: bytes, position: int) -> None:
        """Put ``data`` at ``position`` of the file and remember it.

        Two connections may be at one segment. Each began where the segment stood, and writes
        without a gap from there, so that the farther of them says how much is there.

        Raises:
            OSError: The disk is full or failing.
        """
        view, place = memoryview(data), position
        while view:
            written = os.pwrite(self._data, view, place)
            view, place = view[written:], place + written
        done = position + len(data) - segment.start
        with self._lock:
            if done <= segment.done:
                return
            segment.done = done
            os.pwrite(self._state, COUNT.pack(done), self._counts_at + segment.index * 8)

    def read_arrived(self, start: int, buffer: memoryview, generation: int) -> int | None:
        """Fill ``buffer`` with the bytes from ``start`` on, as far as there is no gap before them.

        Returns:
            How many there were; None when everything was thrown away since ``generation``.
        """
        with self._lock:
            if generation != self.generation:
                return None
            count = min(len(buffer), max(0, self.frontier - start))
            return os.preadv(self._data, [buffer[:count]], start) if count else 0

    def start_over(self, *, one_stream: bool) -> None:
        """Throw away what came; ``one_stream`` makes the whole file one segment from now on."""
        with self._lock:
            self._clear(self.size if one_stream else self._segment_bytes)
            self.generation += 1

    def commit(self) -> None:
        """Put the finished file in place, whole and synced."""
        os.fsync(self._data)
        self.close()
        self.data_path.replace(self.path)
        self._state_path.unlink(missing_ok=True)

    def discard(self) -> None:
        self.close()
        self._state_path.unlink(missing_ok=True)
        self.data_path.unlink(missing_ok=True)

    def close(self) -> None:
        for handle in (self._data, self._state):
            if handle >= 0:
                os.close(handle)
        self._data = self._state = -1

    def _clear(self, segment_bytes: int) -> None:
        os.ftruncate(self._state, 0)  # first: without a state the bytes count for nothing
        os.ftruncate(self._data, 0)
        self._lay_out(segment_bytes)
        header = _header(self.size, self._md5, segment_bytes)
        os.pwrite(self._state, header + bytes(COUNT.size * len(self.segments)), 0)

    def _lay_out(self, segment_bytes: int) -> None:
        self._segment_bytes = segment_bytes
        self._counts_at = len(_header(self.size, self._md5, segment_bytes))
        self.segments = [
            Segment(index=index, start=start, end=min(start + segment_bytes, self.size))
            for index, start in enumerate(range(0, self.size, segment_bytes))
        ]


def sweep(path: Path) -> None:
    """Remove what a killed process left beside the finished file ``path``."""
    for left in _paths(path):
        left.unlink(missing_ok=True)


def read_state(path: Path, size: int, md5: str) -> Arrived | None:
    """Return what an earlier run left of the file ``path``, or None if nothing can be used."""
    data_path, state_path = _paths(path)
    try:
        line, newline, packed = state_path.read_bytes().partition(b"\n")
        there = data_path.stat().st_size
        header = json.loads(line)
        length = int(header["segment_bytes"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if length < 1 or line + newline != _header(size, md5, length):
        return None
    starts = range(0, size, length)
    if len(packed) != COUNT.size * len(starts):
        return None
    counts = tuple(count for (count,) in COUNT.iter_unpack(packed))
    for start, count in zip(starts, counts, strict=True):
        if count > min(length, size - start) or (count and start + count > there):
            return None
    return Arrived(segment_bytes=length, counts=counts)


def _paths(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.partial.state")


def _header(size: int, md5: str, segment_bytes: int) -> bytes:
    values = {"version": VERSION, "size": size, "md5": md5, "segment_bytes": segment_bytes}
    return json.dumps(values).encode() + b"\n"
