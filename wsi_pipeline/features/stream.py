"""Slides through an encoder, one stream for all: the device is fed across slide boundaries."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.features.batches import Batch, BatchStream, TileSource
from wsi_pipeline.features.encoder import Encoder, Pending
from wsi_pipeline.timing import Stopwatch

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
) -> Generator[Begun | Encoded]:
    """Encode slides one after the other.

    A slide's features do not depend on the slides before and after it, nor on the batch size
    beyond floating-point noise.

    Args:
        encoder: Ready to encode.
        sources: The slides; each is read in the reader's thread when its turn comes.
        tile_px: Side of the tiles, the same for all.
        watch: Told how long the network works and waits for tiles.

    Yields:
        :class:`Begun` once a slide's first tiles are encoded, :class:`Encoded` once it is through,
        in the order of ``sources``. A source that raises yields its error and no features.
    """
    watch = watch or Stopwatch()
    parts: dict[str, list[NDArray[np.float32]]] = {}
    shape = (encoder.batch_size * encoder.lanes, tile_px)
    pin = encoder.device.type == "cuda"
    with BatchStream(sources, shape, pin=pin, watch=watch) as stream, encoder.at_work():
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
            yield _landed(flying, stream, watch)
    while flying:
        yield _landed(flying, stream, watch)


def _landed(
    flying: deque[tuple[Batch, Pending]], stream: BatchStream, watch: Stopwatch
) -> tuple[Batch, NDArray[np.float32]]:
    batch, pending = flying.popleft()
    with watch.phase("forward"):
        features = pending.result()
    stream.release(batch)
    return batch, features
