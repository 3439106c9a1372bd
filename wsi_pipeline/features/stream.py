"""Slides through an encoder: batches that cross slide boundaries, filled ahead by a thread.

The device never waits: a few buffers go round; the reader fills a free one with the tiles of one
slide after the other, the consumer encodes them and gives the buffer back. Memory is those buffers,
however large the slides are. A slide whose source fails is reported and left out; the others go on.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreError
from wsi_pipeline.features.encoder import Encoder, Pending
from wsi_pipeline.pulse import LEFT_BEHIND
from wsi_pipeline.timing import Stopwatch
from wsi_pipeline.types import RgbTiles

Waiting = Callable[[float], None]  # told for how many seconds

LOOK_S: Final = 0.5  # between two calls of what is told of waiting
GRACE_S: Final = 10.0  # for the reader to end
RING: Final = 4  # one being encoded, one on its way to the device, two filled ahead


class TileSource(Protocol):
    """A slide's tiles in canonical order."""

    @property
    def slide_id(self) -> str: ...

    def read(self) -> Iterator[RgbTiles]:
        """Yield (n, tile_px, tile_px, 3) uint8, any n; runs in the reader's thread.

        What was yielded may be overwritten once the next are asked for.
        """


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Rows ``start`` to ``stop`` of a batch belong to ``slide_id``."""

    slide_id: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Nothing more comes of ``slide_id``; ``error`` says why, if before its end."""

    slide_id: str
    error: Exception | None


@dataclass(kw_only=True)
class Batch:
    """Tiles of one or several slides.

    Attributes:
        buffer: (batch_size, tile_px, tile_px, 3) uint8, page-locked where asked.
        count: How many rows are filled; may be 0 for the endings alone.
        segments: Whose rows they are, in order.
        endings: The slides that end with this batch or ended with the one before.
    """

    buffer: torch.Tensor
    count: int = 0
    segments: list[Segment] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)

    @property
    def tiles(self) -> torch.Tensor:
        """(count, tile_px, tile_px, 3) uint8; valid until the batch is released."""
        return self.buffer[: self.count]

    def take(self, slide_id: str, tiles: RgbTiles) -> RgbTiles:
        """Copy as many tiles as fit, and return the rest."""
        room = tiles[: len(self.buffer) - self.count]
        stop = self.count + len(room)
        self.buffer[self.count : stop].numpy()[...] = room
        self.segments.append(Segment(slide_id=slide_id, start=self.count, stop=stop))
        self.count = stop
        return tiles[len(room) :]


