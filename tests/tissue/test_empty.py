"""What is empty of a tile, against a second estimate made in another way, and on made tiles."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab

from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles import TileSettings
from wsi_pipeline.tiles.blocks import read_blocks
from wsi_pipeline.tiles.plan import survey_slide
from wsi_pipeline.tissue import coarse_tiles, empty_fractions, empty_masks
from wsi_pipeline.types import RgbImage

GLASS = np.array([243, 243, 243], np.uint8)
TINT = (233, 226, 234)  # of light in a lumen, as seen beside such glass

# developed on the first three, judged on the others; µm/px where the file does not say it
SLIDES = {
    "slides/liver_glycogen_HE.tif": 0.5,
    "slides/liver_glycogen_PAS.tif": 0.5,
    "real_liver/liver_tumour_gaps.tif": 0.25,
    "slides/TCGA-CR-7395-01A-01-TS1.svs": 0.5,
    "slides/PDAC-tru-cut_HE3.svs": None,
    "slides/CMU-1-Small-Region.svs": None,
    "real_liver/liver_pale_pieces.tif": 0.5,
    "real_liver/liver_capsule_folds.tif": 0.5,
    "real_liver/liver_margin_ink.tif": 0.25,
}
DEVELOPED_ON = 3
MOST_TILES = 40  # of a slide


def second_estimate(tile: RgbImage, glass: NDArray[np.uint8], mpp: float) -> float:
    """Share of pieces near glass in CIE Lab, a cell's size and 5 µm from all that is stained."""
    factor = round(1 / mpp)
    side = tile.shape[0] // factor
    px = tile[: side * factor, : side * factor].reshape(side, factor, side, factor, 3)
    lab = rgb2lab(px.mean(axis=(1, 3)) / 255)
    distance = np.linalg.norm(lab - rgb2lab(glass[None, None] / 255), axis=2)
    clear = ndimage.gaussian_filter(distance, 1.5) < 12
    depth = ndimage.distance_transform_edt(np.pad(clear, 20, mode="edge"))[20:-20, 20:-20]
    pieces, count = ndimage.label(clear)
    numbers = np.arange(1, count + 1)
    deep = ndimage.maximum(depth, pieces, numbers) >= 5 if count else np.empty(0)
    large = ndimage.sum(clear, pieces, numbers) >= 500 if count else np.empty(0)
    return float(np.isin(pieces, numbers[np.logical_and(deep, large)]).mean())


def differing(path: Path, assumed: float | None) -> tuple[int, int]:
    """How many tiles both estimates see differently by more than 0.1, and of how many."""
    with open_slide(path) as slide:
        plan = survey_slide(slide, TileSettings(mpp_override=assumed))
        wanted = np.flatnonzero(plan.wanted)
        chosen = np.random.default_rng(0).permutation(wanted)[:MOST_TILES]
        blocks = list(read_blocks(slide, plan.grid, chosen))
    tiles = np.concatenate([block.tiles for block in blocks])
    mpp = plan.grid.effective_mpp
    assert mpp is not None
    ours = empty_fractions(coarse_tiles(tiles, mpp), plan.glass)
    theirs = np.array([second_estimate(tile, plan.glass, mpp) for tile in tiles])
    return int((np.abs(ours - theirs) > 0.1).sum()), len(tiles)


@pytest.mark.parametrize("half", ["developed on", "judged on"])
def test_a_second_estimate_agrees(data_dir: Path, half: str) -> None:
    names = list(SLIDES)
    names = names[:DEVELOPED_ON] if half == "developed on" else names[DEVELOPED_ON:]
    counts = np.array([differing(data_dir / name, SLIDES[name]) for name in names])
    wrong, seen = counts.sum(axis=0)
    assert seen > 100
    assert wrong <= 0.01 * seen, counts


def tissue(seed: int = 0) -> RgbImage:
    noise = np.random.default_rng(seed).normal(0, 14, (256, 256, 3))
    return np.clip(np.array((196, 130, 184)) + noise, 0, 255).astype(np.uint8)


def share(tile: RgbImage) -> float:
    return float(empty_fractions(coarse_tiles(tile[None], 0.5), GLASS)[0])


@pytest.mark.parametrize("colour", [tuple(GLASS.tolist()), TINT])
def test_a_lumen_is_empty_whatever_its_tint(colour: tuple[int, int, int]) -> None:
    tile = tissue()
    cv2.circle(tile, (128, 128), 60, colour, cv2.FILLED)
    truth = np.pi * 60**2 / 256**2
    assert share(tile) == pytest.approx(truth, abs=0.02)
    mask = empty_masks(coarse_tiles(tile[None], 0.5), GLASS)[0]
    assert mask.mean() == pytest.approx(share(tile))
    assert mask[32, 32]
    assert not mask[4, 4]


def test_clear_cells_are_not_empty() -> None:
    tile = tissue()
    for x in range(16, 256, 36):
        for y in range(16, 256, 36):
            cv2.circle(tile, (x, y), 14, tuple(GLASS.tolist()), cv2.FILLED)
    bright = (tile.min(axis=2) > 230).mean()
    assert bright > 0.3
    assert share(tile) < 0.02


def test_a_cleft_is_empty_and_a_thread_is_not() -> None:
    cleft, thread = tissue(), tissue()
    cv2.line(cleft, (0, 100), (256, 160), tuple(GLASS.tolist()), 24)
    cv2.line(thread, (0, 100), (256, 160), tuple(GLASS.tolist()), 6)
    assert share(cleft) == pytest.approx(24 / 256, abs=0.03)
    assert share(thread) == 0


def test_all_glass_all_tissue_and_no_tile() -> None:
    assert share(np.full((256, 256, 3), GLASS)) == 1
    assert share(tissue()) == 0
    assert empty_fractions(coarse_tiles(np.empty((0, 256, 256, 3), np.uint8)), GLASS).shape == (0,)
