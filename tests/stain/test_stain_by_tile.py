"""Stains fitted on each tile: near the fit on all its pixels; the slide's where it has none."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline.stain import fit_macenko, fit_stain, normalise, restore_stain, sample_pixels


@pytest.fixture(scope="module")
def tiles(data_dir: Path) -> np.ndarray:
    paths = sorted((data_dir / "liver_tiles").glob("*/*.jpg"))[::20]
    return np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])


def test_each_tile_is_mapped_by_its_own_stains(tiles: np.ndarray) -> None:
    mapped = fit_stain("macenko-tile", sample_pixels(tiles)).apply(tiles)
    away = []
    for tile, ours in zip(tiles, mapped, strict=True):
        stains = fit_macenko(tile.reshape(-1, 3)).stains
        if stains is not None:
            away.append(np.abs(normalise(tile, stains).astype(int) - ours).mean())
    assert len(away) > len(tiles) / 2
    assert np.mean(away) < 1
    assert np.max(away) < 4


def test_a_tile_without_stains_of_its_own_takes_the_slides(tiles: np.ndarray) -> None:
    fitted = fit_stain("macenko-tile", sample_pixels(tiles))
    slide = fit_stain("macenko", sample_pixels(tiles))
    rng = np.random.default_rng(0)
    pale = rng.integers(236, 250, (1, 256, 256, 3)).astype(np.uint8)
    pale[:, :8, :8] = tiles[0, :8, :8]
    assert np.array_equal(fitted.apply(pale), slide.apply(pale))


def test_tiles_do_not_depend_on_their_neighbours_and_the_record_restores(tiles: np.ndarray) -> None:
    fitted = fit_stain("macenko-tile", sample_pixels(tiles))
    whole = fitted.apply(tiles)
    again = restore_stain(fitted.to_attributes())
    assert again.method == "macenko-tile"
    assert np.array_equal(again.apply(tiles[3:5]), whole[3:5])
    into = np.empty_like(tiles)
    assert fitted.apply(tiles, into) is into
    assert np.array_equal(into, whole)
