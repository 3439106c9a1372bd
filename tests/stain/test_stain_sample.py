"""Sampling: uniform, seeded, and enough of it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import StainFitError
from wsi_pipeline.stain import PixelSampler, sample_pixels


def numbered(start: int, stop: int) -> np.ndarray:
    """Pixels whose colour is their number, (P, 3) uint8."""
    number = np.arange(start, stop)
    return np.stack([number >> shift & 255 for shift in (0, 8, 16)], axis=1).astype(np.uint8)


def numbers(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.int64) @ np.array([1, 256, 65536])


@given(st.lists(st.integers(0, 400), max_size=8), st.integers(1, 300), st.integers(0, 5))
def test_sample_has_no_repeats_and_the_right_size(blocks: list[int], count: int, seed: int) -> None:
    sampler = PixelSampler(count, seed)
    edges = np.concatenate([[0], np.cumsum(blocks)]).astype(int)
    for start, stop in pairwise(edges):
        sampler.add(numbered(start, stop))
    drawn = numbers(sampler.pixels())
    assert len(drawn) == len(set(drawn.tolist())) == min(count, edges[-1])
    assert (drawn < edges[-1]).all()


def test_every_block_and_every_jpeg_phase_is_equally_likely() -> None:
    sampler = PixelSampler(20_000, seed=3)
    for start in range(0, 400_000, 40_000):
        sampler.add(numbered(start, start + 40_000))
    drawn = numbers(sampler.pixels())
    per_block = np.bincount(drawn // 40_000, minlength=10)
    assert np.abs(per_block - 2000).max() < 5 * np.sqrt(2000)
    per_phase = np.bincount(drawn % 8, minlength=8)
    assert np.abs(per_phase - 2500).max() < 5 * np.sqrt(2500)


def test_seed_decides() -> None:
    tiles = numbered(0, 4096).reshape(1, 64, 64, 3)
    assert (sample_pixels(tiles, 100, seed=1) == sample_pixels(tiles, 100, seed=1)).all()
    assert set(numbers(sample_pixels(tiles, 100, seed=1)).tolist()) != set(
        numbers(sample_pixels(tiles, 100, seed=2)).tolist()
    )


def test_mask_restricts() -> None:
    tiles = numbered(0, 4096).reshape(1, 64, 64, 3)
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 10] = True
    assert sorted(numbers(sample_pixels(tiles, 1000, mask=mask)).tolist()) == list(range(640, 704))
    with pytest.raises(StainFitError, match="mask"):
        sample_pixels(tiles, 10, mask=mask[0])
