"""Features to other tools and back by the verbs, and what verify says of damaged run folders."""

import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from finetune_images import write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.embed import main as embed
from wsi_pipeline.export import main as export
from wsi_pipeline.extract import main as extract
from wsi_pipeline.features import um_to_level0
from wsi_pipeline.import_features import main as import_features
from wsi_pipeline.train import main as train
from wsi_pipeline.verify import main as verify

ENCODER = "test_resnet.random-seed0"
SLIDE = "S03"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    folder.mkdir()
    write_run(folder)
    assert extract([str(folder), "--encoder=test_resnet", "--weights=random"]) == 0
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def ours(run: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(run / "features" / ENCODER / f"{SLIDE}.h5") as file:
        return file["features"][:], file["coords"][:]


def test_clam_reads_what_is_exported(run: Path) -> None:
    assert export([str(run), "--layout=clam", "--encoder=test_resnet"]) == 0
    folder = run / "export" / "clam"
    features, coords = ours(run)
    bag = torch.load(folder / "pt_files" / f"{SLIDE}.pt", weights_only=True)  # its data set
    assert torch.equal(bag, torch.from_numpy(features))
    with h5py.File(folder / "h5_files" / f"{SLIDE}.h5", "r") as hdf5_file:
        assert np.array_equal(hdf5_file["features"][:], features)
        assert np.array_equal(hdf5_file["coords"][:], coords)
        assert hdf5_file["coords"].dtype == np.int32


def test_trident_reads_what_is_exported(run: Path) -> None:
    assert export([str(run), "--layout=trident", "--encoder=test_resnet"]) == 0
    (path,) = (run / "export" / "trident").rglob(f"{SLIDE}.h5")
    features, coords = ours(run)
    with h5py.File(path, "r") as file:
        assert np.array_equal(file["features"][:], features)
        assert np.array_equal(file["coords"][:], coords)
        assert int(file["coords"].attrs["patch_size_level0"]) == 64


def test_stamp_reads_what_is_exported(run: Path) -> None:
    assert export([str(run), "--layout=stamp", "--encoder=test_resnet"]) == 0
    features, coords = ours(run)
    with h5py.File(run / "export" / "stamp" / f"{SLIDE}.h5") as h5:
        feats = torch.from_numpy(h5["feats"][:]).float()
        assert np.allclose(feats.numpy(), features, atol=2e-3, rtol=2e-3)
        assert h5.attrs["unit"] == "um"
        assert np.allclose(h5["coords"][:], coords * 0.5)
        assert (h5.attrs["tile_size_um"], h5.attrs["tile_size_px"]) == (32.0, 64)


@pytest.mark.parametrize("layout", ["clam", "trident", "stamp", "anndata"])
def test_what_comes_back_can_be_trained_on(run: Path, tmp_path: Path, layout: str) -> None:
    assert export([str(run), f"--layout={layout}", "--encoder=test_resnet"]) == 0
    table = pd.read_csv(run / "cohort.csv")
    table["mpp"] = 0.5
    table.to_csv(tmp_path / "cohort.csv", index=False)
    source = run / "export" / layout
    if layout == "trident":
        source = next(source.rglob("*.h5")).parent
    back = tmp_path / "back"
    told = [f"--encoder={ENCODER}", "--tile-px=64", "--mpp=0.5"]
    command = [str(source), f"--run={back}", f"--cohort={tmp_path / 'cohort.csv'}", *told]
    assert import_features(command) == 0
    stores = sorted((back / "features").rglob("*.h5"))
    assert len(stores) == 12
    features, coords = ours(run)
    with h5py.File(stores[3]) as file:
        assert np.array_equal(file["coords"][:], coords), "px, µm and back"
        assert np.allclose(file["features"][:], features, atol=2e-3, rtol=2e-3)
    quick = ["--epochs=1", "--resamples=100", "--hidden=8", "--external=tma", "--accept-risk=test"]
    assert train([str(back), f"--encoder={stores[0].parent.name}", *quick]) == 0


def write_clam(folder: Path, name: str, width: int) -> None:
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["features"] = np.ones((3, width), np.float32)
        file["coords"] = np.zeros((3, 2), np.int32)


def test_widths_that_differ_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files of one folder, or one against what is in the run folder already."""
    known = ["--encoder=theirs", "--tile-px=256", "--tile-px-level0=256"]
    mixed, back = tmp_path / "mixed", tmp_path / "back"
    write_clam(mixed, "one", 16)
    write_clam(mixed, "two", 24)
    assert import_features([str(mixed), f"--run={back}", *known]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "two.h5: 24 features a tile, and" in said
    assert "one.h5 of the same encoder 'theirs' has 16" in said
    assert not list(back.rglob("*.h5"))

    (mixed / "two.h5").unlink()
    assert import_features([str(mixed), f"--run={back}", *known]) == 0
    later = tmp_path / "later"
    write_clam(later, "three", 24)
    capsys.readouterr()
    for more in ([], ["--dry-run"]):
        assert import_features([str(later), f"--run={back}", *known, *more]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "three.h5: 24 features a tile" in said
        assert "theirs/one.h5 of the same encoder 'theirs' has 16" in said
    write_clam(later, "one", 24)
    (later / "three.h5").unlink()
    assert import_features([str(later), f"--run={back}", *known, "--overwrite"]) == 0
    (later / "one.h5").write_bytes(b"no file")
    write_clam(later, "four", 24)
    assert import_features([str(later), f"--run={back}", *known]) == 1, "one file costs itself"
    assert (back / "features/theirs/four.h5").exists()


@settings(max_examples=60, deadline=None)
@given(mpp=st.floats(0.1, 2.0), x=st.integers(0, 200_000), y=st.integers(0, 200_000))
def test_micrometres_and_pixels_are_the_same_place(mpp: float, x: int, y: int) -> None:
    """float32 µm, as STAMP keeps them, lead back to within a thirtieth of a µm, or the pixel."""
    coords = np.array([[x, y]])
    stored = (coords * mpp).astype(np.float32)
    back = um_to_level0(stored, mpp)
    assert np.abs(back - coords).max() * mpp <= max(mpp / 2, 0.034)


def test_a_sound_run_folder_passes(run: Path) -> None:
    assert verify([str(run)]) == 0


def truncate(run: Path) -> str:
    path = run / "features" / ENCODER / f"{SLIDE}.h5"
    path.write_bytes(path.read_bytes()[:-900])
    return "damaged"


def not_a_number(run: Path) -> str:
    with h5py.File(run / "features" / ENCODER / f"{SLIDE}.h5", "r+") as file:
        file["features"][2, 5] = np.nan
    return "damaged"


def fewer_rows(run: Path) -> str:
    with h5py.File(run / "features" / ENCODER / f"{SLIDE}.h5", "r+") as file:
        coords = file["coords"][:-1]
        attributes = dict(file["coords"].attrs)
        del file["coords"]
        file["coords"] = coords
        file["coords"].attrs.update(attributes)
    return "damaged"


def stale(run: Path) -> str:
    """The tiles are cut anew, the features are the old ones'."""
    shutil.rmtree(run / "tiles" / f"{SLIDE}.zarr")
    shutil.copytree(run / "tiles" / "S04.zarr", run / "tiles" / f"{SLIDE}.zarr")
    return "made from another input"


def unfinished(run: Path) -> str:
    path = run / "tiles" / f"{SLIDE}.zarr" / "zarr.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
    return SLIDE


@pytest.mark.parametrize("damage", [truncate, not_a_number, fewer_rows, stale, unfinished])
def test_each_damage_is_named(run: Path, damage, capsys: pytest.CaptureFixture[str]) -> None:
    words = damage(run)
    assert verify([str(run)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"failed {SLIDE}:" in said
    assert words in said
    assert said.count("failed S0") == 1, "and nothing else is"


def write_foreign(path: Path, name: str, coords: np.ndarray, **attributes: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[name] = np.ones((len(coords), 16), np.float32)
        file["coords"] = coords
        told = attributes.pop("on_coords", {})
        file["coords"].attrs.update(told)
        file.attrs.update(attributes)


def brought(folder: Path, back: Path, *more: str) -> h5py.File:
    assert import_features([str(folder), f"--run={back}", *more]) == 0
    (path,) = (back / "features").rglob("*.h5")
    return h5py.File(path)


def test_trident_to_us_and_back_keeps_its_magnifications(tmp_path: Path) -> None:
    """TRIDENT names no resolution; its readers need both magnifications and no NaN."""
    told = {
        "patch_size": 256, "patch_size_level0": 1024, "level0_magnification": 40,
        "target_magnification": 10, "overlap": 0, "name": "S01", "savetodir": "job",
        "level0_width": 40_000, "level0_height": 30_000,
    }  # fmt: skip
    places = np.array([[0, 0], [1024, 0]], np.int64)
    job = tmp_path / "job" / "10x_256px_0px_overlap"
    write_foreign(job / "features_uni_v1/S01.h5", "features", places, on_coords=told)
    write_foreign(job / "patches/S01_patches.h5", "none", places, on_coords=told)
    write_foreign(job / "slide_features_mean/S01.h5", "features", places[:1])
    for source in (tmp_path / "job", job, job / "patches", job / "features_uni_v1"):
        back = tmp_path / f"back-{source.name}"
        with brought(source, back, "--encoder=uni_v1") as file:
            assert file["coords"].attrs["level0_magnification"] == 40
            assert "mpp" in file.attrs
    assert export([str(back), "--layout=trident", "--encoder=uni_v1"]) == 0
    for path in ("features_uni_v1/S01.h5", "patches/S01_patches.h5"):
        with h5py.File(back / "export/trident" / path) as file:
            found = dict(file["coords"].attrs)
            assert {**found, "savetodir": "job"} == told
            assert np.array_equal(file["coords"][:], places)


def test_what_no_magnification_is_known_of_says_none(tmp_path: Path) -> None:
    write_clam(tmp_path / "clam", "one", 16)
    known = ["--encoder=theirs", "--tile-px=256", "--tile-px-level0=256"]
    back = tmp_path / "back"
    assert import_features([str(tmp_path / "clam"), f"--run={back}", *known]) == 0
    assert export([str(back), "--layout=trident", "--encoder=theirs"]) == 0
    with h5py.File(back / "export/trident/features_theirs/one.h5") as file:
        assert "level0_magnification" not in file["coords"].attrs
    assert not (back / "export/trident/patches").exists()


def clam_patches(path: Path, coords: np.ndarray, **attributes: object) -> None:
    told = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "level_dim": (1000, 900)}
    write_foreign(path, "none", coords, on_coords=told | attributes)


def test_patches_of_clam_tell_the_tiles_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = np.array([[0, 0], [1024, 0]], np.int32)
    write_foreign(tmp_path / "job/feats/h5_files/S01.h5", "features", places)
    clam_patches(tmp_path / "job/patches/S01.h5", places)
    with brought(tmp_path / "job/feats", tmp_path / "back", "--encoder=r50") as file:
        assert (file.attrs["tile_px"], file.attrs["tile_px_level0"]) == (256, 1024)
    with brought(tmp_path / "job/feats", tmp_path / "mine", "--encoder=r50", "--tile-px=224") as f:
        assert (f.attrs["tile_px"], f.attrs["tile_px_level0"]) == (224, 1024)
    clam_patches(tmp_path / "job/patches/S01.h5", places[::-1])
    command = [str(tmp_path / "job/feats"), f"--run={tmp_path / 'other'}", "--encoder=r50"]
    assert import_features(command) == 1
    assert "not those of the 2 features" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("place", "known", "words"),
    [
        ((40_000, 0), True, "x=40000, y=0, outside of the slide of 40000 × 30000 px, and so do 1"),
        ((0, 30_000), True, "x=0, y=30000, outside of the slide of 40000 × 30000 px, and so do 1"),
        ((-256, 0), False, "x=-256, y=0, outside of the slide, and so do 1 more"),
        ((np.nan, 0), False, "x=nan, y=0.0, which is no place on a slide"),
        ((39_999, 29_999), True, ""),
        ((90_000, 90_000), False, ""),
    ],
)
def test_tiles_outside_of_their_slide_are_refused_by_row(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: tuple[float, float],
    known: bool,
    words: str,
) -> None:
    told = {"patch_size": 256, "patch_size_level0": 1024}
    told |= {"level0_width": 40_000, "level0_height": 30_000} if known else {}
    places = np.array([[0, 0], [1024, 0], place, place], float)
    write_foreign(tmp_path / "job/S01.h5", "features", places, on_coords=told)
    command = [str(tmp_path / "job"), f"--run={tmp_path / 'run'}", "--encoder=uni_v1"]
    assert import_features(command) == bool(words)
    said = " ".join(capsys.readouterr().out.split())
    assert words in said
    assert ("S01.h5: row 3: its tile begins" in said) == bool(words)
    assert bool(list((tmp_path / "run").rglob("S01.h5"))) != bool(words)


def test_the_slide_itself_tells_its_size(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = data_dir / "slides" / "CMU-1-Small-Region.svs"
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide_id,path,patient_id,label,cohort\nS01,{slide.name},P1,hcc,a\n")
    known = [f"--cohort={table}", f"--slides={slide.parent}", "--encoder=r50", "--tile-px=256",
             "--tile-px-level0=256", f"--run={tmp_path / 'run'}"]  # fmt: skip
    for last, status in (((1964, 2711), 0), ((2048, 3072), 1)):
        places = np.array([[0, 0], last], np.int64)
        write_foreign(tmp_path / "clam/S01.h5", "features", places)
        assert import_features([str(tmp_path / "clam"), *known, "--overwrite"]) == status
    assert "row 2: its tile begins at x=2048, y=3072" in " ".join(capsys.readouterr().out.split())


def test_stamp_1_counts_in_224ths_of_256_um(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names no unit: taken for level-0 pixels, its tiles would lie elsewhere on the slide."""
    places = np.array([[0, 0], [224, 0], [448, 224]], np.int64)
    stamp = {"extractor": "STAMP-extract-1.0.3_ctranspath"}
    write_foreign(tmp_path / "stamp/S01.h5", "feats", places, **stamp)
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,path,patient_id,label,cohort,mpp\nS01,S01.svs,P1,hcc,a,0.25\n")
    with brought(tmp_path / "stamp", tmp_path / "back", f"--cohort={table}") as file:
        assert file["coords"][:].tolist() == [[0, 0], [1024, 0], [2048, 1024]]
        assert (file.attrs["tile_px"], file.attrs["tile_px_level0"]) == (224, 1024)
        assert file.attrs["mpp"] == pytest.approx(256 / 224)
    assert import_features([str(tmp_path / "stamp"), f"--run={tmp_path / 'no'}"]) == 1
    assert "level-0 pixels need the slide's resolution" in " ".join(capsys.readouterr().out.split())
    write_foreign(tmp_path / "stamp/S01.h5", "feats", places * 2, **stamp)
    assert import_features([str(tmp_path / "stamp"), f"--run={tmp_path / 'no'}"]) == 1
    assert "in no stated unit, of tiles 448" in " ".join(capsys.readouterr().out.split())


def test_folders_within_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = ["--encoder=theirs", "--tile-px=256", "--tile-px-level0=256"]
    for site in "ab":
        (tmp_path / "nested").mkdir(exist_ok=True)
        write_clam(tmp_path / "nested" / site, f"S-{site}", 16)
    assert import_features([str(tmp_path / "nested"), f"--run={tmp_path / 'back'}", *known]) == 0
    assert len(list((tmp_path / "back").rglob("*.h5"))) == 2
    write_clam(tmp_path / "nested" / "b", "S-a", 16)
    assert import_features([str(tmp_path / "nested"), f"--run={tmp_path / 'no'}", *known]) == 2
    assert "two files of slide 'S-a'" in " ".join(capsys.readouterr().err.split())


def test_tables_for_clam_and_stamp(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--epochs=1", "--resamples=100", "--hidden=8", "--external=tma", "--accept-risk=test"]
    assert train([str(run), "--encoder=test_resnet", *quick]) == 0
    splits = pd.read_csv(run / "models" / ENCODER / "splits.csv").set_index("slide_id").split
    for layout in ("clam", "stamp"):
        assert export([str(run), f"--layout={layout}", "--encoder=test_resnet"]) == 0
    clam, stamp = run / "export/clam", run / "export/stamp"
    table = pd.read_csv(clam / "dataset_csv/run.csv")
    assert table.columns.tolist() == ["case_id", "slide_id", "label"]
    assert set(table.slide_id) == set(splits.index)
    fold = pd.read_csv(clam / "splits/run/splits_0.csv")
    for part in ("train", "val", "test"):
        assert set(fold[part].dropna()) == set(splits.index[splits == part])
    how = (clam / "how_to_run.txt").read_text()
    assert "--embed_dim 96" in how
    compile(
        "if args.task == 0: pass\n" + how[how.index("elif") : how.index("python main")], "", "exec"
    )
    slides = pd.read_csv(stamp / "slide.csv")
    assert all((stamp / name).is_file() for name in slides.FILENAME)
    inside = set(pd.read_csv(stamp / "clini.csv").PATIENT)
    outside = set(pd.read_csv(stamp / "clini_external.csv").PATIENT)
    assert inside | outside == set(slides.PATIENT)
    assert outside == {"P10", "P11"}
    assert export([str(run), "--layout=clam", "--encoder=test_resnet", "--splits-of=no"]) == 2
    assert "there are test_resnet" in " ".join(capsys.readouterr().err.split())


def test_bags_too_small_for_clam_and_patients_of_two_labels_are_told(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = run / "features" / ENCODER / f"{SLIDE}.h5"
    with h5py.File(store) as file:
        features, coords = file["features"][:5], file["coords"][:5]
        attributes = dict(file.attrs) | dict(file["coords"].attrs)
    from wsi_pipeline.features import FeatureMeta, write_features

    meta = FeatureMeta(slide_id=SLIDE, encoder=ENCODER, tile_px=64, tile_px_level0=64.0, mpp=0.5,
                       mpp_level0=0.5, level0_size=(512, 64))  # fmt: skip
    assert attributes["tile_px"] == 64
    write_features(store, features, coords, meta)
    table = pd.read_csv(run / "cohort.csv")
    table.loc[table.slide_id == "S05", "patient_id"] = "P4"
    table.to_csv(run / "cohort.csv", index=False)
    assert export([str(run), "--layout=clam", "--encoder=test_resnet"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 slides have fewer than the 8 tiles that CLAM's --B asks for (S03)" in said
    assert "--B 5" in said
    assert export([str(run), "--layout=stamp", "--encoder=test_resnet"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 patients have slides of several labels (P4)" in said
    assert "P4" not in set(pd.read_csv(run / "export/stamp/clini.csv").PATIENT)


def test_anndata_is_lazyslides(run: Path, tmp_path: Path) -> None:
    """Names, places and sizes as wsidata's features_anndata gives them; read by anndata itself."""
    assert export([str(run), "--layout=anndata", "--encoder=test_resnet"]) == 0
    held = anndata.read_h5ad(run / "export/anndata" / f"{SLIDE}.h5ad")
    features, coords = ours(run)
    assert np.array_equal(held.X, features)
    assert np.array_equal(held.obsm["spatial"], coords)
    assert held.obs[["x", "y"]].to_numpy().tolist() == coords.tolist()
    assert held.obs.tile_id.tolist() == list(range(8))
    assert held.obs.library_id.unique().tolist() == ["tiles"]
    spec = held.uns["tile_spec"]
    assert (spec["width"], spec["stride_width"], spec["base_downsample"], spec["mpp"]) == (
        64, 64, 1.0, 0.5,
    )  # fmt: skip
    assert held.uns["slide_properties"]["shape"].tolist() == [64, 512]
    assert import_features([str(run / "export/anndata"), f"--run={tmp_path / 'back'}"]) == 0
    with h5py.File(tmp_path / "back/features" / ENCODER / f"{SLIDE}.h5") as file:
        assert np.array_equal(file["features"][:], features)
        assert file.attrs["encoder"] == ENCODER
        assert (file.attrs["mpp"], file.attrs["mpp_level0"]) == (0.5, 0.5)


def test_slide_embeddings_are_a_baseline_and_one_anndata(run: Path) -> None:
    """Embedded, trained on and exported by the command line, with the mean and one's own."""
    for name in ("mean", "features.test_embed:own"):
        tag = f"{name.replace(':', '_')}-of-{ENCODER}"
        told = [f"--slide-encoder={name}", "--device=cpu"]
        assert embed([str(run), f"--encoder={ENCODER}", *told]) == 0
        quick = ["--epochs=2", "--resamples=100", "--external=tma", "--accept-risk=test"]
        command = [str(run), f"--encoder={tag}", "--aggregator=mean", f"--name={name[:4]}", *quick]
        assert train(command) == 0
        predictions = pd.read_csv(run / "models" / name[:4] / "predictions.csv")
        assert set(predictions.slide_id) <= set(pd.read_csv(run / "cohort.csv").slide_id)
        assert len(predictions) > 0
        assert export([str(run), "--layout=anndata", f"--encoder={tag}"]) == 0
        held = anndata.read_h5ad(run / "export/anndata" / f"{tag}.h5ad")
        cohort = pd.read_csv(run / "cohort.csv").set_index("slide_id")
        assert held.obs.index.tolist() == sorted(cohort.index)
        assert held.obs.label.tolist() == cohort.label[held.obs.index].fillna("").tolist()
        assert held.obs.patient_id.tolist() == cohort.patient_id[held.obs.index].tolist()
        with h5py.File(run / "features" / tag / f"{SLIDE}.h5") as file:
            assert np.array_equal(held[SLIDE].X, file["features"][:])
        assert held.uns["slide_encoder"] == name.replace(":", "_")
        assert not (run / "export/anndata" / f"{SLIDE}.h5ad").exists()
        if name == "mean":
            np.testing.assert_allclose(held[SLIDE].X[0], ours(run)[0].mean(0), rtol=1e-5)


def test_an_anndata_that_does_not_place_its_tiles_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scanpy's spatial is a spot's middle, LazySlide's a tile's corner; nothing says which."""
    (tmp_path / "theirs").mkdir()
    table = anndata.AnnData(np.ones((3, 4), np.float32), obsm={"spatial": np.zeros((3, 2))})
    for frame in (table.obs, table.var):
        frame.index = pd.Index(list(frame.index), dtype=object)
    table.write_h5ad(tmp_path / "theirs/S01.h5ad")
    command = [str(tmp_path / "theirs"), f"--run={tmp_path / 'back'}", "--encoder=x"]
    assert import_features(command) == 1
    assert "open where its tiles lie" in " ".join(capsys.readouterr().out.split())
