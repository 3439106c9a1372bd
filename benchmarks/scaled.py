"""Tiles decoded at their own size beside the area mean: grey levels, features, processor time.

python -m benchmarks.scaled SLIDE … [--encoders tf_efficientnet_lite0:package resnet18:none]
                            [--jpeg2000]

Every slide is cut at twice its level-0 µm/px, which is taken as 0.25 where the file says none,
once by each way; the tiles that both keep are compared, in turn with what else moves features.
With ``--jpeg2000`` the pixels of its level 0 are written as Aperio's JPEG 2000 first.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
import torch

from wsi_pipeline.features import load_encoder
from wsi_pipeline.slides import compression_of, open_slide
from wsi_pipeline.tiles import TileSettings, cut_slide, open_tiles
from wsi_pipeline.types import RgbTiles

MOST = 50  # tiles of a slide whose features are compared
ROUNDS = 3
SIDE = 256  # of a native tile of JPEG 2000
DECIBELS = 38  # its peak signal to noise: as many bytes a tile as the real slide has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--encoders", nargs="+", default=["tf_efficientnet_lite0:package"])
    parser.add_argument("--jpeg2000", action="store_true")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    encoders = [load_encoder(*name.split(":"), "cpu") for name in given.encoders]
    moved = " | ".join(f"{one.tag}, median (95 %)" for one in encoders)
    print(f"| slide | tiles | on one side only | grey levels, mean (99 %) | CPU | {moved} |")
    print("|---|---:|---:|---:|---:|" + "---:|" * len(encoders))
    for path in given.slides:
        with tempfile.TemporaryDirectory() as name:
            source = as_jpeg2000(path, Path(name)) if given.jpeg2000 else path
            area, scaled, only, share = compared(source)
        away = np.abs(area.astype(np.int16) - scaled)
        few = np.linspace(0, len(area) - 1, min(MOST, len(area))).astype(int)
        cells = [path.name, str(len(area)), str(only),
                 f"{away.mean():.2f} ({np.quantile(away, 0.99):.0f})", f"{share:.2f}"]  # fmt: skip
        for encoder in encoders:
            before, after = encoder.encode(area[few]), encoder.encode(scaled[few])
            usual = np.median(np.linalg.norm(before[:-1] - before[1:], axis=1))
            gone = np.linalg.norm(after - before, axis=1) / usual
            cells.append(f"{np.median(gone):.3f} ({np.quantile(gone, 0.95):.3f})")
        print("|", " | ".join(cells), "|", flush=True)


def as_jpeg2000(path: Path, folder: Path) -> Path:
    """Write a slide's level 0 alone: tiles that are JPEG 2000 as they are, else encoded anew."""
    with open_slide(path) as slide:
        width, height = slide.info.dimensions
        if compression_of(path, slide.info.dimensions) == "JPEG 2000 (33005)":
            tiles = _stored(path)
        else:
            tiles = (
                imagecodecs.jpeg2k_encode(
                    slide.read(0, x, y, SIDE, SIDE),
                    codecformat="j2k",
                    level=DECIBELS,
                    reversible=False,
                )
                for y in range(0, height, SIDE)
                for x in range(0, width, SIDE)
            )
        said = f"Aperio Image\n{width}x{height} J2K/KDU Q=70|AppMag = 40|MPP = {slide.mpp or 0.25}"
        with tifffile.TiffWriter(folder / f"{path.stem}.svs", bigtiff=True) as tiff:
            tiff.write(
                tiles, shape=(height, width, 3), dtype=np.uint8, tile=(SIDE, SIDE),
                photometric="rgb", compression=33005, description=said, metadata=None,
            )  # fmt: skip
    return folder / f"{path.stem}.svs"


def _stored(path: Path) -> Iterator[bytes]:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            tiff.filehandle.seek(offset)
            yield tiff.filehandle.read(size)


def compared(path: Path) -> tuple[RgbTiles, RgbTiles, int, float]:
    """Return the tiles both ways keep, by each; how many one alone keeps; scaled's share of CPU."""
    with open_slide(path) as slide:
        native = slide.mpp or 0.25
    seconds: dict[str, list[float]] = {"area": [], "scaled": []}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(ROUNDS):
            for way in ("area", "scaled"):
                begun = time.process_time()
                settings = TileSettings.model_validate(
                    {"mpp": 2 * native, "mpp_override": native, "stain": "none", "resample": way}
                )
                cut_slide(path, Path(name) / f"{way}.zarr", settings)
                seconds[way].append(time.process_time() - begun)
        stores = [open_tiles(Path(name) / f"{way}.zarr") for way in seconds]
        assert stores[1].attributes["resampled"] == "scaled", f"{path}: has no way to be scaled"
        rows = [{tuple(at): row for row, at in enumerate(s.coords.tolist())} for s in stores]
        both = sorted(rows[0].keys() & rows[1].keys())
        tiles = [s.tiles[[own[at] for at in both]] for s, own in zip(stores, rows, strict=True)]
    only = len(rows[0].keys() ^ rows[1].keys())
    return tiles[0], tiles[1], only, np.median(seconds["scaled"]) / np.median(seconds["area"])


if __name__ == "__main__":
    main()
