"""Connected pieces against their counting by hand, and an overview against the plain formulas."""

import cv2
import numpy as np
import pytest

from wsi_pipeline.tissue.methods import appearance
from wsi_pipeline.tissue.pieces import Pieces

MASK = np.array(
    [
        [1, 1, 0, 0, 0],
        [1, 0, 0, 0, 1],
        [0, 1, 0, 0, 1],
        [0, 0, 0, 1, 0],
    ],
    bool,
)


@pytest.mark.parametrize(("connectivity", "areas"), [(4, [1, 1, 2, 3]), (8, [3, 4])])
def test_pieces_are_counted_and_kept_by_area(connectivity: int, areas: list[int]) -> None:
    pieces = Pieces(MASK, connectivity)
    assert sorted(pieces.areas) == areas
    largest = pieces.areas == max(areas)
    assert pieces.keep(largest).sum() == max(areas)
    assert not (pieces.keep(largest) & ~MASK).any()
    np.testing.assert_array_equal(pieces.keep(pieces.areas > 0), MASK)
    left = np.zeros_like(MASK)
    left[:, :2] = True
    assert sorted(pieces.areas_of(left)) == {4: [0, 0, 1, 3], 8: [0, 4]}[connectivity]


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_of_one_kind_is_no_piece_or_one(value: bool) -> None:
    mask = np.full((3, 4), value)
    pieces = Pieces(mask, 4)
    assert list(pieces.areas) == [12] * value
    np.testing.assert_array_equal(pieces.keep(pieces.areas > 5), mask)


def test_saturation_and_density_are_those_of_the_plain_formulas() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    rgb = np.asarray(cv2.resize(small, (250, 200)), np.uint8)
    rgb[:60] = (240, 236, 243)
    view = appearance(rgb, np.zeros(rgb.shape[:2], bool))
    assert view.has_glass
    light = cv2.GaussianBlur(rgb, (0, 0), 1.0) / view.glass
    density = -np.log10(np.clip(light, 0.1, 1)).mean(axis=2)
    np.testing.assert_allclose(view.density, density, atol=1e-6)
    balanced = np.round(np.minimum(light, 1) * 255)
    highest = balanced.max(axis=2)
    saturation = (highest - balanced.min(axis=2)) / np.maximum(highest, 1)
    np.testing.assert_allclose(view.saturation, saturation, atol=1 / 255)
