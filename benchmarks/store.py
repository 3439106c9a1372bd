"""Tile stores: what each codec costs in space, in time, and in features.

python -m benchmarks.store [--pixels SLIDE] [--encoder tf_efficientnet_lite0 --weights package]
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import cv2
import h5py
import numpy as np
import zarr

from benchmarks.measure import (
    Table,
    arguments,
    interleave,
    per_cpu_second,
    per_second,
    write_tables,
)
from benchmarks.slides import Scan, read_patch, write_scan
from wsi_pipeline.features import load_encoder
from wsi_pipeline.tiles import TileSettings, create_tiles, cut_slide, open_tiles

BATCH: Final = 32
READS: Final = 1024  # tiles of one round …
SLOW: Final = 128  # … and of those that take a hundred times as long
Codec = Literal["zstd", "none", "jpeg"]
KINDS: Final[tuple[tuple[str, Codec], ...]] = (
    (".zarr", "zstd"), (".zarr", "none"), (".zarr", "jpeg"), (".h5", "none"), (".h5", "jpeg"),
)  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--encoder", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="package")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = Scan(side=16_384, tissue=0.8)
        slide = write_scan(folder / "scan.svs", scan, read_patch(given.pixels))
        settings = TileSettings(stain="macenko", codec="none", max_background_fraction=1.0)
        cut_slide(slide, folder / "whole.zarr", settings)
        stores = {f"{suffix[1:]} {codec}": folder / f"{codec}{suffix}" for suffix, codec in KINDS}
        tables = [
            _writing(folder / "whole.zarr", stores, given.rounds),
            _reading(stores, given.rounds),
            _losses(stores, given.encoder, given.weights),
        ]
    write_tables(tables, given.out)


def _writing(source: Path, stores: Mapping[str, Path], rounds: int) -> Table:
    whole = open_tiles(source)
    tiles = np.asarray(whole.tiles[: len(whole)])

    def writer(path: Path, codec: Codec) -> Callable[[], float]:
        def write() -> int:
            with create_tiles(path, tile_px=256, capacity=len(tiles), codec=codec) as into:
                for start in range(0, len(tiles), 64):
                    part = tiles[start : start + 64]
                    into.append(part, whole.coords[start : start + 64], {})
                into.commit(whole.attributes)
            return len(tiles)

        return per_second(write)

    codecs = [codec for _, codec in KINDS]
    contestants = {
        name: writer(path, codec)
        for (name, path), codec in zip(stores.items(), codecs, strict=True)
    }
    rates = interleave(contestants, rounds)
    sizes = [
        f"{name}: {_bytes(path) / len(tiles) / 1000:.1f} kB a tile" for name, path in stores.items()
    ]
    return Table(
        name="store-write", title="Tiles written", unit="tiles/s", rates=rates, notes=sizes,
        ours=tuple(stores),
    )  # fmt: skip


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _reading(stores: Mapping[str, Path], rounds: int) -> Table:
    """Random batches, as training reads them."""

    def reader(path: Path) -> Callable[[], float]:
        store = open_tiles(path)
        return _random_batches(lambda places: store.tiles[places], len(store))

    contestants = {name: reader(path) for name, path in stores.items()}
    array = zarr.open_array(stores["zarr zstd"], path="tiles", mode="r")
    plain = zarr.open_array(stores["zarr none"], path="tiles", mode="r")
    with h5py.File(stores["h5 none"]) as file:
        contestants |= {
            "zarr-python, zstd": _random_batches(
                array.get_orthogonal_selection, array.shape[0], SLOW
            ),
            "zarr-python, none": _random_batches(
                plain.get_orthogonal_selection, plain.shape[0], SLOW
            ),
            "h5py, none": _random_batches(
                lambda at: file["tiles"][np.sort(at)], plain.shape[0], SLOW
            ),
        }
        rates = interleave(contestants, rounds)
    return Table(
        name="store-read", title=f"Random batches of {BATCH} tiles read",
        unit="tiles per CPU-second", rates=rates, ours=tuple(stores),
        notes=("files in the system's cache",),
    )  # fmt: skip


def _random_batches(
    read: Callable[..., object], count: int, tiles: int = READS
) -> Callable[[], float]:
    rng = np.random.default_rng(0)

    def work() -> int:
        for _ in range(tiles // BATCH):
            read(rng.choice(count, BATCH, replace=False))
        return tiles

    return per_cpu_second(work)


def _losses(stores: Mapping[str, Path], encoder: str, weights: str) -> Table:
    """Tell how far JPEG moves features, beside what else does."""
    model = load_encoder(encoder, weights, "cpu")
    lossless = np.asarray(open_tiles(stores["zarr none"]).tiles[:READS:4])
    packed = np.asarray(open_tiles(stores["zarr jpeg"]).tiles[:READS:4])
    shifted = np.roll(lossless, 1, axis=2)
    brighter = np.clip(lossless.astype(np.int16) + 2, 0, 255).astype(np.uint8)
    features = model.encode(lossless)
    usual = float(np.median(np.linalg.norm(features[:-1] - features[1:], axis=1)))

    def away(tiles: np.ndarray) -> list[float]:
        gone = np.linalg.norm(model.encode(tiles) - features, axis=1) / usual
        return [float(value) for value in gone]

    rates = {
        "JPEG, quality 90": away(packed),
        "shifted by 1 px": away(shifted),
        "2 grey levels brighter": away(brighter),
        "turned by 90°": away(np.ascontiguousarray(np.rot90(lossless, axes=(1, 2)))),
    }
    error = np.abs(packed.astype(np.int16) - lossless)
    return Table(
        name="store-loss",
        title=f"What moves features of {model.tag}",
        unit="share of the distance between neighbouring tiles",
        rates=rates,
        notes=(
            f"JPEG changes pixels by {error.mean():.2f} grey levels in the mean",
            f"at the 99th percentile it is {np.quantile(error, 0.99):.0f}",
        ),
        ours=("JPEG, quality 90",),
        how="tiles",
    )


if __name__ == "__main__":
    main()
