"""Features as SpatialData, both ways; what needs the package skips where it is not installed.

It holds back dask and pandas, so it is tested in an environment of its own: docs/interop.md.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.digests import file_digest
from wsi_pipeline.errors import StoreError
from wsi_pipeline.export import main as export
from wsi_pipeline.extract import main as extract
from wsi_pipeline.features import FeatureMeta, find_features, read_width, write_features
from wsi_pipeline.features.anndata_files import tile_spec
from wsi_pipeline.import_features import main as import_features
from wsi_pipeline.inventory import begin, listed_files, read_inventory
from wsi_pipeline.tile import main as tile
from wsi_pipeline.tissue import draw_annotation, write_geojson
from wsi_pipeline.verify import main as verify

ENCODER = "test_resnet.random-seed0"
SLIDE = "CMU-1-Small-Region"
INSTALLED = importlib.util.find_spec("spatialdata") is not None
needs = pytest.mark.skipif(
    not INSTALLED,
    reason="spatialdata is not installed: it holds dask below 2026.1.2 and pandas below 3, so "
    "these run in an environment of its own (docs/interop.md)",
)


def write_store(
    run: Path, name: str = "S01", encoder: str = "uni"
) -> tuple[np.ndarray, np.ndarray]:
    """Write features of six tiles of 254.08 level-0 px, in an order that no grid has."""
    coords = np.array([[508, 0], [0, 0], [254, 254], [0, 508], [254, 0], [1016, 762]], np.int64)
    features = np.random.default_rng(3).normal(size=(6, 8)).astype(np.float32)
    meta = FeatureMeta(
        slide_id=name, encoder=encoder, tile_px=128, tile_px_level0=254.08, overlap_px=32, mpp=0.5,
        mpp_level0=0.25189, level0_size=(2000, 1500),
    )  # fmt: skip
    path = run / "features" / encoder / f"{name}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_features(path, features, coords, meta)
    return features, coords


def said(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    return " ".join((told.out + told.err).split())


def bare_store(path: Path, tables: dict[str, tuple[int, int]]) -> None:
    """Write as much of a SpatialData store as can be without the package: tables' heads."""
    root = zarr.create_group(path)
    root.attrs["spatialdata_attrs"] = {"version": "0.2"}
    root.create_group("tables")
    for name, shape in tables.items():
        table = root.create_group(f"tables/{name}")
        table.attrs.update({"region": "tiles", "instance_key": "tile_id"})
        table.create_array("X", shape=shape, dtype="float32")


@pytest.mark.skipif(INSTALLED, reason="spatialdata is installed here")
def test_without_the_package_one_sentence_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_store(tmp_path / "run")
    assert export([str(tmp_path / "run"), "--layout=spatialdata", "--encoder=uni"]) == 2
    told = said(capsys)
    assert "brings dask and distributed back to 2026.1" in told
    assert "pip install 'wsi-pipeline[spatialdata]'" in told
    assert not (tmp_path / "run" / "export").exists()
    bare_store(tmp_path / "theirs/S01.zarr", {"uni_tiles": (6, 8)})
    assert import_features([str(tmp_path / "theirs"), f"--run={tmp_path / 'back'}"]) == 2
    assert "pip install 'wsi-pipeline[spatialdata]'" in said(capsys)


def test_heads_are_read_without_the_package(tmp_path: Path) -> None:
    """So that widths which differ are refused before anything is written."""
    store = tmp_path / "S01.zarr"
    bare_store(store, {"uni_tiles": (6, 8), "tiles_graph": (6, 0)})
    assert read_width(store) == ("uni", 8)
    assert read_width(store, "mine") == ("mine", 8)
    bare_store(tmp_path / "two.zarr", {"uni_tiles": (6, 8), "conch_tiles": (6, 4)})
    assert read_width(tmp_path / "two.zarr", "conch") == ("conch", 4)
    with pytest.raises(StoreError, match=r"several encoders \(conch_tiles and uni_tiles\)"):
        read_width(tmp_path / "two.zarr")
    zarr.create_group(tmp_path / "tiles.zarr")
    with pytest.raises(StoreError, match="no SpatialData store"):
        read_width(tmp_path / "tiles.zarr")


