"""One file: its segments over several connections, its digest as the bytes arrive, its verdict.

The digest costs more than the transport. Where bytes come very fast and cores are few, it waits for
them, so that the line is not kept waiting; otherwise it keeps pace and is done when they are.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from functools import partial as bind
from typing import Final

from wsi_pipeline.errors import DownloadError
from wsi_pipeline.remote.connections import Connections
from wsi_pipeline.remote.files import RemoteFile
from wsi_pipeline.remote.partial import PartialFile, Segment
from wsi_pipeline.remote.retry import StoppedError
from wsi_pipeline.remote.segment import Fetch, RangeIgnoredError

POLL_S: Final = 0.05
HASH_BLOCK: Final = 1 << 20
BLOCKS_AT_ONCE: Final = 8
CORES: Final = os.cpu_count() or 1
ENOUGH_CORES: Final = 4
FAST_BYTES_PER_S: Final = 150e6  # above a gigabit line, few cores have their hands full
ROUNDS: Final = 3  # whole downloads of a file whose digest comes out wrong


class Transfer:
    """Brings one file and verifies it against the manifest."""

    def __init__(self, entry: RemoteFile, fetch: Fetch, connections: Connections) -> None:
        self.entry = entry
        self.fetch = fetch
        self.resumed_bytes = fetch.partial.done
        self._partial: PartialFile = fetch.partial
        self._connections = connections
        self._changed = threading.Condition()
        self._under_way = 0
        self._error: Exception | None = None
        self._looked = time.monotonic(), 0
        self._fast = False

    @property
    def done_bytes(self) -> int:
        return self._partial.done

    def run(self) -> None:
        """Bring the file and put it in place.

        Raises:
            DownloadError: It cannot be had, or never has the manifest's digest.
            StoppedError: The download was stopped; what has come is kept.
        """
        found: list[str] = []
        for _ in range(ROUNDS):
            md5 = self._bring()
            again = self.entry.is_settled_by_repetition and md5 in found
            if again or self.entry.is_content(self._partial.data_path, md5):
                self._partial.commit()
                return
            found.append(md5)
            self._partial.start_over(one_stream=False)
        self._partial.discard()
        same = "each time" if len(set(found)) == 1 else "each time another"
        advice = (
            "the GDC may hold a newer version (see --resolve)"
            if len(set(found)) == 1
            else "the connection damages data"
        )
        raise DownloadError(
            f"md5 is {found[-1]}, the manifest says {self.entry.md5}; fetched {ROUNDS} times, "
            f"{same}: {advice}"
        )

    def _bring(self) -> str:
        """Fetch what is missing; return the whole file's md5."""
        digest = _Follower(self._partial)
        self._start(self.fetch.first())
        spread = behind = False
        while True:
            with self._changed:
                if self._under_way and not behind:
                    self._changed.wait(POLL_S)
                under_way = self._under_way
            behind = (not under_way or self._leaves_time()) and digest.follow()
            if self._error is not None:
                if not under_way:
                    spread = self._recover()
            elif self.fetch.opened.is_set() and not spread:
                spread = True
                self._start(self.fetch.others())
            elif not under_way and not behind and not self._partial.missing:
                return digest.hexdigest()
            elif spread and self._connections.idle and (slow := self.fetch.slow()) is not None:
                self._submit(bind(self.fetch.fetch_again, slow))

    def _leaves_time(self) -> bool:
        """Tell whether the digest may run beside the connections without slowing them down."""
        if CORES >= ENOUGH_CORES:
            return True
        now, received = time.monotonic(), self.fetch.received
        if now - self._looked[0] >= POLL_S:
            speed = (received - self._looked[1]) / (now - self._looked[0])
            self._fast = speed > FAST_BYTES_PER_S
            self._looked = now, received
        return not self._fast

    def _recover(self) -> bool:
        """Go on in one stream if ranges are ignored; otherwise the error is the file's."""
        error, self._error = self._error, None
        assert error is not None
        if not isinstance(error, RangeIgnoredError):
            raise error
        self._partial.start_over(one_stream=True)
        self._start(self.fetch.first())
        return False

    def _start(self, segments: list[Segment]) -> None:
        for segment in segments:
            self._submit(bind(self.fetch.fetch, segment))

    def _submit(self, work: Callable[[], None]) -> None:
        with self._changed:
            self._under_way += 1
        self._connections.submit(bind(self._job, work))

    def _job(self, work: Callable[[], None]) -> None:
        error: Exception | None = None
        try:
            if not self.fetch.cancelled.is_set():
                work()
        except Exception as caught:  # noqa: BLE001 (raised again in the file's own thread)
            error = caught
        if error is not None:
            self.fetch.cancel()
        with self._changed:
            self._under_way -= 1
            if error is not None and (self._error is None or isinstance(self._error, StoppedError)):
                self._error = error
            self._changed.notify()


class _Follower:
    """The digest of a file's beginning, kept as close to the arriving bytes as there is no gap."""

    def __init__(self, partial: PartialFile) -> None:
        self._partial = partial
        self._buffer = memoryview(bytearray(HASH_BLOCK))
        self._restart()

    def follow(self) -> bool:
        """Take in a stretch of what has arrived; return whether more is waiting."""
        for _ in range(BLOCKS_AT_ONCE):
            count = self._partial.read_arrived(self._at, self._buffer, self._generation)
            if count is None:
                self._restart()
            elif count:
                self._md5.update(self._buffer[:count])
                self._at += count
            else:
                return False
        return True

    def hexdigest(self) -> str:
        return self._md5.hexdigest()

    def _restart(self) -> None:
        self._generation = self._partial.generation
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._at = 0
