"""Percentiles and the fit by short cuts, against the plain formulas."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_pipeline.stain import fit_macenko
from wsi_pipeline.stain.percentiles import at_ranks, upper_percentiles
from wsi_pipeline.stain.stains import OPTICAL_DENSITY


def samples() -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    misleading = rng.normal(size=4000)
    misleading[::16] += 100  # just those that the bound is guessed from
    return {
        "usual": rng.gamma(2, 1, 5711),
        "ties": rng.integers(0, 5, 5000).astype(np.float64),
        "one value": np.full(1000, 0.3),
        "misleading": misleading,
        "ascending": np.arange(2000) / 7,
        "few": rng.normal(size=17),
        "two": np.array([3.0, -1.0]),
        "one": np.array([2.5]),
    }


@pytest.mark.parametrize("name", samples())
@pytest.mark.parametrize("asked", [[90, 99], [99.9], [50, 100], [0, 25]])
def test_percentiles_are_numpys_to_the_bit(name: str, asked: list[float]) -> None:
    values = samples()[name]
    before = values.copy()
    assert upper_percentiles(values, asked) == np.percentile(values, asked).tolist()
    assert np.array_equal(values, before)


def test_ranks_may_come_in_any_order() -> None:
    values = samples()["usual"]
    ranks = [5700, 5000, 5000, 5710]
    assert at_ranks(values, ranks) == np.sort(values)[ranks].tolist()


def plain_fit(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Stain matrix, maxima and residual as the publication has them, by NumPy alone."""
    density = OPTICAL_DENSITY.astype(np.float64)[pixels]
    density = density[(density > 0.15).all(axis=1) & (pixels > 20).any(axis=1)]
    _, vectors = np.linalg.eigh(np.cov(density.T))
    plane = vectors[:, [2, 1]] * np.where(vectors[0, [2, 1]] < 0, -1, 1)
    angles = np.arctan2(*(density @ plane).T[::-1])
    low, high = np.percentile(angles, [1, 99])
    pair = np.array([[np.cos(low), np.sin(low)], [np.cos(high), np.sin(high)]]) @ plane.T
    matrix = pair[np.argsort(-pair[:, 0])]
    concentrations, *_ = np.linalg.lstsq(matrix.T, density.T, rcond=None)
    residual = np.linalg.norm(density.T - matrix.T @ concentrations) / np.linalg.norm(density)
    return matrix, np.percentile(concentrations, 99, axis=1), float(residual)


def test_the_fit_is_the_published_one(data_dir: Path) -> None:
    fitted = 0
    for path in sorted((data_dir / "liver_tiles").glob("*/*.jpg"))[::20]:
        bgr = cv2.imread(str(path))
        assert bgr is not None
        pixels = np.asarray(bgr[..., ::-1].reshape(-1, 3)[::5], np.uint8)
        fit = fit_macenko(pixels)
        if fit.stains is None:
            continue
        fitted += 1
        matrix, maxima, residual = plain_fit(pixels)
        np.testing.assert_allclose(fit.stains.matrix, matrix, rtol=1e-9)
        np.testing.assert_allclose(fit.stains.maxima, maxima, rtol=1e-9)
        assert fit.diagnostics["residual_fraction"] == pytest.approx(residual, rel=1e-9)
    assert fitted > 3
