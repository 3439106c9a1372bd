"""RatioPath: a Ray dataset of tiles over its tissue mask, each read, shrunk and saved as JPEG.

It reads levels as they are, so that tiles between two of them are read from the finer one and
shrunk by a step of ours.
"""

import os
import time
from pathlib import Path
from typing import Any

os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
import pyvips
import ray
from PIL import Image
from protocol import decline, report, tile_arguments
from ratiopath.masks import tissue_mask, write_big_tiff
from ratiopath.openslide import OpenSlide
from ratiopath.ray import read_slides
from ratiopath.tiling import grid_tiles, read_slide_tiles, tile_overlay_overlap
from ray.data.expressions import col
from shapely.geometry import box

_MASK_UM = 8.0  # µm/px of the mask, at the least
_TISSUE = "255"
_MIN_TISSUE = 0.5


def main() -> None:
    given = tile_arguments()
    if given.stain:
        decline("normalise stains")
    begun = time.perf_counter()
    ray.init(num_cpus=given.workers, include_dashboard=False, log_to_driver=False)
    with OpenSlide(given.slide) as slide:
        level = slide.closest_level(given.mpp)
        side = round(given.tile_px * given.mpp / slide.slide_resolution(level)[0])
    mask = given.out / "tissue.tiff"
    _write_mask(given.slide, mask)
    tiles = (
        read_slides([str(given.slide)], tile_extent=side, stride=side, level=level)
        .flat_map(_placed, fn_kwargs={"mask": str(mask)})
        .repartition(2 * given.workers)
        .with_column(
            "tissue",
            tile_overlay_overlap(
                box(0, 0, side, side), col("mask"), col("tile_x"), col("tile_y"),
                col("mpp_x"), col("mpp_y"),
            ),
        )
        .filter(lambda row: (row["tissue"].get(_TISSUE) or 0) >= _MIN_TISSUE)
        .with_column(
            "tile",
            read_slide_tiles(
                col("path"), col("tile_x"), col("tile_y"), col("tile_extent_x"),
                col("tile_extent_y"), col("level"),
            ),
        )
        .map(_saved, fn_kwargs={"out": str(given.out), "side": given.tile_px})
    )  # fmt: skip
    done = tiles.count()
    ray.shutdown()
    report(done, seconds=time.perf_counter() - begun)


def _write_mask(slide: Path, path: Path) -> None:
    """Write its tissue mask of the smallest level, averaged to some 8 µm/px, as it wants it.

    The level is read by its OpenSlide: the libvips that can be installed opens no slides.
    """
    with OpenSlide(slide) as opened:
        level = opened.level_count - 1
        mpp = opened.slide_resolution(level)
        size = opened.level_dimensions[level]
        whole = np.asarray(opened.read_region_relative((0, 0), level, size).convert("RGB"))
    times = max(1, int(_MASK_UM / mpp[0]))
    small = pyvips.Image.new_from_array(whole).shrink(times, times)
    scaled = (mpp[0] * times, mpp[1] * times)
    write_big_tiff(tissue_mask(small, scaled), path, *scaled)


def _placed(row: dict[str, Any], mask: str) -> list[dict[str, Any]]:
    places = grid_tiles(
        (row["extent_x"], row["extent_y"]),
        (row["tile_extent_x"], row["tile_extent_y"]),
        (row["stride_x"], row["stride_y"]),
        last="drop",
    )
    return [row | {"tile_x": int(x), "tile_y": int(y), "mask": mask} for x, y in places]


def _saved(row: dict[str, Any], out: str, side: int) -> dict[str, Any]:
    tile = Image.fromarray(np.asarray(row["tile"], np.uint8))
    small = tile.resize((side, side), Image.Resampling.LANCZOS)
    small.save(Path(out) / f"{row['tile_x']}_{row['tile_y']}.jpg", quality=90)
    return {"tile_x": row["tile_x"]}


if __name__ == "__main__":
    main()
