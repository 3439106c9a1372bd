"""One slide cut: on real slides, and on a mosaic of real liver tiles with known places."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_pipeline.errors import MppError, NoTissueError, SlideReadError
from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.jpeg_tiff import JpegTiffReader
from wsi_pipeline.stain import restore_stain
from wsi_pipeline.tiles import (
    SlideRequest,
    TileSettings,
    TileStore,
    cut_slide,
    open_tiles,
    verify_tiles,
)
from wsi_pipeline.types import Region, RgbImage

SETTINGS = TileSettings(mpp_override=0.5)


@pytest.fixture(scope="module")
def mosaic(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real liver, 5 × 4 tiles of 256 px, on white with a margin of 2 tiles."""
    files = sorted((data_dir / "liver_tiles").rglob("*.jpg"))[:20]
    tiles = [cv2.imread(str(file)) for file in files]
    rows = [np.concatenate(tiles[start : start + 5], axis=1) for start in range(0, 20, 5)]
    image = cv2.copyMakeBorder(
        np.concatenate(rows), 512, 512, 512, 512, cv2.BORDER_CONSTANT, value=(245, 245, 245)
    )
    path = tmp_path_factory.mktemp("mosaic") / "mosaic.png"
    cv2.imwrite(str(path), image)
    return path


def same(first: TileStore, second: TileStore) -> bool:
    return (
        np.array_equal(first.tiles[:], second.tiles[:])
        and np.array_equal(first.coords, second.coords)
        and first.columns.keys() == second.columns.keys()
        and all(np.array_equal(first.columns[n], second.columns[n]) for n in first.columns)
    )


def plainly(path: Path, store: TileStore) -> NDArray[np.uint8]:
    """Every tile read by itself, reduced, and normalised by the stored stains."""
    side, level = store.attributes["tile_px_level"], store.attributes["level"]
    stain = restore_stain(store.attributes["stain"])
    tiles = []
    with open_slide(path) as slide:
        for x, y in store.coords.tolist():
            tile = slide.read(level, x, y, side, side)
            if side != 256:
                tile = np.asarray(
                    cv2.resize(tile, (256, 256), interpolation=cv2.INTER_AREA), np.uint8
                )
            tiles.append(tile)
    return stain.apply(np.stack(tiles))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("CMU-1-Small-Region.svs", TileSettings()),
        ("CMU-1-Small-Region.svs", TileSettings(mpp=1.3, tile_px=256, edge="pad")),
        ("PDAC-tru-cut_HE3.svs", TileSettings()),
    ],
)
def test_a_real_slide_gives_the_tiles_of_the_plainest_way(
    data_dir: Path, tmp_path: Path, name: str, settings: TileSettings
) -> None:
    slide, path = data_dir / "slides" / name, tmp_path / "slide.zarr"
    result = cut_slide(slide, path, settings, thumbnail=tmp_path / "slide.jpg")
    store = open_tiles(path)
    np.testing.assert_array_equal(store.tiles[:], plainly(slide, store))
    assert verify_tiles(path) == []
    assert (store.columns["background_fraction"] <= 0.125).all()
    assert (store.columns["tissue_fraction"] >= 0.5).all()
    rejected = sum(n for name, n in result.counts.items() if name.startswith("rejected"))
    assert result.counts["kept"] == len(store) > 0
    assert result.counts["kept"] + rejected == result.counts["candidates"]
    assert store.attributes["counts"]["kept"] == len(store)
    assert store.attributes["mpp_effective"] == pytest.approx(settings.mpp, rel=0.02)
    assert cv2.imread(str(tmp_path / "slide.jpg")).shape[2] == 3


def test_svs_and_dicom_of_one_scan_give_the_same_grid(data_dir: Path, tmp_path: Path) -> None:
    stores = []
    for name in ("CMU-1-Small-Region.svs", "CMU-1-Small-Region.dicom"):
        path = (tmp_path / name).with_suffix(f".{name[-3:]}.zarr")
        cut_slide(data_dir / "slides" / name, path, TileSettings())
        stores.append(open_tiles(path))
    svs, dicom = stores
    for name in ("mpp_effective", "columns", "rows", "tile_px_level0", "level0_width"):
        assert svs.attributes[name] == pytest.approx(dicom.attributes[name]), name
    np.testing.assert_array_equal(svs.coords, dicom.coords)


