"""Focus, ink and background on degraded copies of real and made tiles."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline.tissue import background_fractions, focus, ink_fractions, pen_fractions
from wsi_pipeline.types import RgbImage, RgbTiles


def read(path: Path) -> RgbImage:
    bgr = cv2.imread(str(path))
    assert bgr is not None
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@pytest.fixture(scope="module")
def liver(data_dir: Path) -> RgbTiles:
    paths = sorted((data_dir / "liver_tiles").glob("*/*.jpg"))
    return np.stack([read(path) for path in paths[::3]])


def noise(count: int = 3, seed: int = 0) -> RgbTiles:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3)).astype(np.uint8)


def test_focus_equals_a_plain_laplacian() -> None:
    tiles = noise()
    for tile, score in zip(tiles, focus(tiles), strict=True):
        grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY).astype(float)
        padded = np.pad(grey, 1, mode="reflect")
        laplacian = (
            padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
        )
        assert score == pytest.approx(laplacian.var(), rel=1e-5)


def test_focus_falls_with_blur_on_every_real_tile(liver: RgbTiles) -> None:
    def blurred(sigma: float) -> RgbTiles:
        return np.stack([cv2.GaussianBlur(t, (0, 0), sigma) for t in liver]).astype(np.uint8)

    sharp, soft, softer = focus(liver), focus(blurred(1.0)), focus(blurred(2.5))
    assert (soft < sharp / 2).all()
    assert (softer < soft / 2).all()
    assert sharp.min() > softer.max()


def test_flat_tile_has_no_focus() -> None:
    assert focus(np.full((1, 32, 32, 3), 240, np.uint8))[0] == 0


def test_background_counts_pixels_whose_channels_all_reach_the_threshold() -> None:
    tiles = noise()
    for threshold in (0, 128, 220, 255):
        expected = (tiles >= threshold).all(axis=3).mean(axis=(1, 2))
        np.testing.assert_allclose(background_fractions(tiles, threshold), expected, rtol=1e-6)


def test_background_threshold_outside_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="255"):
        background_fractions(noise(), 256)


def test_ink_is_hardly_ever_seen_on_clean_liver(liver: RgbTiles) -> None:
    assert (pen_fractions(liver) > 0.05).mean() == 0


@pytest.mark.parametrize(
    ("name", "colour", "least"),
    [
        ("no-tissue-green-pen", "green", 0.6),
        ("medium-nuclei-score-green-pen-level1", "green", 0.2),
        ("tcga-red-pen", "red", 0.1),
        ("very-low-nuclei-score-red-pen-level1", "red", 0.08),
        ("no-tissue-red-pen", "red", 0.1),
        ("wsi-blue-pen", "blue", 0.01),
        ("diagnostic-slide-thumb-rgb", "black", 0.03),
    ],
)
def test_real_ink_is_seen_in_its_colour(
    data_dir: Path, name: str, colour: str, least: float
) -> None:
    tile = read(data_dir / "pen" / f"{name}.png")[None]
    assert ink_fractions(tile, 20.0 if "thumb" in name else 0.5)[colour][0] > least


@pytest.mark.parametrize(
    "name",
    [
        "medium-nuclei-score-level1",
        "almost-white-1",
        "no-tissue",
        "no-tissue-line",
        "tcga-lung-rgb",
    ],
)
def test_fields_without_ink_are_clean(data_dir: Path, name: str) -> None:
    assert pen_fractions(read(data_dir / "pen" / f"{name}.png")[None])[0] < 0.01


def test_ink_by_colour_adds_up(data_dir: Path) -> None:
    tile = read(data_dir / "pen" / "diagnostic-slide-thumb-rgb.png")[None]
    by_colour = ink_fractions(tile)
    assert list(by_colour) == ["red", "green", "blue", "black", "violet"]
    assert pen_fractions(tile)[0] == pytest.approx(sum(v[0] for v in by_colour.values()), abs=0.005)


def test_no_tiles_give_no_scores() -> None:
    nothing = np.zeros((0, 256, 256, 3), np.uint8)
    for measure in (focus, pen_fractions, background_fractions):
        assert measure(nothing).shape == (0,)
        assert measure(nothing).dtype == np.float32


def test_float_tiles_are_refused() -> None:
    for measure in (focus, pen_fractions, background_fractions):
        with pytest.raises(ValueError, match="uint8"):
            measure(np.zeros((1, 8, 8, 3), np.float32))  # type: ignore[arg-type]