class BatchStream:
    """Iterate over it inside a ``with``, and give every batch back with :meth:`release`."""

    def __init__(
        self,
        sources: Iterable[TileSource],
        shape: tuple[int, int],
        *,
        pin: bool = False,
        watch: Stopwatch | None = None,
        waiting: Waiting = lambda _: None,
    ) -> None:
        """Prepare ``RING`` buffers; nothing is read yet.

        Args:
            sources: The slides.
            shape: Tiles of a batch, and their side.
            pin: Pin the buffers' memory, for a GPU.
            watch: Told how long the consumer waited: if long, reading is what limits.
            waiting: Called now and then while the consumer waits; may raise.
        """
        self._waiting = waiting
        self._watch = watch or Stopwatch()
        batch_size, tile_px = shape
        self._tile = (tile_px, tile_px, 3)
        self._sources = sources
        self._free: queue.SimpleQueue[torch.Tensor | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        for _ in range(RING):
            self._free.put(
                torch.empty((batch_size, *self._tile), dtype=torch.uint8, pin_memory=pin)
            )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tile-reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._free.put(None)  # wakes a reader that waits for a buffer
        self._thread.join(GRACE_S)
        if self._thread.is_alive():  # it hangs in a library, and nothing ends it but the process
            self._thread.name = LEFT_BEHIND

    def __iter__(self) -> Iterator[Batch]:
        while True:
            with self._watch.phase("wait"):
                batch = self._next()
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            yield batch

    def _next(self) -> Batch | BaseException | None:
        begun = time.monotonic()
        while True:
            try:
                return self._ready.get(timeout=LOOK_S)
            except queue.Empty:
                self._waiting(time.monotonic() - begun)

    def release(self, batch: Batch) -> None:
        """Give the batch's buffer back to the reader; its tiles are overwritten from now on."""
        self._free.put(batch.buffer)

    def _run(self) -> None:
        try:
            self._fill()
            self._ready.put(None)
        except _StoppedError:
            return
        except BaseException as error:  # noqa: BLE001  handed over: the consumer raises it
            self._ready.put(error)

    def _fill(self) -> None:
        batch = self._new_batch()
        for source in self._sources:
            failed = None
            for tiles in self._read(source):
                if isinstance(tiles, Exception):
                    failed = tiles
                    break
                rest = tiles
                while len(rest):
                    rest = batch.take(source.slide_id, rest)
                    if batch.count == len(batch.buffer):
                        self._ready.put(batch)
                        batch = self._new_batch()
            batch.endings.append(Ending(slide_id=source.slide_id, error=failed))
        self._ready.put(batch)

    def _new_batch(self) -> Batch:
        buffer = self._free.get()
        if buffer is None or self._stop.is_set():
            raise _StoppedError
        return Batch(buffer=buffer)

    def _read(self, source: TileSource) -> Iterator[RgbTiles | Exception]:
        """Yield the source's tiles, then its error if it raised one."""
        chunks = source.read()
        while not self._stop.is_set():
            try:
                tiles = next(chunks, None)
                if tiles is not None and tiles.shape[1:] != self._tile:
                    raise StoreError(
                        f"{source.slide_id}: its tiles are {tiles.shape[1:]}, those of the slides "
                        f"before {self._tile}; extract slides of one tile size at a time"
                    )
            except Exception as error:  # noqa: BLE001  it costs this slide, not the run
                yield error
                return
            if tiles is None:
                return
            yield tiles


class _StoppedError(Exception):
    """The consumer has left."""


AHEAD: Final = 1  # batches on the device beside the one that is waited for


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The first tiles of a slide are being encoded."""

    slide_id: str


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A slide is through: ``features`` (N, D) float32 in the order of its tiles, or ``error``."""

    slide_id: str
    features: NDArray[np.float32]
    error: Exception | None = None


def encode_slides(
    encoder: Encoder,
    sources: Iterable[TileSource],
    tile_px: int,
    watch: Stopwatch | None = None,
    waiting: Waiting = lambda _: None,
) -> Generator[Begun | Encoded]:
    """Encode slides one after the other.

    A slide's features do not depend on the slides before and after it, nor on the batch size
    beyond floating-point noise.

    Args:
        encoder: Ready to encode.
        sources: The slides; each is read in the reader's thread when its turn comes.
        tile_px: Side of the tiles, the same for all.
        watch: Told how long the network works and waits for tiles.
        waiting: Called now and then while the network waits, with the seconds; may raise.

    Yields:
        :class:`Begun` once a slide's first tiles are encoded, :class:`Encoded` once it is through,
        in the order of ``sources``. A source that raises yields its error and no features.
    """
    watch = watch or Stopwatch()
    parts: dict[str, list[NDArray[np.float32]]] = {}
    shape = (encoder.batch_size * encoder.lanes, tile_px)
    pin = encoder.device.type == "cuda"
    buffers = BatchStream(sources, shape, pin=pin, watch=watch, waiting=waiting)
    with buffers as stream, encoder.at_work():
        for batch, features in _encoded(encoder, stream, watch):
            for segment in batch.segments:
                if segment.slide_id not in parts:
                    parts[segment.slide_id] = []
                    yield Begun(slide_id=segment.slide_id)
                parts[segment.slide_id].append(features[segment.start : segment.stop])
            empty = np.empty((0, encoder.dim), np.float32)
            for ending in batch.endings:
                rows = parts.pop(ending.slide_id, [])
                if ending.error is not None:
                    rows = []
                yield Encoded(
                    slide_id=ending.slide_id,
                    features=np.concatenate([empty, *rows]),
                    error=ending.error,
                )


def _encoded(
    encoder: Encoder, stream: BatchStream, watch: Stopwatch
) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
    """Keep one batch on the device while the one before is fetched and dealt with.

    On a CPU the lanes go on with it, too, as soon as one of them has nothing left to do.
    """
    flying: deque[tuple[Batch, Pending]] = deque()
    for batch in stream:
        with watch.phase("forward"):
            flying.append((batch, encoder.submit(batch.tiles)))
        while len(flying) > AHEAD:
            yield _fetched(flying, stream, watch)
    while flying:
        yield _fetched(flying, stream, watch)


def _fetched(
    flying: deque[tuple[Batch, Pending]], stream: BatchStream, watch: Stopwatch
) -> tuple[Batch, NDArray[np.float32]]:
    batch, pending = flying.popleft()
    with watch.phase("forward"):
        features = pending.result()
    stream.release(batch)
    return batch, features