@given(st.integers(1, 1024), st.integers(1, 8192))
def test_a_whole_side_on_level_0_stays_whole(px: int, side: int) -> None:
    """wsidata takes the whole part of width × base_downsample for it."""
    spec = tile_spec({}, px, float(side))
    assert int(spec["width"] * spec["base_downsample"]) == side


@pytest.mark.parametrize("folder", ["export/spatialdata", "tiles"])
def test_each_file_of_an_exported_zarr_is_listed(tmp_path: Path, folder: str) -> None:
    """Ours is known by its zarr.json, which seals the rest; theirs seals nothing."""
    from wsi_pipeline.atomic import atomic_folder

    begin(tmp_path)
    for names in (("a", "b"), ("a", "c")):
        with atomic_folder(tmp_path / folder / "S01.zarr") as partial:
            (partial / "zarr.json").write_text("{}")
            (partial / "X").mkdir()
            for name in names:
                (partial / "X" / name).write_text(name)
    entries = read_inventory(tmp_path).entries
    there = {name for name, entry in entries.items() if not entry.gone}
    exported = folder.startswith("export")
    inside = {f"{folder}/S01.zarr/X/{name}" for name in "ac"} if exported else set()
    assert there == {f"{folder}/S01.zarr/zarr.json", *inside}
    assert {each.relative_to(tmp_path).as_posix() for each in listed_files(tmp_path)} == there


