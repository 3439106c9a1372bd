"""The stream of batches: every tile once, in order, whatever the neighbours do."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wsi_pipeline.errors import SlideReadError, StoreError
from wsi_pipeline.features import EncoderModel, Preprocess
from wsi_pipeline.features.encoder import Encoder, Runtime
from wsi_pipeline.features.stream import RING, Batch, BatchStream, Begun, Encoded, encode_slides
from wsi_pipeline.timing import Stopwatch

SIDE = 8


class Listed:
    """A slide given as chunks of tiles; may fail after them."""

    def __init__(
        self, slide_id: str, chunks: list[np.ndarray], error: Exception | None = None
    ) -> None:
        self.slide_id = slide_id
        self.chunks = chunks
        self.error = error
        self.given = 0

    def read(self) -> Iterator[np.ndarray]:
        for chunk in self.chunks:
            self.given += len(chunk)
            yield chunk
        if self.error is not None:
            raise self.error


class Sums(nn.Module):
    """Each tile's mean per channel: tells tiles apart, exactly."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(2, 3))


def encoder(batch_size: int = 4) -> Encoder:
    built = EncoderModel(
        model=Sums(), preprocess=Preprocess(mean=(0, 0, 0), std=(1, 1, 1)), tag="sums"
    )
    return Encoder("sums", built, Runtime(device=torch.device("cpu"), batch_size=batch_size))


def slide(slide_id: str, sizes: list[int], error: Exception | None = None) -> Listed:
    rng = np.random.default_rng(abs(hash(slide_id)) % 2**32)
    return Listed(
        slide_id,
        [rng.integers(0, 256, (size, SIDE, SIDE, 3), dtype=np.uint8) for size in sizes],
        error,
    )


def expected(source: Listed) -> np.ndarray:
    tiles = np.concatenate([np.empty((0, SIDE, SIDE, 3), np.uint8), *source.chunks])
    return tiles.mean(axis=(1, 2)) / 255


@given(
    sizes=st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6),
    batch_size=st.integers(1, 7),
)
@settings(deadline=None, max_examples=60)
def test_every_tile_arrives_once_and_in_order(sizes: list[list[int]], batch_size: int) -> None:
    sources = [slide(f"s{number}", chunks) for number, chunks in enumerate(sizes)]
    found: dict[str, list[np.ndarray]] = {source.slide_id: [] for source in sources}
    ended: list[str] = []
    batches: list[int] = []
    with BatchStream(sources, (batch_size, SIDE)) as stream:
        for batch in stream:
            batches.append(batch.count)
            for segment in batch.segments:
                assert segment.slide_id not in ended
                found[segment.slide_id].append(
                    batch.tiles[segment.start : segment.stop].numpy().copy()
                )
            ended += [ending.slide_id for ending in batch.endings]
            stream.release(batch)
    assert ended == [source.slide_id for source in sources]
    assert all(count == batch_size for count in batches[:-1])  # only the last is not full
    for source in sources:
        given_tiles = [chunk for chunk in source.chunks if len(chunk)]
        assert sum(map(len, found[source.slide_id])) == sum(map(len, given_tiles))
        if given_tiles:
            assert np.array_equal(
                np.concatenate(found[source.slide_id]), np.concatenate(given_tiles)
            )


def test_slides_that_share_batches_get_the_features_they_get_alone() -> None:
    sources = [slide("a", [3, 2]), slide("b", [1]), slide("c", [6, 5]), slide("d", [2])]
    together = {
        step.slide_id: step.features
        for step in encode_slides(encoder(), sources, SIDE)
        if isinstance(step, Encoded)
    }
    assert list(together) == ["a", "b", "c", "d"]
    for source in sources:
        alone = [
            step for step in encode_slides(encoder(), [source], SIDE) if isinstance(step, Encoded)
        ]
        assert np.array_equal(together[source.slide_id], alone[0].features)
        np.testing.assert_allclose(together[source.slide_id], expected(source), atol=1e-6)


def test_a_slide_that_fails_halfway_costs_itself() -> None:
    broken = SlideReadError("b: row 7 cannot be decoded")
    sources = [slide("a", [5]), slide("b", [6, 3], broken), slide("c", [7])]
    steps = list(encode_slides(encoder(), sources, SIDE))
    fates = {step.slide_id: step for step in steps if isinstance(step, Encoded)}
    assert fates["b"].error is broken
    assert len(fates["b"].features) == 0
    for source in (sources[0], sources[2]):
        np.testing.assert_allclose(fates[source.slide_id].features, expected(source), atol=1e-6)
    assert [step.slide_id for step in steps if isinstance(step, Begun)] == ["a", "b", "c"]


def test_a_slide_of_another_tile_size_is_refused_and_the_rest_goes_on() -> None:
    odd = Listed("odd", [np.zeros((2, SIDE + 1, SIDE + 1, 3), np.uint8)])
    steps = encode_slides(encoder(), [odd, slide("a", [3])], SIDE)
    fates = {step.slide_id: step for step in steps if isinstance(step, Encoded)}
    assert isinstance(fates["odd"].error, StoreError)
    assert len(fates["a"].features) == 3


def test_reading_ahead_is_bounded_by_the_ring() -> None:
    source = slide("long", [1] * 200)
    with BatchStream([source], (4, SIDE)) as stream:
        first = next(iter(stream))
        deadline = time.monotonic() + 5
        while source.given < 4 * RING and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # it would run on by now
        assert 4 * RING <= source.given <= 4 * RING + 1
        stream.release(first)


def test_leaving_early_ends_the_reader() -> None:
    before = threading.active_count()
    steps = encode_slides(encoder(), [slide("long", [1] * 500)], SIDE)
    assert isinstance(next(steps), Begun)
    steps.close()
    assert threading.active_count() <= before + 4  # lanes of the encoder, no reader
    assert not [thread for thread in threading.enumerate() if thread.name == "tile-reader"]


def test_an_error_of_the_list_of_slides_itself_is_raised() -> None:
    def sources() -> Iterator[Listed]:
        yield slide("a", [2])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(encode_slides(encoder(), sources(), SIDE))


def test_reading_and_waiting_are_timed() -> None:
    class Slow(Listed):
        def read(self) -> Iterator[np.ndarray]:
            for chunk in super().read():
                time.sleep(0.05)
                yield chunk

    watch = Stopwatch()
    list(encode_slides(encoder(), [Slow("slow", slide("slow", [4] * 4).chunks)], SIDE, watch))
    assert watch.seconds["wait"] >= 0.1  # nothing hides a reader this slow


def test_a_batch_takes_what_fits_and_returns_the_rest() -> None:
    batch = Batch(buffer=torch.zeros((3, 2, 2, 3), dtype=torch.uint8))
    tiles = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
    rest = batch.take("a", tiles)
    assert np.array_equal(batch.tiles.numpy(), tiles[:3])
    assert np.array_equal(rest, tiles[3:])
