"""Macenko's fit: right on real H&E, silent on anything else."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import StainFitError
from wsi_pipeline.stain import REFERENCE, Stains, fit_macenko, sample_pixels
from wsi_pipeline.stain.stains import angle_deg, unit_rows

HE_SLIDES = [
    "CMU-1-Small-Region.svs",
    "TCGA-CR-7395-01A-01-TS1.svs",
    "liver_glycogen_HE.tif",
    "PDAC-tru-cut_HE3.svs",
]


def tissue_tiles(path: Path, count: int = 24, seed: int = 0) -> np.ndarray:
    """Random 256 px tiles centred on dark pixels of the lowest level, (N, 256, 256, 3)."""
    with openslide.OpenSlide(path) as slide:
        level = slide.level_count - 1
        downsample = slide.level_downsamples[level]
        size = slide.level_dimensions[level]
        low = np.array(slide.read_region((0, 0), level, size).convert("RGB"))
        dark = cv2.erode((low.mean(axis=2) < 210).astype(np.uint8), np.ones((5, 5), np.uint8))
        rows, columns = np.nonzero(dark)
        width, height = slide.dimensions
        chosen = np.random.default_rng(seed).choice(len(rows), count)
        corners = np.stack([columns[chosen], rows[chosen]], axis=1) * downsample - 128
        corners = np.clip(corners, 0, [width - 256, height - 256]).astype(int)
        tiles = [slide.read_region((x, y), 0, (256, 256)) for x, y in corners.tolist()]
    return np.stack([np.array(tile.convert("RGB")) for tile in tiles])


def image(path: Path) -> np.ndarray:
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])


def painted(stains: Stains, count: int = 20_000, seed: int = 0) -> np.ndarray:
    """Pixels that two dyes would give, (P, 3) uint8."""
    rng = np.random.default_rng(seed)
    share = rng.beta(0.4, 0.4, (count, 1))
    amount = rng.uniform(0.6, 1.0, (count, 1))
    concentrations = np.hstack([share, 1 - share]) * amount * stains.maxima
    return np.rint(255 * np.exp(-concentrations @ stains.matrix)).astype(np.uint8)


@pytest.mark.parametrize("name", HE_SLIDES)
def test_he_slides_pass(data_dir: Path, name: str) -> None:
    fit = fit_macenko(sample_pixels(tissue_tiles(data_dir / "slides" / name)))
    assert fit.flags == ()
    assert fit.stains is not None
    assert fit.stains.matrix[0, 0] > fit.stains.matrix[1, 0]  # haematoxylin absorbs more red


@pytest.mark.parametrize("name", ["source.png", "target.png"])
def test_he_fields_pass(data_dir: Path, name: str) -> None:
    assert fit_macenko(image(data_dir / "stain" / name).reshape(-1, 3)).flags == ()


@pytest.mark.parametrize("seed", range(4))
def test_pas_is_noticed(data_dir: Path, seed: int) -> None:
    tiles = tissue_tiles(data_dir / "slides" / "liver_glycogen_PAS.tif", count=8, seed=seed)
    fit = fit_macenko(sample_pixels(tiles, seed=seed))
    assert fit.stains is None
    assert fit.flags == ("not_he",)
    # the same biopsy in H&E, measured alike, stays far from the limit
    he = fit_macenko(sample_pixels(tissue_tiles(data_dir / "slides" / HE_SLIDES[2], 8, seed)))
    assert fit.diagnostics["e_red_density_p90"] > 2 * he.diagnostics["e_red_density_p90"]


def test_immunohistochemistry_is_noticed(data_dir: Path) -> None:
    overviews = sorted((data_dir / "tma").glob("*.png"))
    fits = {path.name: fit_macenko(image(path).reshape(-1, 3)) for path in overviews}
    assert fits
    assert [name for name, fit in fits.items() if fit.stains is not None] == []


@pytest.mark.parametrize("name", ["no-tissue.png", "almost-white-1.png", "no-tissue-green-pen.png"])
def test_images_without_tissue_are_flagged(data_dir: Path, name: str) -> None:
    assert fit_macenko(image(data_dir / "pen" / name).reshape(-1, 3)).stains is None


def test_planted_stains_are_recovered() -> None:
    matrix = unit_rows(np.array([[0.60, 0.70, 0.35], [0.15, 0.85, 0.45]]))
    planted = Stains(matrix=matrix, maxima=np.array([2.2, 1.4]))
    found = fit_macenko(painted(planted)).stains
    assert found is not None
    assert angle_deg(found.matrix[0], matrix[0]) < 1.0
    assert angle_deg(found.matrix[1], matrix[1]) < 1.0
    assert np.allclose(found.maxima, planted.maxima, rtol=0.05)


def grey(count: int) -> np.ndarray:
    level = np.random.default_rng(1).integers(60, 200, (count, 1))
    noise = np.random.default_rng(2).integers(-2, 3, (count, 3))
    return (level + noise).astype(np.uint8)


ODD = {
    "none": np.empty((0, 3), np.uint8),
    "one": np.zeros((1, 3), np.uint8),
    "white": np.full((5000, 3), 255, np.uint8),
    "black": np.zeros((5000, 3), np.uint8),
    "one colour": np.full((5000, 3), (150, 90, 160), np.uint8),
    "grey": grey(5000),
    "noise": np.random.default_rng(0).integers(0, 256, (5000, 3)).astype(np.uint8),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_input_is_flagged_not_fatal(name: str) -> None:
    fit = fit_macenko(ODD[name])
    assert fit.stains is None
    assert len(fit.flags) == 1


def test_one_dye_is_near_parallel() -> None:
    amount = np.random.default_rng(0).uniform(0.5, 2.0, (5000, 1))
    pixels = np.rint(255 * np.exp(-amount * REFERENCE.matrix[:1])).astype(np.uint8)
    assert fit_macenko(pixels).flags == ("near_parallel_stains",)


@given(
    st.lists(st.tuples(*[st.integers(0, 255)] * 3), max_size=12),
    st.integers(1, 200),
    st.floats(0.0, 1.0),
)
def test_any_pixels_give_stains_or_flags(
    colours: list[tuple[int, int, int]], repeat: int, beta: float
) -> None:
    pixels = np.array(colours * repeat, np.uint8).reshape(-1, 3)
    fit = fit_macenko(pixels, beta=beta, min_pixels=2)
    assert (fit.stains is None) == bool(fit.flags)


def test_wrong_shape_is_the_callers_error() -> None:
    with pytest.raises(StainFitError, match="uint8"):
        fit_macenko(np.zeros((4, 4, 3), np.uint8))


def test_stains_refuse_what_cannot_be_inverted() -> None:
    row = REFERENCE.matrix[0]
    with pytest.raises(StainFitError, match="apart"):
        Stains(matrix=np.stack([row, row]), maxima=np.ones(2))
    with pytest.raises(StainFitError, match="positive"):
        Stains(matrix=REFERENCE.matrix, maxima=np.array([1.0, 0.0]))
    with pytest.raises(StainFitError, match="unit"):
        Stains(matrix=REFERENCE.matrix * 2, maxima=np.ones(2))


def test_stains_survive_storage() -> None:
    assert Stains.from_attributes(REFERENCE.to_attributes()) == REFERENCE
    with pytest.raises(StainFitError, match="maxima"):
        Stains.from_attributes({"matrix": REFERENCE.matrix.tolist()})


@given(st.integers(0, 10_000), st.integers(2, 400), st.booleans(), st.sampled_from([0, 1, 37.5]))
def test_percentiles_of_angles_are_numpys(seed: int, count: int, ahead: bool, alpha: float) -> None:
    from wsi_pipeline.stain.macenko import _angle_percentiles

    rng = np.random.default_rng(seed)
    along = rng.normal(size=count)
    along = np.abs(along) + 1e-3 if ahead else along
    across = rng.normal(size=count)
    expected = np.percentile(np.arctan2(across, along), [alpha, 100 - alpha])
    np.testing.assert_allclose(_angle_percentiles(along, across, alpha), expected, atol=1e-12)
