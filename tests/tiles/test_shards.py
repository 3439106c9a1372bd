"""Arrays in shards: what we write is what zarr-python writes, and either reads the other's."""

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec, ZstdCodec

from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.tiles.shards import Packing, Shards, ShardWriter, chunk_of, write_array

NAMES = ("tile", "y", "x", "channel")


def tiles_of(count: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def write(array: Path, tiles: np.ndarray, *, shard: int = 4, zstd: int | None = 1) -> None:
    packing = Packing(row=tiles.shape[1:], chunk=1, shard=shard, zstd=zstd, names=NAMES)
    with ShardWriter(array, packing) as writer:
        for tile in tiles:
            plain = tile.tobytes()
            writer.write(chunk_of(plain if zstd is None else imagecodecs.zstd_encode(plain, zstd)))
        writer.finish(len(tiles))


def by_zarr_python(array: Path, tiles: np.ndarray, *, shard: int, zstd: int | None) -> None:
    packed = [] if zstd is None else [ZstdCodec(level=zstd)]
    made = zarr.create_array(
        array, shape=tiles.shape, chunks=(1, *tiles.shape[1:]), shards=(shard, *tiles.shape[1:]),
        dtype="uint8", compressors=[*packed, Crc32cCodec()], dimension_names=NAMES,
        config={"write_empty_chunks": True},
    )  # fmt: skip
    made[...] = tiles


@pytest.mark.parametrize("zstd", [None, 1])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_files_are_those_of_zarr_python(tmp_path: Path, count: int, zstd: int | None) -> None:
    tiles = tiles_of(count)
    if count == 4:
        tiles[1] = 0  # what zarr leaves out, unless it is told
    write(tmp_path / "ours", tiles, zstd=zstd)
    by_zarr_python(tmp_path / "theirs", tiles, shard=4, zstd=zstd)
    ours, theirs = (tmp_path / name for name in ("ours", "theirs"))
    names = sorted(str(file.relative_to(theirs)) for file in theirs.rglob("*") if file.is_file())
    assert names == sorted(str(f.relative_to(ours)) for f in ours.rglob("*") if f.is_file())
    assert (ours / "zarr.json").read_text() == (theirs / "zarr.json").read_text()
    np.testing.assert_array_equal(zarr.open_array(ours, mode="r")[...], tiles)
    for array in (ours, theirs):
        out = np.empty((count, tiles[0].size), np.uint8)
        Shards(tmp_path, array.name).fill(0, out)
        np.testing.assert_array_equal(out.reshape(tiles.shape), tiles)
    if zstd is None and count % 4 == 0:  # else theirs has chunks of zeros behind the last
        for name in names:
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()


@pytest.mark.parametrize(
    "values",
    [
        np.arange(12).reshape(6, 2), np.linspace(0, 1, 7, dtype=np.float32),
        np.arange(5, dtype=np.int32), np.zeros(3, np.int64),
    ],
)  # fmt: skip
def test_a_column_is_the_file_that_zarr_python_writes(tmp_path: Path, values: np.ndarray) -> None:
    write_array(tmp_path / "ours", values)
    zarr.create_array(
        tmp_path / "theirs", data=values, chunks=values.shape, compressors=None,
        config={"write_empty_chunks": True},
    )  # fmt: skip
    files = {
        side: {
            str(file.relative_to(tmp_path / side)): file.read_bytes()
            for file in (tmp_path / side).rglob("*")
            if file.is_file()
        }
        for side in ("ours", "theirs")
    }
    assert files["ours"] == files["theirs"]


@given(count=st.integers(1, 40), shard=st.integers(1, 9))
def test_any_number_of_chunks_comes_back(
    tmp_path_factory: pytest.TempPathFactory, count: int, shard: int
) -> None:
    folder, tiles = tmp_path_factory.mktemp("shards"), tiles_of(count, side=2)
    write(folder / "tiles", tiles, shard=shard)
    out = np.empty((count, tiles[0].size), np.uint8)
    Shards(folder, "tiles").fill(0, out)
    np.testing.assert_array_equal(out.reshape(tiles.shape), tiles)
    assert json.loads((folder / "tiles" / "zarr.json").read_text())["shape"][0] == count


def test_a_writer_that_gives_up_leaves_no_shard_that_passes_for_whole(tmp_path: Path) -> None:
    packing = Packing(row=(2, 2, 3), chunk=1, shard=4)
    with ShardWriter(tmp_path / "tiles", packing) as writer:
        writer.write(chunk_of(bytes(12)))
    assert not (tmp_path / "tiles" / "zarr.json").exists()
    (tmp_path / "tiles" / "zarr.json").write_text(json.dumps(packing.document(1)))
    with pytest.raises(StoreCorruptError, match="cut short"):
        Shards(tmp_path, "tiles")