@pytest.fixture(scope="module")
def cut(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real slide within a drawn outline: tiles and features."""
    run = tmp_path_factory.mktemp("cut") / "run"
    (run / "masks").mkdir(parents=True)
    from shapely.geometry import MultiPolygon, box

    parts = MultiPolygon([box(0, 0, 1000, 1100), box(1300, 1300, 2200, 2900)])
    write_geojson(run / "masks" / f"{SLIDE}.geojson", [draw_annotation(parts, "Tissue")])
    slides = run.parent / "slides"
    slides.mkdir()
    shutil.copy(data_dir / "slides" / f"{SLIDE}.svs", slides)
    how = ["--mpp=1", "--tile-px=128", "--stain=none", "--max-background-fraction=1"]
    assert tile([str(slides), f"--run={run}", *how]) == 0
    assert extract([str(run), "--encoder=test_resnet", "--weights=random", "--device=cpu"]) == 0
    return run


@needs
def test_wsidata_reads_what_is_exported(cut: Path, tmp_path: Path) -> None:
    """On the slide itself, through its own doors: places, sizes, features, outlines, pixels."""
    spatialdata = pytest.importorskip("spatialdata")
    run = shutil.copytree(cut, tmp_path / "run")
    assert export([str(run), "--layout=spatialdata", "--encoder=test_resnet"]) == 0
    store = run / "export/spatialdata" / f"{SLIDE}.zarr"
    with h5py.File(find_features(run / "features", "test_resnet") / f"{SLIDE}.h5") as file:
        features, coords = file["features"][:], file["coords"][:]
    held = spatialdata.read_zarr(store)
    tiles, tissues = held.shapes["tiles"], held.shapes["tissues"]
    assert np.array_equal(tiles.bounds[["minx", "miny"]], coords)
    assert np.allclose(tiles.area, tiles.iloc[0].geometry.area)
    assert sorted(tissues.area) == [1000 * 1100, 900 * 1600]
    for piece, x, y in zip(tiles.tissue_id, tiles.x, tiles.y, strict=True):
        assert (x < 1150) == (tissues.geometry[piece].bounds[0] < 1150), (x, y)
    joined = spatialdata.match_table_to_element(held, "tiles", f"{ENCODER}_tiles")
    assert np.array_equal(joined.X, features)

    wsidata = pytest.importorskip("wsidata", reason="wsidata is not installed")
    slide = wsidata.open_wsi(cut.parent / "slides" / f"{SLIDE}.svs", store=str(store))
    spec = slide.tile_spec("tiles")
    assert (spec.width, spec.base_width) == (128, 257)
    assert spec.mpp == pytest.approx(257 / 128 * 0.499)
    table = slide.fetch.features_anndata(ENCODER, "tiles")
    assert np.array_equal(table.X, features)
    assert np.array_equal(table.obsm["spatial"], coords)
    assert slide.fetch.n_tissue("tissues") == 2
    from wsi_pipeline.tiles import open_tiles

    ours = open_tiles(run / "tiles" / f"{SLIDE}.zarr").tiles
    for number, image in enumerate(slide.iter.tile_images("tiles")):
        distance = np.abs(image.image.astype(float) - ours[number].astype(float)).mean()
        assert distance < 3, f"tile {number} is another place of the slide"


@needs
def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Same features, places, sizes and resolutions; and what was exported is not written twice."""
    run, back = tmp_path / "run", tmp_path / "back"
    features, coords = write_store(run)
    begin(run, old=True)
    command = [str(run), "--layout=spatialdata", "--encoder=uni"]
    assert export(command) == 0
    store = run / "export/spatialdata/S01.zarr"
    assert not list(store.parent.glob(".S01*")), "nothing is left behind"
    for source in (store, store.parent, run / "export"):
        assert import_features([str(source), f"--run={back}", "--overwrite"]) == 0, source
    with h5py.File(back / "features/uni/S01.h5") as file:
        assert np.array_equal(file["features"][:], features)
        assert np.array_equal(file["coords"][:], coords)
        told = dict(file.attrs) | dict(file["coords"].attrs)
    assert told["tile_px"] == 128
    assert told["tile_px_level0"] == pytest.approx(254.08)
    assert (told["overlap"], told["level0_width"], told["level0_height"]) == (32, 2000, 1500)
    assert (told["mpp"], told["mpp_level0"]) == (pytest.approx(0.5, rel=1e-5), 0.25189)

    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    capsys.readouterr()
    assert export(command) == 0
    assert "exported earlier" in said(capsys)
    assert before == {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    assert verify([str(run)]) == 0
    chunk = store / "tables/uni_tiles/X/c/0/0"
    damaged = bytearray(chunk.read_bytes())
    damaged[-1] ^= 1
    chunk.write_bytes(damaged)
    capsys.readouterr()
    assert verify([str(run)]) == 1
    assert "X/c/0/0" in said(capsys)
    chunk.unlink()
    assert export(command) == 0
    assert import_features([str(store), f"--run={tmp_path / 'again'}"]) == 0
    assert file_digest(chunk)


@needs
def test_a_tag_that_no_table_can_be_called_by_comes_back_whole(tmp_path: Path) -> None:
    write_store(tmp_path / "run", encoder="mine+v2@main")
    command = [str(tmp_path / "run"), "--layout=spatialdata", "--encoder=mine+v2@main"]
    assert export(command) == 0
    store = tmp_path / "run/export/spatialdata/S01.zarr"
    assert (store / "tables/mine-v2-main_tiles").is_dir()
    assert read_width(store) == ("mine+v2@main", 8)
    assert import_features([str(store), f"--run={tmp_path / 'back'}"]) == 0
    assert (tmp_path / "back/features/mine+v2@main/S01.h5").is_file()


@needs
def test_a_changed_outline_is_left_out_and_told(
    cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    run = shutil.copytree(cut, tmp_path / "run")
    mask = run / "masks" / f"{SLIDE}.geojson"
    mask.write_text(mask.read_text().replace("1100", "1000"))
    assert export([str(run), "--layout=spatialdata", "--encoder=test_resnet", "--json"]) == 0
    assert "tissue_outline_changed" in said(capsys)
    held = spatialdata.read_zarr(run / "export/spatialdata" / f"{SLIDE}.zarr")
    assert set(held.shapes) == {"tiles"}
    assert "tissue_id" not in held.shapes["tiles"].columns


@needs
def test_embeddings_of_slides_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from wsi_pipeline.embed import main as embed

    write_store(tmp_path)
    assert embed([str(tmp_path), "--encoder=uni", "--device=cpu"]) == 0
    assert export([str(tmp_path), "--layout=spatialdata", "--encoder=mean-of-uni"]) == 2
    assert "--layout anndata" in said(capsys)


def theirs(path: Path, edit: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Write a store with wsidata's own functions, and then something in it otherwise."""
    import geopandas
    import spatialdata
    from shapely import box
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Scale
    from wsidata import TileSpec
    from wsidata.io import add_features, add_tiles

    made = spatialdata.SpatialData()
    made.TILE_SPEC_KEY = "tile_spec"  # what its functions ask of their own class
    spec = TileSpec(height=96 if edit == "oblong" else 128, width=128, stride_height=128,
                    stride_width=96, mpp=1.0, ops_downsample=2.0, base_downsample=2.0)  # fmt: skip
    coords = np.array([[0, 0], [192, 0], [384, 192], [600, 600]])
    features = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    add_tiles(made, "tiles", coords, spec, [0, 0, 0, 1])
    add_features(made, "conch_tiles", "tiles", features)
    if edit == "two":
        add_features(made, "uni_tiles", "tiles", features * 2)
    if edit == "moved":
        made.shapes["tiles"].attrs["transform"] = {"global": Scale([2.0, 2.0], axes=("x", "y"))}
    if edit == "other size":
        frame = made.shapes["tiles"].copy()
        frame["geometry"] = [box(x, y, x + 400, y + 400) for x, y in coords]
        made.shapes["tiles"] = ShapesModel.parse(geopandas.GeoDataFrame(frame))
    if edit in ("fewer tiles", "reordered"):
        rows = [0, 1, 2] if edit == "fewer tiles" else [2, 0, 3, 1]
        made.shapes["tiles"] = made.shapes["tiles"].iloc[rows]
    if edit == "twice":
        frame = made.shapes["tiles"].copy()
        frame["tile_id"] = [0, 1, 2, 2]
        made.shapes["tiles"] = ShapesModel.parse(frame)
    made.attrs["slide_properties"] = {"mpp": 0.5, "shape": [2000, 3000]}
    if edit == "no spec":
        del made.attrs["tile_spec"]
    made.write(path)
    return features, coords


@needs
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("", ""),
        ("reordered", ""),
        ("oblong", "its tiles are 128×96 px; only square ones"),
        ("two", "holds features of several encoders (conch_tiles and uni_tiles)"),
        ("moved", "scaled or moved by a transformation"),
        ("other size", "not the squares of 256 px"),
        ("fewer tiles", "its 4 features are not tied one to one to the 3 shapes 'tiles'"),
        ("twice", "its 4 features are not tied one to one to the 4 shapes 'tiles'"),
        ("no spec", "its attributes lack tile_spec of 'tiles'"),
    ],
)
def test_what_wsidata_writes_is_read_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: str, words: str
) -> None:
    pytest.importorskip("wsidata", reason="wsidata is not installed")
    features, coords = theirs(tmp_path / "theirs/S01.zarr", edit)
    run = tmp_path / "run"
    assert import_features([str(tmp_path / "theirs"), f"--run={run}"]) == bool(words)
    assert words in said(capsys)
    if words:
        assert not list(run.rglob("S01.h5"))
        if edit != "two":
            return
        assert import_features([str(tmp_path / "theirs"), f"--run={run}", "--encoder=conch"]) == 0
    with h5py.File(run / "features/conch/S01.h5") as file:
        assert np.array_equal(file["features"][:], features)
        assert np.array_equal(file["coords"][:], coords), "by tile_id, whatever the shapes' order"
        assert (file.attrs["tile_px"], file.attrs["tile_px_level0"]) == (128, 256)
        assert (file.attrs["mpp"], file.attrs["mpp_level0"]) == (1.0, 0.5)
        assert file["coords"].attrs["overlap"] == 32


@needs
def test_a_damaged_store_costs_its_slide_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file that matters cut to half, or emptied: refused in a sentence, nothing written."""
    run = tmp_path / "run"
    write_store(run)
    assert export([str(run), "--layout=spatialdata", "--encoder=uni"]) == 0
    whole = run / "export/spatialdata/S01.zarr"
    matter = ["zarr.json", "shapes/tiles/shapes.parquet", "shapes/tiles/zarr.json",
              "tables/uni_tiles/zarr.json", "tables/uni_tiles/X/zarr.json",
              "tables/uni_tiles/X/c/0/0", "tables/uni_tiles/obs/tile_id/c/0"]  # fmt: skip
    for number, name in enumerate(matter):
        copy = shutil.copytree(whole, tmp_path / f"{number}" / "S01.zarr")
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: len(content) // 2])
        back = tmp_path / f"back{number}"
        assert import_features([str(copy), f"--run={back}"]) == 1, name
        assert "S01.zarr" in said(capsys), name
        assert not list(back.rglob("S01.h5")), name


def test_the_extra_is_not_among_all() -> None:
    """It holds back what all else is tested with; the bound that it needs is one that we admit."""
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert "spatialdata" in extras
    assert "spatialdata" not in json.dumps(extras["all"])
