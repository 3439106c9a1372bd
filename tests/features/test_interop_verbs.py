"""Features to other tools and back by the verbs, and what verify says of damaged run folders."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from finetune_images import write_run
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize("layout", ["clam", "trident", "stamp"])
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
