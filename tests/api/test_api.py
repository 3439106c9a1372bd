"""The public interface: what it names, what it costs to import, and that it is the stages' own."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
import torch
from api.loaders import brighten
from finetune_images import write_run
from torch.utils.data import DataLoader

import wsi_pipeline as wsi
from wsi_pipeline import api
from wsi_pipeline.errors import ConfigError, MppError, StoreError, WsiError
from wsi_pipeline.extract import main as extract
from wsi_pipeline.tiles import TileSettings, cut_slide, open_tiles

ROOT = Path(__file__).parents[2]
SMALL = "slides/CMU-1-Small-Region.svs"
REAL = (
    SMALL,
    "slides/TCGA-CR-7395-01A-01-TS1.svs",
    "slides/liver_glycogen_HE.tif",
    "slides/PDAC-tru-cut_HE3.svs",
)
QUICK = {"external": "tma", "epochs": 1, "resamples": 100, "hidden": 8, "accept_risk": "test"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "run"
    folder.mkdir()
    write_run(folder)
    assert extract([str(folder), "--encoder=test_resnet", "--weights=random"]) == 0
    return folder


def test_all_that_is_named_is_there_typed_and_documented() -> None:
    stub = ast.parse((ROOT / "wsi_pipeline/__init__.pyi").read_text())
    typed = {name.name for node in stub.body if isinstance(node, ast.ImportFrom)
             for name in node.names if node.module == "api"}  # fmt: skip
    assert set(wsi.__all__) == set(api.__all__) == typed
    page = (ROOT / "docs/api.md").read_text()
    for name in wsi.__all__:
        found, own = getattr(wsi, name), getattr(api, name)
        assert inspect.getdoc(own), name
        assert f"`{name}" in page, f"docs/api.md does not say what {name} is"
        assert found is own or inspect.signature(found) == inspect.signature(own), name
    assert set(wsi.__all__) <= set(dir(wsi))


def test_importing_it_imports_nothing() -> None:
    told = "import sys, wsi_pipeline; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    heavy = {"numpy", "torch", "h5py", "pandas", "cv2", "openslide", "pydantic", "zarr", "dask"}
    assert not heavy & set(found.stdout.split())


def test_a_room_is_the_same_whether_it_was_imported_before_or_not() -> None:
    assert importlib.import_module("wsi_pipeline.tiles") is wsi.tiles
    assert wsi.tiles.open_tiles is open_tiles
    assert list(inspect.signature(wsi.train).parameters) == ["run", "encoder", "settings"]


@pytest.mark.parametrize("reader", ["auto", "openslide"])
@pytest.mark.parametrize("name", REAL)
def test_read_region_is_openslides(data_dir: Path, name: str, reader: str) -> None:
    """Same pixels on whole level pixels; in between, the nearest pixel: half of one off at most."""
    theirs = openslide.OpenSlide(data_dir / name)
    with wsi.open_slide(str(data_dir / name), reader) as ours:
        assert ours.dimensions == theirs.dimensions
        assert ours.level_dimensions == theirs.level_dimensions
        rng = np.random.default_rng(0)
        for level, down in enumerate(theirs.level_downsamples):
            width, height = theirs.level_dimensions[level]
            for x, y in [(width // 3, height // 3), (-20, -10), (width - 40, height - 50)]:
                corner = (round(x * down), round(y * down))
                told = theirs.read_region(corner, level, (96, 64))
                white = np.asarray(told)[..., :3].copy()
                white[np.asarray(told)[..., 3] == 0] = 255
                found = ours.read_region(corner, level, (96, 64))
                assert found.shape == (64, 96, 3)
                if float(down).is_integer():
                    assert np.array_equal(found, white), (level, x, y)
                else:  # OpenSlide interpolates
                    assert np.abs(found.astype(int) - white).mean() < 12
            if float(down).is_integer() and down > 1:
                off = int(rng.integers(1, int(down)))
                near = ours.read_region((int(down) * 9 + off, 0), level, (64, 64))
                first = 9 + (off / down >= 0.5)
                assert np.array_equal(near, ours.read(level, first, 0, 64, 64))
        with pytest.raises(wsi.WsiError, match="level 99"):
            ours.read_region((0, 0), 99, (8, 8))


def test_a_slide_says_what_it_is(data_dir: Path) -> None:
    with wsi.open_slide(data_dir / SMALL) as slide:
        assert slide.mpp == pytest.approx(0.499)
        assert "2220×2967 px, 0.499 µm/px, 1 level, aperio" in repr(slide)
    with wsi.open_slide(data_dir / "slides/TCGA-CR-7395-01A-01-TS1.svs") as slide:
        assert slide.mpp is None
        with pytest.raises(MppError):
            next(iter(wsi.tiles(slide)))


@pytest.fixture(scope="module")
def cut(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("cut") / "small.zarr"
    cut_slide(data_dir / SMALL, store, TileSettings(tile_px=128))
    return store


def test_tiles_and_mask_are_the_tile_stages(data_dir: Path, cut: Path) -> None:
    store = wsi.open_tiles(str(cut))
    with wsi.open_slide(data_dir / SMALL) as slide:
        found = list(wsi.tiles(slide, tile_px=128))
        mask = wsi.tissue_mask(slide)
    assert np.array_equal([tile.image for tile in found], store.tiles[:])
    assert np.array_equal([tile.coords for tile in found], store.coords)
    fraction = [tile.measures["tissue_fraction"] for tile in found]
    assert np.allclose(fraction, store.columns["tissue_fraction"])
    side = store.attributes["tile_px_level0"]
    assert np.allclose(mask.fractions(store.coords, side), fraction)
    assert np.asarray(mask).dtype == bool
    assert mask.area_mm2 == pytest.approx(0.6, abs=0.15)
    with pytest.raises(ConfigError, match="tile_px"):
        wsi.tiles(data_dir / SMALL, tile_pix=128)


def test_a_slide_and_its_store_have_the_same_features(
    data_dir: Path, cut: Path, tmp_path: Path
) -> None:
    encoder = wsi.load_encoder("test_resnet", "random")
    store = wsi.open_tiles(cut)
    from_slide = wsi.encode(data_dir / SMALL, encoder, tile_px=128)
    from_store = wsi.encode(str(cut), encoder, out=tmp_path / "small.h5")
    assert np.array_equal(from_slide.features, from_store.features)
    assert np.array_equal(from_slide.features, encoder(store.tiles[:])), "an encoder is called"
    assert np.array_equal(from_slide.coords, store.coords)
    back = wsi.read_features(str(tmp_path / "small.h5"))
    for name in ("encoder", "tile_px", "tile_px_level0", "mpp"):
        assert back.attributes[name] == from_slide.attributes[name]
    with pytest.raises(ConfigError, match="cut already"):
        wsi.encode(cut, encoder, mpp=1.0)
    drawn = wsi.heatmap(data_dir / SMALL, back, back.features[:, 0], max_px=300)
    assert drawn.shape[0] > 300
    assert drawn.shape[1] == 224


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_one_process_reads(cut: Path, method: str) -> None:
    """Also after the stores were read in the parent, which is what killed forked workers once."""
    data = wsi.TileDataset([cut], transform=brighten)
    plain = wsi.open_tiles(cut).tiles
    order = np.arange(len(data))
    expected = torch.stack([data[i]["image"] for i in order])
    assert torch.equal(expected[3], brighten(torch.from_numpy(plain[3]).permute(2, 0, 1)))
    sampler = np.random.default_rng(0).permutation(order).tolist()
    loader = DataLoader(data, batch_size=16, sampler=sampler, num_workers=2,
                        multiprocessing_context=method)  # fmt: skip
    batches = list(loader)
    images = torch.cat([batch["image"] for batch in batches])
    assert torch.equal(images, expected[sampler])
    coords = torch.cat([batch["coords"] for batch in batches]).numpy()
    assert np.array_equal(coords, wsi.open_tiles(cut).coords[sampler])
    assert batches[0]["slide_id"] == ["small"] * 16
    if method == "fork":
        raw = DataLoader(plain, batch_size=16, num_workers=2, multiprocessing_context=method)
        assert torch.equal(torch.cat(list(raw)), torch.from_numpy(plain[:]))


def test_labels_of_a_dataset(run: Path, cut: Path) -> None:
    opened = wsi.open_run(run)
    data = opened.dataset(only=lambda row: row.cohort != "tma")
    assert len(data) == 80
    assert data.classes == ("across", "down")
    rows = data.index[:, 0]
    for number in (0, 41, 79):
        item = data[number]
        assert data.classes[item["label"]] == opened.slides[item["slide_id"]].label
        assert item["slide_id"] == data.slide_ids[rows[number]]
    with pytest.raises(ConfigError, match="different sizes"):
        wsi.TileDataset([cut, *opened.tiles.paths.values()])
    with pytest.raises(ConfigError, match="'S00' has no label"):
        wsi.TileDataset(opened.tiles["S00"], labels={"S01": "down"})
    with pytest.raises(ConfigError, match="no regions were drawn"):
        wsi.TileDataset(opened.tiles["S00"], labels="annotated")
    with pytest.raises(IndexError):
        data[80]


def test_tiles_that_a_person_dropped_are_no_items(run: Path) -> None:
    qc = run / "qc"
    qc.mkdir()
    table = "slide_id,x,y,decision\nS00,64,0,drop\nS01,,,drop\n"
    (qc / "decisions.csv").write_text(table)
    try:
        data = wsi.open_run(run).dataset(labels=None)
        assert len(data) == 96 - 1 - 8
        assert "S01" not in data.slide_ids
        places = [tuple(item["coords"].tolist()) for item in data if item["slide_id"] == "S00"]
        assert (64, 0) not in places
    finally:
        (qc / "decisions.csv").unlink()


def test_a_run_is_trained_and_predicted(run: Path) -> None:
    model = wsi.train(str(run), "test_resnet", **QUICK)
    assert model.classes == ("across", "down")
    again = wsi.train(wsi.open_run(run), "test_resnet", **QUICK)
    assert again == model
    opened = wsi.open_run(str(run))
    assert list(opened.models) == [model.name]
    assert set(model.metrics.split) >= {"train", "external"}
    assert model.metrics.value.notna().any()
    scored = wsi.predict(run, heatmaps=False)
    assert set(scored.slide_id) == set(opened.slides)
    pd.testing.assert_frame_equal(scored, opened.predictions(model.name))
    bag = opened.features()["S03"]
    scores, _ = model.load().score(bag.features)
    told = scored[(scored.slide_id == "S03") & (scored.model == model.config.primary)]
    probability = scores.slide[model.config.primary]
    assert told.p_down.item() == pytest.approx(probability[1], abs=1e-5)
    assert len(opened.tile_table) == 96
    assert opened.cohort.slide_id.tolist() == list(opened.slides)
    assert (run / "logs/journal.jsonl").exists()
    for thing in (opened, model, opened.tiles, opened.dataset(), opened.features()):
        assert str(len(opened.slides)) in repr(thing) or model.name in repr(thing)


def test_what_is_not_there_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        wsi.open_run(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        wsi.train(run, "test_resnet", epoch=3)
    with pytest.raises(StoreError, match="no features of this encoder"):
        wsi.open_run(run).features("uni")
    with pytest.raises(KeyError, match="S99"):
        _ = wsi.open_run(run).tiles["S99"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"wsi-pipeline\[tables\]"):
        _ = wsi.open_run(run).cohort


def test_a_slide_that_fails_is_an_error_of_the_call(run: Path, tmp_path: Path) -> None:
    """A script that goes on with the others' table has to say so."""
    import shutil

    broken = shutil.copytree(run, tmp_path / "broken")
    if not wsi.open_run(broken).models:
        wsi.train(broken, "test_resnet", **QUICK)
    store = wsi.open_run(broken).features().paths["S05"]
    store.write_bytes(store.read_bytes()[:-200])
    with pytest.raises(WsiError, match=r"1 slides failed \(S05\)"):
        wsi.predict(broken, heatmaps=False, overwrite=True)
    assert "S05" not in set(wsi.open_run(broken).predictions().slide_id)
