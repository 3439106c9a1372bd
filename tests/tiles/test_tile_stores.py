"""Tile stores: what comes out is what went in, whole or not at all, with and without our code."""

import json
import multiprocessing
import operator
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from wsi_pipeline.errors import ConfigError, StoreCorruptError, StoreError
from wsi_pipeline.tiles import create_tiles, open_tiles, verify_tiles

NAMES = ("tissue_fraction", "background_fraction", "focus", "pen_fraction")
ATTRIBUTES: dict[str, Any] = {
    "slide": "häuschen.svs",
    "mpp_native": 0.2521,
    "mpp_requested": None,
    "stain_matrix": [[0.65, 0.7, 0.29], [0.07, 0.99, 0.11]],
    "config": {"tile_px": 32, "stain": "macenko"},
    "flags": [],
    "region_level0": {"x": 1, "y": 2},
    "allow_coarser": False,
}

suffixes = pytest.mark.parametrize("suffix", [".zarr", ".h5"])
codecs = pytest.mark.parametrize(
    ("suffix", "codec"), [(".zarr", "zstd"), (".zarr", "jpeg"), (".h5", "none"), (".h5", "jpeg")]
)


def tiles_of(count: int, tile_px: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, tile_px, tile_px, 3), dtype=np.uint8)


def coords_of(count: int) -> NDArray[np.int64]:
    return np.stack([np.arange(count) % 7, np.arange(count) // 7], axis=-1) * 512


def columns_of(count: int) -> dict[str, NDArray[np.float32]]:
    base = np.linspace(0, 1, count, dtype=np.float32)
    return {name: base * (i + 1) for i, name in enumerate(NAMES)}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, count: int, step: int = 50, **options: Any) -> NDArray[np.uint8]:
    tiles, coords, columns = tiles_of(count), coords_of(count), columns_of(count)
    with create_tiles(path, tile_px=32, capacity=count + 13, **options) as writer:
        for start in range(0, count, step):
            part = slice(start, start + step)
            writer.append(tiles[part], coords[part], {n: c[part] for n, c in columns.items()})
        writer.commit(ATTRIBUTES)
    return tiles


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".zarr", "zstd"), (".zarr", "none"), (".h5", "none"), (".h5", "auto")]
)
def test_a_store_gives_back_what_was_appended(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"s{suffix}"
    tiles = write(path, 300, codec=codec)
    store = open_tiles(path)
    assert len(store) == len(store.tiles) == 300
    assert store.tiles.shape == (300, 32, 32, 3)
    np.testing.assert_array_equal(store.tiles[:], tiles)
    np.testing.assert_array_equal(store.coords, coords_of(300))
    assert store.coords.dtype == np.int64
    assert store.columns.keys() == set(NAMES)
    for name, column in columns_of(300).items():
        np.testing.assert_array_equal(store.columns[name], column)
        assert store.columns[name].dtype == np.float32
    assert {name: store.attributes[name] for name in ATTRIBUTES} == ATTRIBUTES
    np.testing.assert_array_equal(np.concatenate(list(store.batches(128))), tiles)
    assert verify_tiles(path) == []
    assert names_in(tmp_path) == [path.name]


def photo_like(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth tiles, as JPEG expects them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([cv2.resize(tile, (32, 32), interpolation=cv2.INTER_CUBIC) for tile in coarse])


@suffixes
@pytest.mark.parametrize("count", [1, 3, 500])
def test_jpeg_tiles_are_close_whichever_way_they_are_read(
    tmp_path: Path, suffix: str, count: int
) -> None:
    path, tiles = tmp_path / f"s{suffix}", photo_like(count)
    with create_tiles(path, tile_px=32, capacity=count + 5, codec="jpeg") as writer:
        for start in range(0, count, 70):
            part = slice(start, start + 70)
            writer.append(tiles[part], coords_of(count)[part], {})
        writer.commit(ATTRIBUTES)
    store = open_tiles(path)
    whole = store.tiles[:]
    assert whole.shape == tiles.shape
    assert np.abs(whole.astype(int) - tiles).mean() < 4
    assert verify_tiles(path) == []
    rng = np.random.default_rng(1)
    for key in (rng.permutation(count), np.arange(count)[::-2], rng.integers(0, count, 9)):
        np.testing.assert_array_equal(store.tiles[key], whole[key])
    np.testing.assert_array_equal(store.tiles[count - 1], whole[-1])
    assert store.tiles[0:0].shape == (0, 32, 32, 3)
    assert store.attributes["codec"] == "jpeg"


def test_damaged_jpeg_tiles_are_found(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with create_tiles(path, tile_px=32, capacity=9, codec="jpeg") as writer:
        writer.append(photo_like(9), coords_of(9), {})
        writer.commit({})
    with h5py.File(path, "r+") as file:
        start = file["tiles_offset"][4]
        file["tiles_jpeg"][start : start + 200] = 0
    unseal(path)
    assert any("tile 4" in problem for problem in verify_tiles(path))


@suffixes
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_indexing_is_numpys(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"indexed{suffix}"
    if not path.exists():
        write(path, 150)
    tiles = tiles_of(150)
    store = open_tiles(path)
    row = st.integers(-150, 149)
    key = data.draw(
        st.one_of(
            row,
            st.slices(150),
            st.lists(row, max_size=9).map(lambda rows: np.array(rows, np.int64)),
        )
    )
    np.testing.assert_array_equal(store.tiles[key], tiles[key])


@suffixes
def test_rows_that_do_not_exist_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s{suffix}"
    write(path, 5)
    store = open_tiles(path)
    for key in (5, -6, np.array([0, 5]), np.array([0.5])):
        with pytest.raises(IndexError):
            store.tiles[key]
    mask = np.array([True, False, False, True, False])
    np.testing.assert_array_equal(store.tiles[mask], tiles_of(5)[mask])


@suffixes
def test_a_store_does_not_depend_on_how_it_was_appended(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a{suffix}", 270, step=270)
    write(tmp_path / f"b{suffix}", 270, step=7)
    a, b = (open_tiles(tmp_path / f"{name}{suffix}") for name in "ab")
    np.testing.assert_array_equal(a.tiles[:], b.tiles[:])
    if suffix == ".zarr":
        files = sorted(p.relative_to(a.path) for p in a.path.rglob("*") if p.is_file())
        assert files == sorted(p.relative_to(b.path) for p in b.path.rglob("*") if p.is_file())
        for name in files:
            assert (a.path / name).read_bytes() == (b.path / name).read_bytes(), name


def test_zarr_reads_it_without_us(tmp_path: Path) -> None:
    tiles = write(tmp_path / "s.zarr", 140)
    group = zarr.open(tmp_path / "s.zarr", mode="r")
    assert set(group.array_keys()) == {"tiles", "coords", *NAMES}
    np.testing.assert_array_equal(group["tiles"][:], tiles)
    np.testing.assert_array_equal(group["coords"][:], coords_of(140))
    assert group.attrs["stain_matrix"] == ATTRIBUTES["stain_matrix"]
    assert list(group.attrs)[-2:] == ["seal", "complete"]
    assert group.attrs["complete"] is True


def test_h5py_reads_it_without_us(tmp_path: Path) -> None:
    tiles = write(tmp_path / "s.h5", 140)
    with h5py.File(tmp_path / "s.h5") as file:
        assert set(file) == {"tiles", "coords", *NAMES}
        np.testing.assert_array_equal(file["tiles"][:], tiles)
        np.testing.assert_array_equal(file["coords"][:], coords_of(140))
        assert file.attrs["slide"] == "häuschen.svs"
        assert file.attrs["mpp_native"] == 0.2521
        assert file.attrs["complete"]


@suffixes
def test_leaving_without_commit_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s{suffix}"
    with create_tiles(path, tile_px=32, capacity=9) as writer:
        writer.append(tiles_of(9), coords_of(9), columns_of(9))
    assert names_in(tmp_path) == []
    with (
        pytest.raises(StoreError, match="announced"),
        create_tiles(path, tile_px=32, capacity=9) as writer,
    ):
        writer.append(tiles_of(10), coords_of(10), columns_of(10))
    assert names_in(tmp_path) == []
    with pytest.raises(StoreError, match="no such tile store"):
        open_tiles(path)


@suffixes
def test_a_failed_rewrite_keeps_the_old_store_and_a_good_one_replaces_it(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"s{suffix}"
    tiles = write(path, 20)
    with create_tiles(path, tile_px=32, capacity=9) as writer:
        writer.append(tiles_of(9, seed=1), coords_of(9), columns_of(9))
    np.testing.assert_array_equal(open_tiles(path).tiles[:], tiles)
    with create_tiles(path, tile_px=32, capacity=9) as writer:
        writer.append(tiles_of(9, seed=1), coords_of(9), columns_of(9))
        writer.commit({})
    np.testing.assert_array_equal(open_tiles(path).tiles[:], tiles_of(9, seed=1))
    assert names_in(tmp_path) == [path.name]


@suffixes
def test_what_cannot_be_appended_is_refused(tmp_path: Path, suffix: str) -> None:
    with create_tiles(tmp_path / f"s{suffix}", tile_px=32, capacity=9) as writer:
        with pytest.raises(StoreError, match="expected"):
            writer.append(tiles_of(3, tile_px=16), coords_of(3), columns_of(3))
        with pytest.raises(StoreError, match="expected"):
            writer.append(tiles_of(3), coords_of(2), columns_of(3))
        with pytest.raises(StoreError, match="9 tiles announced"):
            writer.append(tiles_of(10), coords_of(10), columns_of(10))
        with pytest.raises(StoreError, match="at least one tile"):
            writer.commit({})
        writer.append(tiles_of(3), coords_of(3), columns_of(3))
        with pytest.raises(StoreError, match="measures"):
            writer.append(tiles_of(3), coords_of(3), {})


def test_unknown_suffixes_and_codecs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"\.zarr or \.h5"):
        create_tiles(tmp_path / "s.tar", tile_px=32, capacity=1)
    with pytest.raises(ConfigError, match=r"zstd: \.h5 stores know auto, none, jpeg"):
        create_tiles(tmp_path / "s.h5", tile_px=32, capacity=1, codec="zstd")
    assert names_in(tmp_path) == []


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from wsi_pipeline.tiles import create_tiles
rng = np.random.default_rng(0)
with create_tiles(Path(sys.argv[1]), tile_px=32, capacity=100_000) as writer:
    for start in range(0, 100_000, 100):
        coords = np.arange(start, start + 100)[:, None] * [512, 0]
        writer.append(rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8), coords, {})
        if start == 300:
            print("going", flush=True)
        time.sleep(0.005)
"""


@suffixes
def test_a_killed_writer_leaves_no_store_and_the_next_cleans_up(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"s{suffix}"
    script = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "going\n"
        time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    assert len(names_in(tmp_path)) == 1, "the temporary of the killed writer"
    tiles = write(path, 40)
    assert names_in(tmp_path) == [path.name]
    np.testing.assert_array_equal(open_tiles(path).tiles[:], tiles)


@suffixes
def test_an_incomplete_or_foreign_store_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s{suffix}"
    write(path, 5)
    set_attribute(path, "complete", False)
    with pytest.raises(StoreCorruptError, match="never completed"):
        open_tiles(path)
    set_attribute(path, "complete", True)
    set_attribute(path, "schema_version", 99)
    with pytest.raises(StoreError, match="newer"):
        open_tiles(path)
    set_attribute(path, "schema", "else")
    with pytest.raises(StoreError, match="not a tile store"):
        open_tiles(path)


def set_attribute(path: Path, name: str, value: Any) -> None:
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value
    else:
        zarr.open_group(path, mode="r+").attrs[name] = value
    unseal(path)


def unseal(path: Path) -> None:
    """Leave a store as older versions wrote it, without digests."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs.pop("sealed", None)
    else:
        root = path / "zarr.json"
        told = json.loads(root.read_text())
        told["attributes"].pop("seal", None)
        root.write_text(json.dumps(told))


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write(path, 300)
    shard = path / "tiles/c/1/0/0/0"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 0xFF
    shard.write_bytes(content)
    assert any("damaged" in problem for problem in verify_tiles(path))
    with pytest.raises(StoreCorruptError, match="damaged"):
        open_tiles(path).tiles[:]


@pytest.mark.parametrize("codec", ["zstd", "jpeg"])
def test_a_file_that_is_missing_or_cut_short_is_named_on_opening(
    tmp_path: Path, codec: str
) -> None:
    path = tmp_path / "s.zarr"
    write(path, 300, codec=codec)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    assert len(files) >= 12
    for file in files:
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(StoreCorruptError, match=r"--overwrite") as missing:
            open_tiles(path)
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(StoreCorruptError, match="damaged"):
            open_tiles(path)
        file.write_bytes(content)
        if file.name != "zarr.json":
            assert str(file.relative_to(path)) in str(missing.value)
    assert verify_tiles(path) == []


def test_lost_files_are_found_in_stores_from_before_they_were_noted(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write(path, 300)
    unseal(path)
    assert len(open_tiles(path)) == 300
    for name in ("tiles/c/2/0/0/0", "coords/c/0/0"):
        (path / name).rename(tmp_path / "aside")
        with pytest.raises(StoreCorruptError, match=name):
            open_tiles(path)
        (tmp_path / "aside").rename(path / name)


def test_black_tiles_and_columns_of_zeros_are_written(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    black = np.zeros((2, 32, 32, 3), np.uint8)
    with create_tiles(path, tile_px=32, capacity=2) as writer:
        writer.append(black, coords_of(2), {"focus": np.zeros(2, np.float32)})
        writer.commit({})
    assert (path / "tiles/c/0/0/0/0").stat().st_size > 16 * 128 + 4
    assert (path / "focus/c/0").stat().st_size == 8
    np.testing.assert_array_equal(open_tiles(path).tiles[:], black)


def test_a_truncated_hdf5_store_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write(path, 100)
    path.write_bytes(path.read_bytes()[:-4000])
    assert verify_tiles(path) != []


@suffixes
def test_rows_that_disagree_are_found(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s{suffix}"
    write(path, 10)
    if suffix == ".h5":
        with h5py.File(path, "r+") as file:
            del file["focus"]
            file["focus"] = np.zeros(9, np.float32)
    else:
        group = zarr.open_group(path, mode="r+")
        group.create_array("focus", data=np.zeros(9, np.float32), overwrite=True)
    unseal(path)
    with pytest.raises(StoreCorruptError, match="row counts differ"):
        open_tiles(path)
    assert any("row counts differ" in problem for problem in verify_tiles(path))


@suffixes
def test_coords_out_of_order_and_nan_are_found(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s{suffix}"
    columns = columns_of(10)
    columns["focus"][3] = np.nan
    with create_tiles(path, tile_px=32, capacity=10) as writer:
        writer.append(tiles_of(10), coords_of(10)[::-1], columns)
        writer.commit({})
    problems = verify_tiles(path)
    assert any("canonical order" in problem for problem in problems)
    assert any("focus" in problem for problem in problems)


@codecs
def test_an_open_store_travels_to_another_process(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"s{suffix}"
    write(path, 5, codec=codec)
    tiles = open_tiles(path).tiles[:]
    store = open_tiles(path)
    for again in (pickle.loads(pickle.dumps(store)).tiles, pickle.loads(pickle.dumps(store.tiles))):
        np.testing.assert_array_equal(again[:], tiles)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(operator.getitem, store.tiles, slice(1, None)).result()
        np.testing.assert_array_equal(there, tiles[1:])


@codecs
def test_the_workers_of_a_data_loader_read_it(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"s{suffix}"
    write(path, 40, codec=codec)
    tiles = open_tiles(path).tiles
    whole = tiles[:]  # so that whatever the format's library keeps is in use before the fork
    loader = DataLoader(tiles, batch_size=8, num_workers=2, multiprocessing_context="fork")
    np.testing.assert_array_equal(np.concatenate([batch.numpy() for batch in loader]), whole)
