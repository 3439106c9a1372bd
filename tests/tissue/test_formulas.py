"""The fast ways of judging tiles against their plain formulas, to the bit."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_pipeline.tissue import (
    CoarseTiles,
    background_fractions,
    blood_fractions,
    coarse_pen_fractions,
    coarse_tiles,
    focus,
    fold_fractions,
    reduce_tiles,
)
from wsi_pipeline.tissue.ink import RULES, InkRule, ink_marks, of_colour
from wsi_pipeline.types import RgbImage, RgbTiles

GLASS = np.array([243, 237, 250], np.uint8)
FOLD, BLOOD = -0.4, 0.65

Measure = Callable[[CoarseTiles], NDArray[np.float32]]
MEASURES: dict[str, Measure] = {
    "pen": coarse_pen_fractions,
    "fold": lambda coarse: fold_fractions(coarse, GLASS, FOLD),
    "blood": lambda coarse: blood_fractions(coarse, GLASS, BLOOD),
    "background": lambda coarse: background_fractions(coarse.rgb, 140),
}


def patches(count: int, side: int, seed: int = 0) -> RgbTiles:
    """Blurred noise of all colours and shades: some of everything that is looked for."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    small[::2] //= 3
    return np.stack([cv2.resize(tile, (side, side)) for tile in small]).astype(np.uint8)


def coarse() -> CoarseTiles:
    return CoarseTiles(rgb=patches(21, 64), um_per_px=2.0)


def all_colours() -> RgbTiles:
    """(256, 64, 64, 3): a tile for each level of red, every fourth of green and of blue."""
    red, green, blue = np.meshgrid(
        np.arange(256), np.arange(3, 256, 4), np.arange(1, 256, 4), indexing="ij"
    )
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def light(tiles: RgbTiles) -> NDArray[np.float32]:
    return np.clip(tiles / GLASS.astype(np.float64), 0.01, 1).astype(np.float32)


@pytest.mark.parametrize("name", MEASURES)
def test_a_tile_measures_the_same_among_many(name: str) -> None:
    many = coarse()
    alone = [
        MEASURES[name](CoarseTiles(rgb=many.rgb[i : i + 1], um_per_px=2.0))[0]
        for i in range(len(many.rgb))
    ]
    assert len(set(alone)) > 3
    np.testing.assert_array_equal(MEASURES[name](many), alone)


@pytest.mark.parametrize("name", MEASURES)
def test_no_tiles_have_no_measures(name: str) -> None:
    none = MEASURES[name](CoarseTiles(rgb=patches(1, 64)[:0], um_per_px=2.0))
    assert none.shape == (0,)
    assert none.dtype == np.float32


@pytest.mark.parametrize("threshold", [0.3, BLOOD, 1.5])
def test_blood_is_what_the_ratios_of_density_say(threshold: float) -> None:
    tiles = all_colours()
    smooth = np.stack([cv2.blur(tile, (3, 3)) for tile in tiles])
    red, green, blue = np.moveaxis(
        -np.log10(np.clip(smooth / GLASS.astype(np.float64), 0.01, 1)).astype(np.float32), -1, 0
    )
    plain = (green > 0.15) & (red < 0.45 * green) & (blue > threshold * green)
    found = blood_fractions(CoarseTiles(rgb=tiles, um_per_px=2.0), GLASS, threshold)
    assert plain.any()
    np.testing.assert_array_equal(found, plain.mean(axis=(1, 2)).astype(np.float32))


def test_folds_are_broad_ridges_of_saturation_less_intensity() -> None:
    many = coarse()
    through = light(many.rgb)
    intensity = (through[..., 0] + through[..., 1] + through[..., 2]) / 3
    difference = 1 - through.min(axis=3) / intensity - intensity
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    plain = [
        cv2.morphologyEx(
            (cv2.GaussianBlur(tile, (0, 0), 3.0) > FOLD).astype(np.uint8), cv2.MORPH_OPEN, ellipse
        ).mean()
        for tile in difference
    ]
    assert 0 < np.mean(plain) < 1
    np.testing.assert_array_equal(fold_fractions(many, GLASS, FOLD), np.float32(plain))


def matches(rule: InkRule, rgb: RgbImage) -> NDArray[np.bool_]:
    """A rule as its bounds say it, pixel by pixel."""
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV_FULL).astype(np.int64)
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    chroma = cv2.multiply(*(plane.astype(np.uint8) for plane in (saturation, value)), scale=1 / 255)
    first, last = (round(degrees / 360 * 255) for degrees in rule.hue)
    turned = (hue - first) % 256 <= (last - first) % 256
    inside = [
        (round(255 * low) <= plane) & (plane <= round(255 * high))
        for plane, (low, high) in ((saturation, rule.saturation), (value, rule.value))
    ]
    return turned & inside[0] & inside[1] & (chroma <= round(255 * rule.max_chroma))


@pytest.mark.parametrize("name", RULES)
def test_ink_is_what_its_rules_say(name: str) -> None:
    picture = all_colours().reshape(-1, 64, 3)
    plain = np.any([matches(rule, picture) for rule in RULES[name]], axis=0)
    assert 0 < plain.mean() < 0.5
    np.testing.assert_array_equal(of_colour(ink_marks(picture), name), plain)


@pytest.mark.parametrize("size", [(32, 32), (48, 40), (24, 24), (96, 96), (48, 96)])
def test_tiles_are_halved_as_far_as_it_goes(size: tuple[int, int]) -> None:
    tiles = patches(3, 96)
    for tile, small in zip(tiles, reduce_tiles(tiles, size), strict=True):
        side = 96
        while side % 2 == 0 and side >= 2 * max(size):
            side //= 2
            tile = cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(small, cv2.resize(tile, size, interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("places", [[4, 0, 5], [1], [], [0, 1, 2, 3, 4, 5]])
def test_some_tiles_are_as_sharp_as_they_are_by_themselves(places: list[int]) -> None:
    tiles = patches(6, 256)
    chosen = np.array(places, np.int64)
    np.testing.assert_array_equal(focus(tiles, chosen), focus(tiles[chosen]))
    small = coarse_tiles(tiles, 0.5)
    np.testing.assert_array_equal(small.at(chosen).rgb, coarse_tiles(tiles[chosen], 0.5).rgb)
