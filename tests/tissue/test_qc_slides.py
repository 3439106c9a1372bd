"""Flags against the slide's own distribution: folds over real tissue, blood, ink on keratin."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles import TileSettings
from wsi_pipeline.tiles.blocks import read_blocks
from wsi_pipeline.tiles.plan import plan_slide
from wsi_pipeline.tissue import (
    background_fractions,
    blood_fractions,
    blood_threshold,
    coarse_tiles,
    fold_fractions,
    fold_threshold,
    ink_fractions,
    pen_fractions,
    sharpness,
)
from wsi_pipeline.types import RgbTiles

FOLDED = 0.1


@dataclass(frozen=True, kw_only=True)
class Real:
    """Tiles of one real slide at 0.5 µm/px, as scanned."""

    tiles: RgbTiles
    glass: NDArray[np.uint8]


def tiles_of(path: Path, count: int = 100, least_tissue: float = 0.8) -> Real:
    settings = TileSettings(mpp_override=0.5, force_mpp=True, min_tissue_fraction=least_tissue)
    with open_slide(path) as slide:
        plan = plan_slide(slide, settings)
        wanted = np.flatnonzero(plan.wanted)
        chosen = np.sort(np.random.default_rng(0).permutation(wanted)[:count])
        blocks = read_blocks(slide, plan.grid, chosen)
        return Real(tiles=np.concatenate([b.tiles for b in blocks]), glass=plan.glass)


@pytest.fixture(scope="module")
def liver(data_dir: Path) -> Real:
    return tiles_of(data_dir / "slides" / "liver_glycogen_HE.tif")


@pytest.fixture(scope="module")
def skin(data_dir: Path) -> Real:
    return tiles_of(data_dir / "slides" / "CMU-1-Small-Region.svs", least_tissue=0.5)


def folded(real: Real, width_px: int) -> RgbTiles:
    """A second tile of the slide over a slanting band of each: light passes both."""
    y, x = np.mgrid[:256, :256]
    band = (abs((x - 128) * np.cos(0.7) + (y - 128) * np.sin(0.7)) < width_px / 2).astype(
        np.float32
    )
    band = cv2.GaussianBlur(band, (0, 0), 3)[..., None]
    below = np.roll(real.tiles, 1, axis=0) / real.glass.astype(np.float32)
    return (real.tiles * (1 - band + band * np.minimum(below, 1))).astype(np.uint8)


def share_folded(tiles: RgbTiles, real: Real, deviations: float = 3.0) -> float:
    threshold = fold_threshold(coarse_tiles(real.tiles), real.glass, deviations)
    fractions = fold_fractions(coarse_tiles(tiles), real.glass, threshold)
    return float((fractions > FOLDED).mean())


@pytest.mark.parametrize("slide", ["liver", "skin"])
def test_sharpness_parts_sharp_from_blurred(slide: str, request: pytest.FixtureRequest) -> None:
    tiles = request.getfixturevalue(slide).tiles
    dense = tiles[background_fractions(tiles) < 0.5]

    def range_at(sigma: float) -> tuple[float, float]:
        blurred = [cv2.GaussianBlur(tile, (0, 0), sigma) if sigma else tile for tile in dense]
        found = sharpness(np.stack(blurred).astype(np.uint8))
        return float(found.min()), float(found.max())

    assert range_at(0)[0] > 0.24
    assert max(range_at(sigma)[1] for sigma in (1.0, 1.5, 3.0, 12.0)) < 0.15


def test_wide_folds_are_found_and_flat_liver_is_left_alone(liver: Real) -> None:
    clean, narrow, wide = (share_folded(tiles, liver) for tiles in (
        liver.tiles, folded(liver, 60), folded(liver, 120)))  # fmt: skip
    assert clean < 0.08
    assert narrow > 0.3
    assert wide > 0.8


def test_fewer_deviations_find_more_folds_and_more_that_are_none(liver: Real) -> None:
    narrow = folded(liver, 60)
    assert share_folded(narrow, liver, 2.5) > share_folded(narrow, liver, 3.0)
    assert share_folded(liver.tiles, liver, 1.5) > share_folded(liver.tiles, liver, 3.0)


def test_a_slide_darker_throughout_has_no_more_folds(liver: Real) -> None:
    thick = (liver.tiles.astype(np.float32) ** 2 / liver.glass).clip(0, 255).astype(np.uint8)
    same = Real(tiles=thick, glass=liver.glass)
    assert share_folded(thick, same) < 0.08


def test_dark_nuclei_alone_are_no_fold() -> None:
    tiles = np.full((4, 256, 256, 3), (225, 170, 205), np.uint8)
    rng = np.random.default_rng(0)
    for tile in tiles:
        for x, y in rng.integers(10, 246, (60, 2)).tolist():
            cv2.circle(tile, (x, y), 7, (60, 30, 110), cv2.FILLED)
    real = Real(tiles=tiles, glass=np.full(3, 245, np.uint8))
    assert share_folded(tiles, real) == 0


def test_glass_alone_gives_no_threshold_and_no_flags() -> None:
    glass = np.full(3, 244, np.uint8)
    coarse = coarse_tiles(np.full((2, 64, 64, 3), 244, np.uint8))
    assert not fold_fractions(coarse, glass, fold_threshold(coarse, glass)).any()
    assert not blood_fractions(coarse, glass, blood_threshold(coarse, glass)).any()


@pytest.fixture(scope="module")
def pancreas(data_dir: Path) -> Real:
    return tiles_of(data_dir / "slides" / "PDAC-tru-cut_HE3.svs", 40)


@pytest.fixture(scope="module")
def vessel(data_dir: Path) -> RgbTiles:
    """(1, 256, 256, 3): a vessel full of erythrocytes among pancreatic tissue."""
    with open_slide(data_dir / "slides" / "PDAC-tru-cut_HE3.svs") as slide:
        side = round(256 * 0.5 / 0.263)
        pixels = slide.read(0, 13636, 3896, side, side)
    return np.asarray(cv2.resize(pixels, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)[None]


def test_a_pool_of_erythrocytes_is_blood(pancreas: Real, vessel: RgbTiles) -> None:
    threshold = blood_threshold(coarse_tiles(pancreas.tiles), pancreas.glass)
    inside = vessel[:, 70:102, 160:184]
    pool = np.tile(inside, (1, 8, 11, 1))[:, :256, :256]
    assert blood_fractions(coarse_tiles(pool), pancreas.glass, threshold)[0] > 0.5
    assert 0.01 < blood_fractions(coarse_tiles(vessel), pancreas.glass, threshold)[0] < 0.2


def test_tissue_without_blood_has_none(liver: Real, skin: Real) -> None:
    for real in (liver, skin):
        coarse = coarse_tiles(real.tiles)
        fractions = blood_fractions(coarse, real.glass, blood_threshold(coarse, real.glass))
        assert fractions.max() < 0.105  # squames on the section; a tile is flagged above 0.11


def test_dark_keratin_is_no_black_ink_but_a_drawn_line_is(skin: Real) -> None:
    assert ink_fractions(skin.tiles)["black"].max() < 0.04
    assert pen_fractions(skin.tiles).max() < 0.1
    line = np.zeros((256, 256), np.float32)
    cv2.line(line, (0, 60), (255, 190), 1.0, 60)
    line = 0.85 * cv2.GaussianBlur(line, (0, 0), 6)[..., None]
    drawn = (skin.tiles * (1 - line) + np.array([28, 26, 30]) * line).astype(np.uint8)
    assert pen_fractions(drawn).min() > 0.15


def test_the_same_field_at_another_resolution_has_the_same_ink(data_dir: Path) -> None:
    bgr = cv2.imread(str(data_dir / "pen" / "no-tissue-red-pen.png"))
    fine = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)[None]
    half = np.asarray(cv2.resize(fine[0], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    assert pen_fractions(half[None].astype(np.uint8), 1.0)[0] == pytest.approx(
        pen_fractions(fine, 0.5)[0], abs=0.01
    )


def test_an_impossible_resolution_is_refused() -> None:
    with pytest.raises(ValueError, match="mpp"):
        pen_fractions(np.zeros((1, 8, 8, 3), np.uint8), 0.0)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0, 4.0, None])
def test_tiles_are_reduced_to_about_two_micrometres(mpp: float | None) -> None:
    coarse = coarse_tiles(np.zeros((2, 256, 256, 3), np.uint8), mpp)
    assert coarse.um_per_px == pytest.approx(max(2.0, mpp or 0.5))
