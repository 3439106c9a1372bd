"""Feature stores: whole or absent, and read by other tools' code as they are."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pytest
import torch

from wsi_pipeline.errors import ConfigError, StoreCorruptError, StoreError
from wsi_pipeline.features import (
    FeatureMeta,
    Known,
    export_features,
    find_features,
    import_features,
    read_attributes,
    read_digest,
    read_features,
    verify_features,
    write_features,
)
from wsi_pipeline.features.store import magnification

META = FeatureMeta(
    slide_id="S1",
    encoder="densenet121.ra_in1k",
    tile_px=256,
    tile_px_level0=506.6,
    overlap_px=0,
    mpp=0.5,
    mpp_level0=0.2527,
    level0_size=(40000, 30000),
    folder="features/densenet121.ra_in1k",
    provenance={"input_digest": "d1", "made_from": {"encoder": "x", "dtype": None}},
)


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    coords = np.stack(np.divmod(np.arange(20), 5), axis=1)[:, ::-1] * 507
    return rng.normal(size=(20, 16)).astype(np.float32), coords.astype(np.int64)


@pytest.fixture
def store(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]) -> Path:
    path = tmp_path / "S1.h5"
    write_features(path, *rows, META)
    return path


def test_what_is_written_is_read(store: Path, rows: tuple[np.ndarray, np.ndarray]) -> None:
    bag = read_features(store)
    assert np.array_equal(bag.features, rows[0])
    assert np.array_equal(bag.coords, rows[1])
    assert bag.features.dtype == np.float32
    assert bag.coords.dtype == np.int64
    assert bag.attributes["made_from"] == {"encoder": "x", "dtype": None}
    assert bag.attributes["mpp"] == 0.5
    assert read_attributes(store) == bag.attributes
    assert verify_features(store) == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_store_tells_the_digest_of_the_features_that_are_read_from_it(
    tmp_path: Path, rows: tuple[np.ndarray, np.ndarray], dtype: Literal["float32", "float16"]
) -> None:
    path, copy = tmp_path / "S1.h5", tmp_path / "S2.h5"
    write_features(path, *rows, META, dtype)
    bag = read_features(path)
    assert bag.told is not None
    assert read_digest(path) == bag.told == dataclasses.replace(bag, told=None).digest
    assert "features_digest" not in bag.attributes  # what is made of them does not inherit it
    shutil.copy(path, copy)
    with h5py.File(copy, "a") as file:  # another program changes them, and takes the seal away
        file["features"][3, 3] += 1
        del file.attrs["sealed"]
    assert read_features(copy).told is None
    assert read_digest(copy) == read_features(copy).digest != bag.digest


def test_clam_and_trident_find_what_they_look_for(
    store: Path, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    with h5py.File(store, "r") as file:  # as CLAM's dataset does
        features = torch.from_numpy(file["features"][:])
        coords = file["coords"][:]
    assert features.shape == (20, 16)
    assert np.array_equal(coords, rows[1])
    with h5py.File(store, "r") as file:  # as TRIDENT's read_coords does
        attributes = dict(file["coords"].attrs)
        named = dict(file["features"].attrs)
    assert attributes == {
        "patch_size": 256,
        "patch_size_level0": 507,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": "S1",
        "savetodir": "features/densenet121.ra_in1k",
        "level0_width": 40000,
        "level0_height": 30000,
    }
    assert named["encoder"] == "densenet121.ra_in1k"


@pytest.mark.parametrize(
    ("mpp", "expected"), [(0.25, 40), (0.2527, 40), (0.499, 20), (0.3, 10 / 0.3), (1.0, 10)]
)
def test_magnification_is_whole_only_where_it_nearly_is(mpp: float, expected: float) -> None:
    assert magnification(mpp) == pytest.approx(expected)
    assert isinstance(magnification(mpp), int) == float(expected).is_integer()


def test_unknown_resolution_is_said_and_not_guessed(
    tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    path = tmp_path / "S1.h5"
    write_features(path, *rows, dataclasses.replace(META, mpp=None, mpp_level0=None))
    attributes = read_attributes(path)
    assert np.isnan(attributes["level0_magnification"])
    assert attributes["mpp"] is None


def test_nothing_is_written_of_features_that_are_no_numbers(
    store: Path, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    before = store.read_bytes()
    features = rows[0].copy()
    features[7, 3] = np.nan
    with pytest.raises(StoreError, match="first that of tile 7"):
        write_features(store, features, rows[1], META)
    too_large = rows[0].copy()
    too_large[4, 0] = 1e6  # beyond float16
    with pytest.raises(StoreError, match="first that of tile 4"):
        write_features(store, too_large, rows[1], META, "float16")
    assert store.read_bytes() == before
    assert list(store.parent.iterdir()) == [store]


def test_rows_that_do_not_belong_together_are_refused(
    tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(StoreError, match="not those of a slide"):
        write_features(tmp_path / "S1.h5", rows[0][:-1], rows[1], META)
    with pytest.raises(StoreError, match="not those of a slide"):
        write_features(tmp_path / "S1.h5", rows[0][:0], rows[1][:0], META)


def test_half_precision_on_request(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]) -> None:
    path = tmp_path / "S1.h5"
    write_features(path, *rows, META, "float16")
    with h5py.File(path) as file:
        assert file["features"].dtype == np.float16
    np.testing.assert_allclose(read_features(path).features, rows[0], rtol=1e-3, atol=1e-3)
    assert verify_features(path) == []


def test_equal_input_gives_equal_files(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]) -> None:
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for path in paths:
        write_features(path, *rows, META)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_truncated_file_is_called_damaged(store: Path) -> None:
    os.truncate(store, store.stat().st_size // 2)
    with pytest.raises(StoreCorruptError, match="extract again"):
        read_features(store)
    assert len(verify_features(store)) == 1


def test_what_is_no_feature_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such feature store"):
        read_features(tmp_path / "absent.h5")
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["tiles"] = np.zeros(3)
    with pytest.raises(StoreError, match="it holds tiles"):
        read_features(other)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f["features"].__setitem__((3, 2), np.nan), "1 of 20 features are not finite"),
        (lambda f: f["coords"].__setitem__(1, f["coords"][0]), "1 tiles stand there twice"),
        (lambda f: f["coords"].__setitem__(1, (50000, 0)), "1 tiles lie outside"),
        (lambda f: f["coords"].attrs.__delitem__("overlap"), "coords lacks the attributes overlap"),
    ],
)
def test_verify_names_what_is_wrong(store: Path, damage: object, message: str) -> None:
    with h5py.File(store, "r+") as file:
        damage(file)  # type: ignore[operator]
        del file.attrs["sealed"]  # as older versions wrote it, without digests
    problems = verify_features(store)
    assert len(problems) == 1
    assert message in problems[0]
    assert str(store) in problems[0]


def test_verify_notices_that_the_input_has_changed(store: Path) -> None:
    assert verify_features(store, "d1") == []
    assert "made from another input" in verify_features(store, "d2")[0]


def test_an_encoders_folder_is_found_by_tag_or_bare_name(tmp_path: Path) -> None:
    for name in ("densenet121.ra_in1k", "resnet50.a1_in1k", "resnet50.random-seed0"):
        (tmp_path / name).mkdir()
    assert find_features(tmp_path, "densenet121").name == "densenet121.ra_in1k"
    assert find_features(tmp_path, "resnet50.a1_in1k").name == "resnet50.a1_in1k"
    with pytest.raises(StoreError, match=r"several.*resnet50\.a1_in1k, resnet50\.random-seed0"):
        find_features(tmp_path, "resnet50")
    with pytest.raises(StoreError, match="no features of this encoder"):
        find_features(tmp_path, "vgg16")


def test_clam_layout(store: Path, tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]) -> None:
    h5, pt, patches = export_features(store, tmp_path / "clam", "clam")
    assert h5 == tmp_path / "clam" / "h5_files" / "S1.h5"
    with h5py.File(patches) as file:
        assert np.array_equal(file["coords"][:], rows[1])
        assert file["coords"].attrs["patch_size"] == 507
    with h5py.File(h5) as file:
        assert set(file) == {"features", "coords"}
        assert file["coords"].dtype == np.int32
        assert np.array_equal(file["coords"][:], rows[1])
    assert np.array_equal(torch.load(pt, weights_only=True).numpy(), rows[0])
    known = Known(encoder="densenet121.ra_in1k", tile_px=256, tile_px_level0=507.0)
    assert np.array_equal(import_features(h5, known).coords, rows[1])
    with pytest.raises(StoreError, match=r"S1\.h5"):
        import_features(h5)


def test_trident_layout(store: Path, tmp_path: Path) -> None:
    path, *patches = export_features(store, tmp_path / "trident", "trident")
    assert [each.name for each in patches] in ([], ["S1_patches.h5"])
    assert path == tmp_path / "trident" / "features_densenet121.ra_in1k" / "S1.h5"
    with h5py.File(path) as file:
        assert file["coords"].attrs["patch_size_level0"] == 507
        assert not file.attrs
    bag, ours = import_features(path), read_features(store)
    assert np.array_equal(bag.features, ours.features)
    assert np.array_equal(bag.coords, ours.coords)


def test_stamp_layout(store: Path, tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]) -> None:
    (path,) = export_features(store, tmp_path / "stamp", "stamp")
    with h5py.File(path) as file:
        assert file["feats"].dtype == np.float16
        assert file["coords"].dtype == np.float32
        np.testing.assert_allclose(file["coords"][:], rows[1] * 0.2527, rtol=1e-6)
        assert file.attrs["unit"] == "um"
        assert file.attrs["tile_size_um"] == 128.0
        assert file.attrs["tile_size_px"] == 256
        assert file.attrs["feat_type"] == "tile"
    with pytest.raises(StoreError, match="need the slide's resolution"):
        import_features(path)
    bag = import_features(path, Known(mpp_level0=0.2527))
    assert bag.layout == "stamp"
    assert np.array_equal(bag.coords, rows[1]), "µm and back, to the pixel"
    np.testing.assert_allclose(bag.features, rows[0], rtol=1e-3, atol=1e-3)


def test_layouts_that_cannot_be_had_are_refused(
    tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    path = tmp_path / "S1.h5"
    write_features(path, *rows, dataclasses.replace(META, mpp=None, mpp_level0=None))
    with pytest.raises(StoreError, match="resolution is unknown"):
        export_features(path, tmp_path, "stamp")
    with pytest.raises(ConfigError, match="clam, trident, stamp"):
        export_features(path, tmp_path, "slideflow")
