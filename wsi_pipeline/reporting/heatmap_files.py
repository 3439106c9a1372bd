"""Heatmaps on disk: ``heatmaps/<model>/<slide_id>.png`` and, beside it, what it shows as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike

from wsi_pipeline.atomic import write_json
from wsi_pipeline.errors import StoreError
from wsi_pipeline.pictures import write_picture
from wsi_pipeline.reporting.data import Heatmap
from wsi_pipeline.reporting.heatmap import draw_heatmap, value_limits, with_colour_bar
from wsi_pipeline.reporting.pictures import read_rgb, slide_picture
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import TileStore
from wsi_pipeline.types import RgbImage

LONGEST_PX = 900


def write_heatmap(
    folder: Path, slide_id: str, rgb: RgbImage, what: str, limits: tuple[float, float]
) -> Path:
    """Write a drawn heatmap and its legend.

    Args:
        folder: ``<run>/heatmaps/<model>``.
        slide_id: The slide.
        rgb: (H, W, 3) uint8, as :func:`draw_heatmap` returns it; a colour bar is added below.
        what: The value shown, in words: "attention of abmil, relative to an even spread".
        limits: Values at the ends of the colours.

    Returns:
        The picture's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slide_id}.png"
    write_picture(path, with_colour_bar(rgb, limits, what))
    about = {"what": what, "low": limits[0], "high": limits[1], "height_px": len(rgb)}
    write_json(folder / f"{slide_id}.json", about)
    return path


def read_heatmaps(folder: Path, slide_id: str) -> tuple[Heatmap, ...]:
    """Return a slide's heatmaps of all models, those without a readable picture left out.

    The bar below a picture is left out, too: whoever shows it has the limits.
    """
    return tuple(_found(folder, slide_id))


def _found(folder: Path, slide_id: str) -> Iterator[Heatmap]:
    for legend in sorted(folder.glob(f"*/{slide_id}.json")):
        rgb = read_rgb(legend.with_suffix(".png"))
        if rgb is None:
            continue
        about = json.loads(legend.read_text("utf-8"))
        alt = f"Heatmap of slide {slide_id}: {about['what']}"
        yield Heatmap(
            picture=slide_picture(rgb[: about.get("height_px")], alt),
            what=about["what"],
            low=about["low"],
            high=about["high"],
        )


def store_heatmap(
    store: TileStore,
    values: ArrayLike,
    limits: tuple[float, float] | None = None,
) -> tuple[RgbImage, tuple[float, float]]:
    """Draw a value per tile of a store over the slide; the slide itself is not needed.

    Beneath lies the thumbnail of the store's run folder; a mosaic of the tiles where there is none,
    and for a core, whose thumbnail shows an unknown part of its surroundings.

    Args:
        store: The slide's tiles.
        values: (N,) in the order of the tiles.
        limits: Ends of the colours; None takes the least and the largest value.

    Returns:
        (H, W, 3) uint8 and the limits used.

    Raises:
        StoreError: There is not one value a tile.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (len(store),):
        raise StoreError(f"{store.path}: {len(store)} tiles, but {numbers.shape} values")
    used = limits if limits is not None else value_limits(numbers)
    rgb, downsample, origin = _overview(store)
    side = float(store.attributes["tile_px_level0"])
    drawn = draw_heatmap(rgb, store.coords, numbers, side, downsample, origin=origin, limits=used)
    return drawn, used


def _overview(store: TileStore) -> tuple[RgbImage, float, tuple[int, int]]:
    """The thumbnail, which shows the slide's bounds; a mosaic for a core or where there is none."""
    area = store.attributes.get("bounds_level0")
    whole = area is not None and store.attributes.get("region_level0") is None
    beside = RunFolder.of_tiles(store.path).thumbnail(store.path.stem)
    rgb = read_rgb(beside) if whole else None
    if rgb is None or area is None:
        return mosaic(store)
    downsample = max(area["width"], area["height"]) / max(rgb.shape[:2])
    return rgb, downsample, (int(area["x"]), int(area["y"]))


def mosaic(
    store: TileStore, longest_px: int = LONGEST_PX
) -> tuple[RgbImage, float, tuple[int, int]]:
    """Lay a store's tiles out as an overview; what was not kept is white.

    Returns:
        (H, W, 3) uint8, level-0 pixels per pixel of it, and the level-0 (x, y) of its corner.
    """
    side = float(store.attributes["tile_px_level0"])
    start = store.coords.min(axis=0) - side  # a tile's width of margin all round
    extent = store.coords.max(axis=0) + 2 * side - start
    downsample = max(float(extent.max()) / longest_px, side / store.tiles.shape[1])
    width, height = np.ceil(extent / downsample).astype(int)
    canvas = np.full((height, width, 3), 255, np.uint8)
    boxes = np.rint((store.coords - start) / downsample).astype(int)
    ends = np.rint((store.coords + side - start) / downsample).astype(int)
    index = 0
    for tiles in store.batches():
        for tile in tiles:
            (x0, y0), (x1, y1) = boxes[index], np.maximum(ends[index], boxes[index] + 1)
            small = cv2.resize(tile, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_AREA)
            region = canvas[y0:y1, x0:x1]
            region[...] = small[: region.shape[0], : region.shape[1]]
            index += 1
    return canvas, downsample, (int(start[0]), int(start[1]))
