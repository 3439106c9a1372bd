"""Noise filters, straightening and cropping: off unless asked, recorded, doing what they say."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.cores import main as cores
from wsi_pipeline.slides import open_slide
from wsi_pipeline.tile import main
from wsi_pipeline.tiles import TileSettings, TileStore, cut_slide, open_tiles
from wsi_pipeline.tiles.finish import denoise_tiles
from wsi_pipeline.tiles.straighten import TurnedCore
from wsi_pipeline.tissue import tissue_tilt
from wsi_pipeline.types import Region, RgbImage

PLAIN = TileSettings(mpp_override=0.5, stain="none", max_background_fraction=1.0)


def cut(image: Path, folder: Path, asked: TileSettings) -> TileStore:
    store = folder / "s.zarr"
    cut_slide(image, store, asked, thumbnail=folder / "s.jpg")
    return open_tiles(store)


@pytest.fixture(scope="module")
def strip(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bar of real liver, 1536 × 512 px, lying 20° clockwise on glass off the centre."""
    files = sorted((data_dir / "liver_tiles").rglob("*.jpg"))[:12]
    tiles = [cv2.imread(str(file)) for file in files]
    bar = np.concatenate([np.concatenate(tiles[i : i + 6], axis=1) for i in (0, 6)])
    canvas = np.full((1700, 2300, 3), 243, np.uint8)
    matrix = cv2.getRotationMatrix2D((768, 256), -20, 1)
    matrix[:, 2] += (1180 - 768, 800 - 256)
    turned = cv2.warpAffine(bar, matrix, (2300, 1700), dst=canvas,
                            borderMode=cv2.BORDER_TRANSPARENT, flags=cv2.INTER_CUBIC)  # fmt: skip
    path = tmp_path_factory.mktemp("strip") / "strip.png"
    cv2.imwrite(str(path), turned)
    return path


@settings(max_examples=40, deadline=None)
@given(angle=st.floats(-44, 44), long=st.floats(60, 150), short=st.floats(10, 40))
def test_the_tilt_of_an_ellipse_is_its_angle(angle: float, long: float, short: float) -> None:
    mask = np.zeros((400, 400), np.uint8)
    cv2.ellipse(mask, (200, 200), (round(long), round(short)), angle, 0, 360, 1, cv2.FILLED)
    tilt = tissue_tilt(mask.astype(bool))
    assert tilt.angle_deg == pytest.approx(angle, abs=1.5)
    assert tilt.elongation == pytest.approx(round(long) / round(short), rel=0.1)
    assert tissue_tilt(mask.T.astype(bool)).angle_deg == pytest.approx(-tilt.angle_deg, abs=0.1)


def test_what_is_round_or_empty_has_no_direction() -> None:
    mask = np.zeros((200, 200), np.uint8)
    assert not tissue_tilt(mask.astype(bool)).has_direction
    cv2.circle(mask, (90, 110), 60, 1, cv2.FILLED)
    assert not tissue_tilt(mask.astype(bool)).has_direction


def test_nothing_is_done_unless_asked(strip: Path, tmp_path: Path) -> None:
    about = cut(strip, tmp_path, PLAIN).attributes
    assert about["denoise"] is None
    assert about["straightened"] is None
    assert about["cropped_level0"] is None
    assert about["tissue"]["tilt"]["angle_deg"] == pytest.approx(20, abs=1)


