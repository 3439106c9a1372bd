"""Tissue fractions against area computed pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsi_pipeline.tissue import tissue_fractions
from wsi_pipeline.types import Mask


def by_hand(mask: Mask, x: float, y: float, side: float) -> float:
    """Area of the square (mask pixels) on true pixels, over the square's area."""
    height, width = mask.shape
    along = [max(0.0, min(x + side, i + 1) - max(x, i)) for i in range(width)]
    down = [max(0.0, min(y + side, j + 1) - max(y, j)) for j in range(height)]
    return float(np.array(down) @ mask.astype(float) @ np.array(along)) / side**2


@settings(max_examples=150, deadline=None)
@given(
    mask=arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    coords=st.lists(st.tuples(st.integers(-60, 250), st.integers(-60, 250)), max_size=5),
    tile=st.floats(0.5, 150),
    downsample=st.floats(1, 40),
    origin=st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
)
def test_equals_brute_force(
    mask: Mask,
    coords: list[tuple[int, int]],
    tile: float,
    downsample: float,
    origin: tuple[int, int],
) -> None:
    array = np.array(coords, np.int64).reshape(-1, 2)
    found = tissue_fractions(mask, array, tile, downsample, origin)
    expected = [
        by_hand(mask, (x - origin[0]) / downsample, (y - origin[1]) / downsample, tile / downsample)
        for x, y in coords
    ]
    assert found.shape == (len(coords),)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_literal_quarter() -> None:
    mask = np.array([[True, False], [False, False]])
    found = tissue_fractions(mask, np.array([[0, 0], [5, 5], [15, 0]], np.int64), 20, 10)
    np.testing.assert_allclose(found, [0.25, 0.0625, 0.0])


def test_bad_arguments_are_refused() -> None:
    mask, coords = np.ones((4, 4), bool), np.zeros((1, 2), np.int64)
    with pytest.raises(ValueError, match="positive"):
        tissue_fractions(mask, coords, 256, 0)
    with pytest.raises(ValueError, match="coords"):
        tissue_fractions(mask, coords[0], 256, 16)