def test_the_mosaic_gives_its_tiles(mosaic: Path, tmp_path: Path) -> None:
    result = cut_slide(mosaic, tmp_path / "s.zarr", SETTINGS.model_copy(update={"stain": "none"}))
    store = open_tiles(tmp_path / "s.zarr")
    expected = [[512 + 256 * x, 512 + 256 * y] for y in range(4) for x in range(5)]
    kept = [place for place in expected if place in store.coords.tolist()]
    assert store.coords.tolist() == kept, "nothing beside the tissue, in canonical order"
    assert len(kept) + result.counts["rejected_background"] == 20
    assert len(kept) >= 15
    image = cv2.cvtColor(cv2.imread(str(mosaic)), cv2.COLOR_BGR2RGB)
    for (x, y), tile in zip(store.coords.tolist(), store.tiles[:], strict=True):
        np.testing.assert_array_equal(tile, image[y : y + 256, x : x + 256])


def test_zarr_and_hdf5_hold_the_same(mosaic: Path, tmp_path: Path) -> None:
    for suffix in (".zarr", ".h5"):
        cut_slide(mosaic, tmp_path / f"s{suffix}", SETTINGS, provenance={"slide_digest": "d"})
    first, second = open_tiles(tmp_path / "s.zarr"), open_tiles(tmp_path / "s.h5")
    assert same(first, second)
    codecs = ({"codec": "zstd"}, {"codec": "none"})
    assert dict(first.attributes) | codecs[1] == dict(second.attributes)
    assert dict(second.attributes) | codecs[0] == dict(first.attributes)


@pytest.mark.parametrize("most", [0, 5])
def test_tiles_held_or_read_twice_make_no_difference(
    most: int, mosaic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_pipeline.tiles.finish.SAMPLED_TILES", 8)
    cut_slide(mosaic, tmp_path / "held.zarr", SETTINGS)
    monkeypatch.setattr("wsi_pipeline.tiles.finish.HELD_BYTES", most * 3 * SETTINGS.tile_px**2)
    cut_slide(mosaic, tmp_path / "read.zarr", SETTINGS)
    held, read = open_tiles(tmp_path / "held.zarr"), open_tiles(tmp_path / "read.zarr")
    assert same(held, read)
    files = [p for p in held.path.rglob("*") if p.is_file()]
    assert files
    for file in files:
        assert file.read_bytes() == (read.path / file.relative_to(held.path)).read_bytes()


def test_a_tile_read_for_the_sample_is_not_read_again(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    read = JpegTiffReader.read_into

    def count(reader: JpegTiffReader, level: int, x: int, y: int, out: RgbImage) -> None:
        asked.append((x, y))
        read(reader, level, x, y, out)

    monkeypatch.setattr(JpegTiffReader, "read_into", count)
    monkeypatch.setattr("wsi_pipeline.tiles.finish.SAMPLED_TILES", 40)
    monkeypatch.setattr("wsi_pipeline.tiles.finish.HELD_BYTES", 100 * 3 * 256**2)
    slide = data_dir / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    result = cut_slide(slide, tmp_path / "s.zarr", SETTINGS)
    wanted = result.counts["candidates"] - result.counts["rejected_tissue"]
    assert wanted > 100
    assert len(asked) == len(set(asked)) == wanted


def test_another_seed_fits_on_other_pixels(mosaic: Path, tmp_path: Path) -> None:
    cut_slide(mosaic, tmp_path / "a.zarr", SETTINGS)
    cut_slide(mosaic, tmp_path / "b.zarr", SETTINGS.model_copy(update={"seed": 1}))
    first, second = (
        np.array(open_tiles(tmp_path / name).attributes["stain"]["source"]["matrix"])
        for name in ("a.zarr", "b.zarr")
    )
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(first, second, atol=0.02)


def test_a_core_is_cut_from_its_corner_and_within_its_circle(mosaic: Path, tmp_path: Path) -> None:
    core = Region(x=600, y=550, width=1024, height=1024)
    settings = SETTINGS.model_copy(update={"max_background_fraction": 1.0})
    cut_slide(mosaic, tmp_path / "core.zarr", settings, SlideRequest(region=core))
    store = open_tiles(tmp_path / "core.zarr")
    places = {(600 + 256 * x, 550 + 256 * y) for x in range(4) for y in range(4)}
    corners = {(600, 550), (1368, 550), (600, 1318), (1368, 1318)}
    assert {tuple(place) for place in store.coords.tolist()} == places - corners
    assert store.attributes["region_level0"] == {"x": 600, "y": 550, "width": 1024, "height": 1024}


def test_a_missing_resolution_is_refused_and_can_be_accepted(mosaic: Path, tmp_path: Path) -> None:
    with pytest.raises(MppError, match="mpp"):
        cut_slide(mosaic, tmp_path / "s.zarr", TileSettings())
    result = cut_slide(mosaic, tmp_path / "s.zarr", TileSettings(unknown_mpp=True))
    store = open_tiles(tmp_path / "s.zarr")
    assert "mpp_unknown" in result.flags
    assert store.attributes["mpp_effective"] is None
    assert store.attributes["tile_px_level"] == 256


def test_a_coarser_slide_is_refused_and_can_be_accepted(mosaic: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"mpp": 0.25})
    with pytest.raises(MppError, match="coarser"):
        cut_slide(mosaic, tmp_path / "s.zarr", settings)
    result = cut_slide(
        mosaic, tmp_path / "s.zarr", settings.model_copy(update={"allow_coarser": True})
    )
    assert "coarser_than_target" in result.flags
    assert open_tiles(tmp_path / "s.zarr").attributes["mpp_effective"] == 0.5


def blank(path: Path, grey: int = 243) -> Path:
    cv2.imwrite(str(path), np.full((1500, 1500, 3), grey, np.uint8))
    return path


def test_an_empty_slide_leaves_a_thumbnail_and_no_store(tmp_path: Path) -> None:
    slide = blank(tmp_path / "blank.png")
    with pytest.raises(NoTissueError, match="of 25 tile places none"):
        cut_slide(slide, tmp_path / "s.zarr", SETTINGS, thumbnail=tmp_path / "s.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blank.png", "s.jpg"]


def test_a_slide_smaller_than_a_tile_says_so(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "tiny.png"), np.full((100, 90, 3), 150, np.uint8))
    with pytest.raises(NoTissueError, match="90×100 px are less than one tile"):
        cut_slide(tmp_path / "tiny.png", tmp_path / "s.zarr", SETTINGS)