def test_a_flat_image_is_straightened_and_says_how(strip: Path, tmp_path: Path) -> None:
    store = cut(strip, tmp_path, PLAIN.model_copy(update={"straighten": True}))
    about = store.attributes
    assert about["straightened"]["angle_deg"] == pytest.approx(-20, abs=1)
    assert abs(about["tissue"]["tilt"]["angle_deg"]) < 1
    # the tissue's centre is where the matrix says, and its long side lies along x
    centre = np.array(about["straightened"]["matrix"]) @ (1180, 800, 1)
    middle = (store.coords + 128).mean(axis=0)
    assert np.abs(middle - centre).max() < 160
    spread = store.coords.max(axis=0) - store.coords.min(axis=0)
    assert spread[0] > 2 * spread[1]
    # the canvas holds the whole image, and a tile's pixels are the image's own, turned
    whole = cv2.imread(str(strip))[..., ::-1]
    matrix = np.array(about["straightened"]["matrix"])
    size = (about["level0_width"], about["level0_height"])
    expected = cv2.warpAffine(whole, matrix, size, flags=cv2.INTER_CUBIC)
    x, y = store.coords[len(store) // 2]
    difference = expected[y : y + 256, x : x + 256].astype(int) - store.tiles[len(store) // 2]
    assert np.abs(difference).mean() < 1


def test_a_pyramid_is_not_turned_and_says_so(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    asked = TileSettings(straighten=True, stain="none")
    result = cut_slide(path, tmp_path / "s.zarr", asked)
    assert "not_straightened" in result.flags
    plain = cut_slide(path, tmp_path / "p.zarr", asked.model_copy(update={"straighten": False}))
    assert "not_straightened" not in plain.flags
    first, second = open_tiles(tmp_path / "s.zarr"), open_tiles(tmp_path / "p.zarr")
    assert np.array_equal(first.tiles[:], second.tiles[:])


@pytest.fixture(scope="module")
def microarray(strip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 × 4 cores of real liver, 340 px across, on a pyramid whose rows are turned by 6°."""
    rng = np.random.default_rng(3)
    liver = cv2.imread(str(strip))[..., ::-1]
    rgb = np.full((1700, 2200, 3), 243, np.uint8)
    y, x = np.mgrid[-170:170, -170:170]
    disc = np.hypot(x, y) <= 165
    for row in range(3):
        for column in range(4):
            at = np.array([column - 1.5, row - 1]) * 450
            turn = np.radians(6)
            axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            left, top = np.round(axes @ at + (1100, 850) - 170).astype(int)
            dx, dy = rng.integers(-90, 90), rng.integers(-60, 60)
            piece = liver[630 + dy : 970 + dy, 1010 + dx : 1350 + dx]
            rgb[top : top + 340, left : left + 340][disc] = piece[disc]
    folder = tmp_path_factory.mktemp("microarray")
    with tifffile.TiffWriter(folder / "tma.tif") as tiff:
        for level in (rgb, cv2.resize(rgb, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)):
            tiff.write(level, tile=(256, 256), photometric="rgb", compression="zlib", metadata=None)
    lines = [f"{r},{c + 1},T-{r}{c + 1},P{c},hcc" for r in "ABC" for c in range(4)]
    (folder / "map.csv").write_text("\n".join(["row,column,core_id,patient_id,label", *lines]))
    table = "slide_id,path,patient_id,label,cohort,tma_map\nT,tma.tif,,,x,map.csv\n"
    (folder / "cohort.csv").write_text(table)
    return folder


def test_cores_are_turned_by_their_microarrays_tilt(microarray: Path, tmp_path: Path) -> None:
    """As one turns the whole slide: the same pixels, at the coords that the matrix says."""
    flags = ["--mpp=0.5", "--mpp-override=0.5", "--stain=none", "--min-tissue-fraction=0.3",
             "--max-background-fraction=1"]  # fmt: skip
    command = [str(microarray / "cohort.csv"), "--run", str(tmp_path / "run"), *flags]
    placed = ["--map", str(microarray / "map.csv"), "--accept"]
    preview = ["--preview", str(tmp_path / "run" / "cores" / "T.jpg")]
    assert cores([str(microarray / "tma.tif"), *placed, *preview]) == 0
    assert main([*command, "--straighten"]) == 0
    whole = tifffile.imread(microarray / "tma.tif")
    stores = sorted((tmp_path / "run" / "tiles").iterdir())
    assert len(stores) == 12
    for path in stores:
        store = open_tiles(path)
        turned = store.attributes["straightened"]
        assert turned["angle_deg"] == pytest.approx(-6, abs=0.5)
        region = store.attributes["region_level0"]
        middle = np.array([region["x"] + region["width"] / 2, region["y"] + region["height"] / 2])
        matrix = np.array(turned["matrix"])
        assert matrix @ (*middle, 1) == pytest.approx(middle), "about the core's own centre"
        # the matrix speaks of corners of pixels, OpenCV of their centres
        shifted = matrix.copy()
        shifted[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
        expected = cv2.warpAffine(whole, shifted, whole.shape[1::-1], flags=cv2.INTER_CUBIC)
        for (x, y), tile in zip(store.coords, store.tiles, strict=True):
            difference = expected[y : y + 256, x : x + 256].astype(int) - tile
            assert np.abs(difference).mean() < 0.5
    assert main([*command, "--overwrite"]) == 0
    assert open_tiles(stores[0]).attributes["straightened"] is None


def test_the_grid_is_anchored_at_the_tissue(strip: Path, tmp_path: Path) -> None:
    asked = PLAIN.model_copy(update={"crop_to_tissue": True, "min_tissue_fraction": 0.0})
    store = cut(strip, tmp_path, asked)
    area = store.attributes["cropped_level0"]
    grey = cv2.imread(str(strip), cv2.IMREAD_GRAYSCALE)
    rows, columns = (np.flatnonzero((grey < 235).any(axis=axis)) for axis in (1, 0))
    assert (area["x"], area["y"]) == pytest.approx((columns[0], rows[0]), abs=40)
    # whole tiles reach over the tissue's far edges, so none of it is lost
    assert area["x"] + area["width"] >= columns[-1] - 40
    assert area["y"] + area["height"] >= rows[-1] - 40
    assert ((store.coords - (area["x"], area["y"])) % 256 == 0).all()
    wide = -(-(columns[-1] - columns[0]) // 256)
    assert wide <= store.attributes["columns"] <= wide + 1


@pytest.mark.parametrize(("method", "radius"), [("median", 1), ("gaussian", 2)])
def test_noise_is_filtered_in_the_stored_tiles_alone(
    strip: Path, tmp_path: Path, method: str, radius: int
) -> None:
    plain = cut(strip, tmp_path / "plain", PLAIN)
    asked = PLAIN.model_copy(update={"denoise": method, "denoise_radius_px": radius})
    filtered = cut(strip, tmp_path / "filtered", asked)
    assert filtered.attributes["denoise"] == {"method": method, "radius_px": radius}
    expected = denoise_tiles(plain.tiles[:], method, radius)  # type: ignore[arg-type]
    assert np.array_equal(filtered.tiles[:], expected)
    assert not np.array_equal(plain.tiles[:], expected)
    for name in ("focus", "sharpness", "pen_fraction", "blood_fraction"):
        assert np.array_equal(filtered.columns[name], plain.columns[name])


def test_filters_take_noise_away() -> None:
    rng = np.random.default_rng(0)
    clean = np.full((2, 64, 64, 3), 180, np.uint8)
    specks = clean.copy()
    specks[rng.random(specks.shape[:3]) < 0.05] = 0
    assert (denoise_tiles(specks, "median") == 180).mean() > 0.99
    grain = np.clip(clean + rng.normal(0, 12, clean.shape), 0, 255).astype(np.uint8)
    assert denoise_tiles(grain, "gaussian", 2).std() < grain.std() / 2
    assert denoise_tiles(grain, "none") is grain


def test_threads_have_a_core_turned_once(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[int, ...]] = []
    with open_slide(data_dir / "slides/CMU-1-Small-Region.svs") as slide:
        read = slide.read

        def slow_read(*asked: int) -> RgbImage:
            reads.append(asked)
            time.sleep(0.05)
            return read(*asked)

        monkeypatch.setattr(slide, "read", slow_read)
        core = TurnedCore(slide, Region(x=600, y=700, width=500, height=500), 5.0)
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(lambda x: core.read(0, x, 800, 64, 64), range(620, 1020, 50)))
        assert len(reads) == 1
        assert all(
            np.array_equal(parts[k], core.read(0, 620 + 50 * k, 800, 64, 64)) for k in (0, 7)
        )
