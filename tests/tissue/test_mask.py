"""Tissue masks on made images with a known answer, and on the real slides."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tissue import TISSUE_METHODS, find_tissue
from wsi_pipeline.tissue.methods import background_colour
from wsi_pipeline.types import Mask, RgbImage

EOSIN = (214, 140, 190)
PALE = (230, 200, 222)
RED_INK, GREEN_INK, BLUE_INK, BLACK_INK = (
    (205, 20, 30),
    (40, 160, 130),
    (40, 100, 200),
    (25, 22, 28),
)


def field(background: tuple[int, int, int] = (243, 243, 243), seed: int = 0) -> RgbImage:
    noise = np.random.default_rng(seed).normal(0, 1.5, (300, 400, 3))
    return np.clip(np.array(background) + noise, 0, 255).astype(np.uint8)


def blob(rgb: RgbImage, colour: tuple[int, int, int], seed: int = 1) -> Mask:
    """Paint an ellipse of textured tissue; returns where."""
    where = np.zeros(rgb.shape[:2], np.uint8)
    cv2.ellipse(where, (200, 150), (110, 70), 15, 0, 360, 1, cv2.FILLED)
    texture = np.random.default_rng(seed).normal(0, 8, rgb.shape)
    painted = np.clip(np.array(colour) + texture, 0, 255)
    rgb[where > 0] = painted[where > 0].astype(np.uint8)
    return where > 0


def iou(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())


def overview(path: Path, um_per_px: float, mpp: float) -> RgbImage:
    with openslide.OpenSlide(path) as slide:
        downsample = um_per_px / mpp
        level = slide.get_best_level_for_downsample(downsample)
        rgba = slide.read_region((0, 0), level, slide.level_dimensions[level])
        white = np.full((*rgba.size[::-1], 3), 255, np.float32)
        pixels = np.asarray(rgba, np.float32)
        alpha = pixels[..., 3:] / 255
        rgb = (pixels[..., :3] * alpha + white * (1 - alpha)).astype(np.uint8)
        size = tuple(round(side / downsample) for side in slide.dimensions)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def patch(rgb: RgbImage, colour: tuple[int, int, int], noise: float) -> Mask:
    """Paint a disc in the corner, apart from whatever lies in the middle; returns where."""
    where = np.zeros(rgb.shape[:2], np.uint8)
    cv2.circle(where, (45, 45), 25, 1, cv2.FILLED)
    texture = np.random.default_rng(2).normal(0, noise, rgb.shape)
    rgb[where > 0] = np.clip(np.array(colour) + texture, 0, 255)[where > 0].astype(np.uint8)
    return where > 0


@pytest.mark.parametrize("background", [(243, 243, 243), (226, 224, 220)])
def test_a_pale_piece_is_tissue_wherever_it_lies(background: tuple[int, int, int]) -> None:
    rgb = field(background)
    dark = blob(rgb, (120, 40, 120))
    pale = patch(rgb, (205, 178, 200), noise=8)
    found = find_tissue(rgb)
    assert iou(found.mask & pale, pale) > 0.95
    assert iou(found.mask, dark | pale) > 0.95
    assert not found.left_out


@pytest.mark.parametrize(
    ("colour", "noise", "why"),
    [
        ((228, 216, 226), 4.0, "hardly unlike glass"),
        ((205, 178, 200), 0.5, "without texture"),
        ((190, 191, 190), 8.0, "grey"),
        (BLACK_INK, 2.0, "marker ink"),
    ],
)
def test_a_piece_left_out_is_listed_with_its_reason(
    colour: tuple[int, int, int], noise: float, why: str
) -> None:
    rgb = field()
    dark = blob(rgb, (120, 40, 120))
    where = patch(rgb, colour, noise)
    found = find_tissue(rgb, 8.0)
    assert iou(found.mask, dark) > 0.95
    assert "pieces_left_out" in found.flags
    (piece,) = found.left_out
    assert why in piece.reason
    assert piece.area_um2 == pytest.approx(where.sum() * 64, rel=0.15)
    assert iou(found.left_out_mask(), where) > 0.85
    elsewhere = np.zeros_like(where)
    elsewhere[:, 200:] = True
    assert not found.within(elsewhere).left_out
    assert "pieces_left_out" not in found.within(elsewhere).flags
    assert found.within(where).left_out


@pytest.mark.parametrize("background", [(243, 243, 243), (255, 255, 255), (214, 212, 208)])
@pytest.mark.parametrize("colour", [EOSIN, (90, 40, 120)])
def test_tissue_is_found_on_any_glass(
    background: tuple[int, int, int], colour: tuple[int, int, int]
) -> None:
    rgb = field(background)
    truth = blob(rgb, colour)
    assert iou(find_tissue(rgb).mask, truth) > 0.96


def test_pale_tissue_touching_tissue_is_kept_and_alone_is_found_too() -> None:
    rgb = field()
    truth = blob(rgb, PALE)
    assert iou(find_tissue(rgb).mask, truth) > 0.9
    rgb[:, 200:][truth[:, 200:]] = EOSIN
    assert iou(find_tissue(rgb).mask, truth) > 0.9


def test_white_slide_has_no_tissue() -> None:
    for rgb in (np.full((120, 90, 3), 255, np.uint8), field(), field((205, 205, 205))):
        found = find_tissue(rgb)
        assert not found.mask.any()
        assert "no_tissue" in found.flags


def test_slide_full_of_tissue_is_taken_whole() -> None:
    texture = np.random.default_rng(3).normal(0, 10, (200, 200, 3))
    rgb = np.clip(np.array(EOSIN) + texture, 0, 255).astype(np.uint8)
    found = find_tissue(rgb)
    assert found.mask.all()
    assert set(found.flags) == {"all_tissue", "no_background"}


def test_thresholds_are_stored_with_otsus_own_cut() -> None:
    rgb = field()
    blob(rgb, (90, 40, 120))
    thresholds = find_tissue(rgb).thresholds
    assert thresholds["density"] <= thresholds["density_otsu"]
    assert {"saturation", "saturation_otsu"} <= set(thresholds)


@pytest.mark.parametrize("patch", [(0, 0, 0), (128, 128, 128), (211, 211, 211), (255, 255, 255)])
def test_unscanned_rectangles_are_not_tissue(patch: tuple[int, int, int]) -> None:
    rgb = field()
    truth = blob(rgb, EOSIN)
    rgb[:, :60] = patch
    rgb[:40, 300:] = patch
    assert iou(find_tissue(rgb).mask, truth) > 0.96


@pytest.mark.parametrize("ink", [RED_INK, GREEN_INK, BLUE_INK, BLACK_INK])
def test_ink_beside_tissue_is_left_out(ink: tuple[int, int, int]) -> None:
    rgb = field()
    truth = blob(rgb, EOSIN)
    stroke = np.zeros(truth.shape, np.uint8)
    cv2.line(stroke, (20, 280), (380, 280), 1, 9)
    rgb[stroke > 0] = ink
    found = find_tissue(np.asarray(cv2.GaussianBlur(rgb, (0, 0), 1.5), dtype=np.uint8))
    assert iou(found.mask, truth) > 0.95
    assert "ink" in found.flags


@pytest.mark.parametrize("ink", [RED_INK, GREEN_INK, BLUE_INK])
def test_ink_over_tissue_takes_itself_away_and_no_more(ink: tuple[int, int, int]) -> None:
    rgb = field()
    truth = blob(rgb, EOSIN)
    stroke = np.zeros(truth.shape, np.uint8)
    cv2.line(stroke, (20, 150), (380, 150), 1, 13)
    rgb[stroke > 0] = ink
    found = find_tissue(np.asarray(cv2.GaussianBlur(rgb, (0, 0), 1.5), dtype=np.uint8))
    assert "ink" in found.flags
    core = cv2.erode(stroke, np.ones((5, 5), np.uint8)) > 0
    assert found.mask[core].mean() < 0.1
    around = cv2.dilate(stroke, np.ones((9, 9), np.uint8)) > 0
    assert iou(found.mask & ~around, truth & ~around) > 0.95


def test_a_dark_fold_is_tissue() -> None:
    rgb = field()
    truth = blob(rgb, EOSIN)
    fold = np.zeros(truth.shape, np.uint8)
    cv2.line(fold, (140, 110), (260, 190), 1, 9)
    folded = (fold > 0) & truth
    rgb[folded] = (70, 25, 75)
    found = find_tissue(rgb).mask
    assert found[folded].mean() > 0.97
    assert iou(found, truth) > 0.96


def test_fatty_tissue_is_one_piece_and_ghostly_necrosis_belongs_to_it() -> None:
    """Droplets as white as glass over a third of it; one half has hardly any stain left."""
    rgb = field()
    truth = blob(rgb, EOSIN)
    rgb[:, 200:][truth[:, 200:]] = (232, 212, 222)
    rng = np.random.default_rng(3)
    for x, y in rng.integers((90, 80), (310, 220), (260, 2)):
        cv2.circle(rgb, (int(x), int(y)), 2, (243, 243, 243), cv2.FILLED)
    smooth = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 0.8), dtype=np.uint8)
    assert iou(find_tissue(smooth).mask, truth) > 0.9


def test_a_bubble_is_not_tissue_and_edges_between_scanned_stripes_neither() -> None:
    rgb = field()
    truth = blob(rgb, EOSIN)
    cv2.circle(rgb, (60, 60), 40, (225, 226, 227), 2)  # a rim that only refracts
    rgb[:, 320:] = np.clip(rgb[:, 320:].astype(int) - 9, 0, 255).astype(np.uint8)
    found = find_tissue(rgb).mask
    assert iou(found, truth) > 0.95
    rim = np.s_[15:105, 15:85]
    assert not (found & ~truth)[rim].any()


def test_dust_and_hairs_are_dropped_and_small_holes_filled() -> None:
    rgb = field()
    truth = blob(rgb, EOSIN)
    cv2.circle(rgb, (200, 150), 6, (243, 243, 243), cv2.FILLED)
    cv2.circle(rgb, (30, 30), 4, EOSIN, cv2.FILLED)
    cv2.line(rgb, (20, 290), (390, 270), (120, 120, 120), 1)
    assert iou(find_tissue(rgb).mask, truth) > 0.96
    without_filling = find_tissue(rgb, max_hole_um2=0).mask
    assert not without_filling[148:152, 198:202].any()


def test_unknown_resolution_is_measured_in_pixels() -> None:
    rgb = field()
    blob(rgb, EOSIN)
    assert np.array_equal(find_tissue(rgb, um_per_px=None).mask, find_tissue(rgb, 8.0).mask)


def test_every_method_finds_plain_tissue_and_none_takes_all() -> None:
    rgb = field()
    truth = blob(rgb, EOSIN)
    for method in TISSUE_METHODS:
        found = find_tissue(rgb, method=method)
        assert found.method == method
        assert found.mask.all() if method == "none" else iou(found.mask, truth) > 0.95


def test_grey_immunohistochemistry_is_found_by_density() -> None:
    rgb = field()
    truth = blob(rgb, (216, 217, 221))
    assert iou(find_tissue(rgb, method="density").mask, truth) > 0.9


def test_input_is_not_written_to_and_white_is_measured() -> None:
    rgb = field((214, 212, 208))
    blob(rgb, EOSIN)
    before = rgb.copy()
    find_tissue(rgb)
    assert np.array_equal(rgb, before)
    assert np.abs(background_colour(rgb)[0] - (214, 212, 208)).max() <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "otsu"),
        ({"um_per_px": 0.0}, "um_per_px"),
        ({"um_per_px": float("nan")}, "um_per_px"),
        ({"min_area_um2": -1.0}, "min_area_um2"),
    ],
)
def test_impossible_requests_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError if "method" in arguments else ValueError, match=message):
        find_tissue(field(), **arguments)  # type: ignore[arg-type]


def test_greyscale_input_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        find_tissue(np.zeros((10, 10), np.uint8))


@pytest.mark.parametrize(
    ("name", "mpp", "low", "high", "pieces"),
    [
        ("CMU-1-Small-Region.svs", 0.499, 0.36, 0.44, (1, 3)),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0.5, 0.60, 0.69, (1, 3)),
        ("liver_glycogen_HE.tif", 0.5, 0.22, 0.28, (1, 4)),
        ("liver_glycogen_PAS.tif", 0.5, 0.23, 0.28, (1, 5)),
        ("PDAC-tru-cut_HE3.svs", 0.263, 0.07, 0.11, (5, 16)),
    ],
)
def test_real_slides(
    data_dir: Path, name: str, mpp: float, low: float, high: float, pieces: tuple[int, int]
) -> None:
    found = find_tissue(overview(data_dir / "slides" / name, 8.0, mpp))
    assert low < found.mask.mean() < high
    count = cv2.connectedComponents(found.mask.astype(np.uint8))[0] - 1
    assert pieces[0] <= count <= pieces[1]
    dirty = name == "liver_glycogen_PAS.tif"  # bubbles and mucus
    assert found.flags == (("pieces_left_out",) if dirty else ())
    assert bool(found.left_out) == dirty


@pytest.mark.parametrize(
    "name",
    ["almost-white-1", "almost-white-ihc", "no-tissue", "no-tissue-line", "no-tissue-green-pen"],
)
def test_real_fields_without_tissue(data_dir: Path, name: str) -> None:
    bgr = cv2.imread(str(data_dir / "pen" / f"{name}.png"))
    assert bgr is not None
    rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    assert find_tissue(rgb, um_per_px=None).mask.mean() < 0.002


def test_pale_tissue_without_glass_is_not_taken_for_tinted_glass() -> None:
    rng = np.random.default_rng(0)
    eosin = np.clip(np.array((236, 205, 222)) + rng.normal(0, 2, (90, 90, 3)), 0, 255)
    assert not background_colour(eosin.astype(np.uint8))[1]
    straw = eosin[..., [0, 2, 1]]  # the same with blue lowest, as of a warm lamp
    assert background_colour(straw.astype(np.uint8))[1]


@given(st.integers(0, 2**32 - 1), st.integers(0, 200))
def test_glass_is_the_commonest_bright_and_nearly_colourless_value(seed: int, least: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(least, 256, (40, 30, 3), dtype=np.uint8)
    rgb[:25] = np.clip(rng.integers(180, 200) + rng.integers(-6, 7, (25, 30, 3)), 0, 255)
    pixels = rgb.reshape(-1, 3).astype(int)
    highest, lowest = pixels.max(axis=1), pixels.min(axis=1)
    glass = pixels[(lowest >= 150) & (highest - lowest <= 0.08 * highest) & (lowest < 254)]
    expected = [np.bincount(glass[:, channel]).argmax() for channel in range(3)]
    found, seen = background_colour(rgb)
    assert seen
    assert found.tolist() == expected