def test_rules_that_reject_everything_are_named(mosaic: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"background_rule": "normalised", "background_level": 0})
    with pytest.raises(NoTissueError, match="20 for background"):
        cut_slide(mosaic, tmp_path / "s.zarr", settings)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def penned(mosaic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mosaic with green pen over the tiles of its first two columns, and a blurred corner."""
    image = cv2.imread(str(mosaic))
    image[512:-512, 512:1024] = image[512:-512, 512:1024] * 0.2 + np.array([70, 150, 20]) * 0.8
    corner = image[-768:-512, -768:-512]
    image[-768:-512, -768:-512] = cv2.GaussianBlur(corner, (0, 0), 12)
    path = tmp_path_factory.mktemp("penned") / "penned.png"
    cv2.imwrite(str(path), image)
    return path


# without a tissue mask, which would leave the pen out by itself
MARKED = SETTINGS.model_copy(
    update={"tissue_method": "none", "stain": "none", "max_background_fraction": 0.5}
)


def test_pen_and_blur_are_flagged_and_kept(penned: Path, tmp_path: Path) -> None:
    result = cut_slide(penned, tmp_path / "s.zarr", MARKED)
    store = open_tiles(tmp_path / "s.zarr")
    columns = np.isin(store.coords[:, 0], [512, 768])
    assert columns.sum() == 8
    assert ((store.columns["pen_fraction"] > 0.1) == columns).all()
    assert result.counts["flagged_pen"] == 8
    assert result.counts["flagged_blurred"] >= 1
    assert "pen" in result.flags
    sharpness = {tuple(c): f for c, f in zip(store.coords.tolist(), store.columns["sharpness"])}  # noqa: B905
    assert sharpness[1536, 1280] < store.attributes["flag_limits"]["blurred"]


def test_flagged_tiles_are_dropped_on_request_up_to_a_share(penned: Path, tmp_path: Path) -> None:
    dropping = MARKED.model_copy(update={"drop_flagged": ("pen",), "max_dropped_fraction": 0.9})
    result = cut_slide(penned, tmp_path / "s.zarr", dropping)
    store = open_tiles(tmp_path / "s.zarr")
    assert result.counts["rejected_pen"] == 8
    assert not np.isin(store.coords[:, 0], [512, 768]).any()
    capped = cut_slide(
        penned, tmp_path / "c.zarr", dropping.model_copy(update={"max_dropped_fraction": 0.01})
    )
    assert "too_much_flagged_to_drop" in capped.flags
    assert capped.counts["flagged_pen"] == 8


def test_a_slide_that_breaks_off_leaves_nothing(
    mosaic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise SlideReadError("mosaic.png: damaged")

    monkeypatch.setattr("wsi_pipeline.tiles.blocks._read_seen", broken)
    with pytest.raises(SlideReadError):
        cut_slide(mosaic, tmp_path / "s.zarr", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_slide_that_is_not_he_is_flagged_and_left_as_it_is(
    data_dir: Path, tmp_path: Path
) -> None:
    request = SlideRequest(region=Region(x=3000, y=1000, width=4000, height=4000))
    slide = data_dir / "slides" / "liver_glycogen_PAS.tif"
    result = cut_slide(slide, tmp_path / "pas.zarr", SETTINGS, request)
    assert "stain_not_he" in result.flags
    store = open_tiles(tmp_path / "pas.zarr")
    x, y = store.coords[0].tolist()
    with open_slide(slide) as opened:
        np.testing.assert_array_equal(store.tiles[0], opened.read(0, x, y, 256, 256))


def test_the_stain_method_does_not_decide_which_tiles_are_kept(
    data_dir: Path, tmp_path: Path
) -> None:
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    kept = []
    for stain in ("macenko", "reinhard", "none"):
        cut_slide(path, tmp_path / f"{stain}.zarr", TileSettings(stain=stain))
        store = open_tiles(tmp_path / f"{stain}.zarr")
        kept.append((store.coords, store.columns["background_fraction"]))
    for coords, background in kept[1:]:
        np.testing.assert_array_equal(coords, kept[0][0])
        np.testing.assert_array_equal(background, kept[0][1])


def test_the_study_counted_bright_pixels_after_normalisation(
    data_dir: Path, tmp_path: Path
) -> None:
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    settings = TileSettings(background_rule="normalised-pixel", max_background_fraction=0.5)
    cut_slide(path, tmp_path / "tiles.zarr", settings)
    store = open_tiles(tmp_path / "tiles.zarr")
    level = store.attributes["background_level"]
    share = (store.tiles[:].min(axis=3) >= level).mean(axis=(1, 2))
    np.testing.assert_allclose(store.columns["background_fraction"], share, atol=1e-6)


CMU = "CMU-1-Small-Region.svs"  # its file says 0.499 µm/px


def cut_again(data_dir: Path, folder: Path, **asked: Any) -> dict[str, Any]:
    cut_slide(data_dir / "slides" / CMU, folder / "tiles.zarr", TileSettings(**asked))
    return dict(open_tiles(folder / "tiles.zarr").attributes)


def test_a_resolution_far_from_the_files_is_refused_unless_forced(
    data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(MppError, match=r"says 0\.499 µm/px.*0\.4 is off by 20%.*--mpp-default"):
        cut_again(data_dir, tmp_path, mpp_override=0.4)
    forced = cut_again(data_dir, tmp_path, mpp_override=0.4, force_mpp=True)
    assert (forced["mpp_file"], forced["mpp_native"]) == (pytest.approx(0.499), 0.4)
    assert "mpp 0.499 of the file replaced by 0.4" in forced["flags"]


def test_a_resolution_near_the_files_replaces_it_and_says_so(
    data_dir: Path, tmp_path: Path
) -> None:
    near = cut_again(data_dir, tmp_path, mpp_override=0.5)
    assert near["mpp_native"] == 0.5
    assert near["flags"][0] == "mpp 0.499 of the file replaced by 0.5"


def test_a_default_resolution_is_for_files_that_say_nothing(
    data_dir: Path, mosaic: Path, tmp_path: Path
) -> None:
    own = cut_again(data_dir, tmp_path, mpp_default=0.4)
    assert (own["mpp_native"], own["flags"]) == (pytest.approx(0.499), [])
    cut_slide(mosaic, tmp_path / "m.zarr", TileSettings(mpp_default=0.25))
    silent = open_tiles(tmp_path / "m.zarr").attributes
    assert (silent["mpp_native"], silent["mpp_source"]) == (0.25, "default")
    assert silent["mpp_file"] is None
