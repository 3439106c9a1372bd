"""The stain map: exact where it must be."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsi_pipeline.errors import StainFitError
from wsi_pipeline.stain import REFERENCE, Stains, density_map, fit_macenko, normalise
from wsi_pipeline.stain.stains import unit_rows

VIOLET = Stains(
    matrix=unit_rows(np.array([[0.66, 0.73, 0.18], [0.31, 0.93, 0.20]])),
    maxima=np.array([1.9, 1.2]),
)
SIDE = st.integers(1, 9)
TILES = arrays(np.uint8, st.tuples(st.integers(0, 3), SIDE, SIDE, st.just(3)))


def liver_tiles(data_dir: Path) -> np.ndarray:
    paths = sorted((data_dir / "liver_tiles").glob("*/*.jpg"))[:16]
    return np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])


def exact(tiles: np.ndarray, source: Stains, target: Stains) -> np.ndarray:
    """The definition, in float64: density, concentrations, rescaling, recomposition."""
    density = -np.log(np.maximum(tiles, 1) / 255.0).reshape(-1, 3)
    concentrations = np.linalg.lstsq(source.matrix.T, density.T, rcond=None)[0].T
    scaled = concentrations * target.maxima / source.maxima
    return np.clip(np.rint(255 * np.exp(-scaled @ target.matrix)), 0, 255).reshape(tiles.shape)


def difference(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max(initial=0))


@settings(max_examples=60)
@given(TILES)
def test_normalise_follows_its_definition(tiles: np.ndarray) -> None:
    assert difference(normalise(tiles, VIOLET), exact(tiles, VIOLET, REFERENCE)) <= 1


def test_real_tissue_is_mapped_as_defined(data_dir: Path) -> None:
    tiles = liver_tiles(data_dir)
    stains = fit_macenko(tiles.reshape(-1, 3)).stains
    assert stains is not None
    mapped = normalise(tiles, stains)
    assert difference(mapped, exact(tiles, stains, REFERENCE)) <= 1
    assert np.abs(mapped.astype(int) - tiles).mean() > 5  # it did something


def test_normalised_tissue_has_the_reference_stains(data_dir: Path) -> None:
    tiles = liver_tiles(data_dir)
    stains = fit_macenko(tiles.reshape(-1, 3)).stains
    again = fit_macenko(normalise(tiles, stains).reshape(-1, 3)).stains
    assert again is not None
    assert np.allclose(again.matrix, REFERENCE.matrix, atol=0.08)
    assert np.allclose(again.maxima, REFERENCE.maxima, rtol=0.15)


def test_white_stays_white_and_own_stains_change_nothing() -> None:
    white = np.full((2, 8, 8, 3), 255, np.uint8)
    assert (normalise(white, VIOLET) == 255).all()
    share = np.linspace(0, 1, 64)[:, None]
    colours = 255 * np.exp(-np.hstack([share, 1 - share]) @ VIOLET.matrix)
    tile = np.rint(colours).astype(np.uint8).reshape(1, 8, 8, 3)
    assert difference(normalise(tile, VIOLET, VIOLET), tile) <= 1


def test_pure_stains_land_on_the_reference() -> None:
    full = (VIOLET.maxima[:, None] * VIOLET.matrix) @ density_map(VIOLET).T
    assert np.allclose(full, REFERENCE.maxima[:, None] * REFERENCE.matrix)


def test_no_stains_is_identity() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    out = np.empty_like(tiles)
    assert normalise(tiles, None) is tiles
    assert (normalise(tiles, None, out=out) == tiles).all()


def test_out_may_be_the_input_or_a_view() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (3, 300, 40, 3)).astype(np.uint8)
    expected = normalise(tiles, VIOLET)
    roomy = np.zeros((3, 300, 80, 3), np.uint8)
    normalise(tiles, VIOLET, out=roomy[:, :, 20:60])
    assert (roomy[:, :, 20:60] == expected).all()
    assert (roomy[:, :, :20] == 0).all()
    inplace = tiles.copy()
    assert normalise(inplace, VIOLET, out=inplace) is inplace
    assert (inplace == expected).all()
    assert (normalise(tiles[:, ::2], VIOLET) == expected[:, ::2]).all()


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(StainFitError, match="uint8"):
        normalise(np.zeros((1, 2, 2, 3), np.float32), VIOLET)
    with pytest.raises(StainFitError, match="out must be"):
        normalise(np.zeros((1, 2, 2, 3), np.uint8), VIOLET, out=np.zeros((1, 2, 3, 3), np.uint8))
