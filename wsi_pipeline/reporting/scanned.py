"""Stored tiles as they were scanned, read from the slide afresh where it is at hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.slides import Slide, open_slide
from wsi_pipeline.tiles import TileStore
from wsi_pipeline.types import RgbImage

ONLY: Final = "only the normalised tiles are shown"


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """Tiles as scanned, (tile_px, tile_px, 3) uint8 by row of the store, or why there are none."""

    tiles: dict[int, RgbImage]
    missing: str | None = None


def read_scanned(path: str | Path | None, store: TileStore, indices: NDArray[np.int64]) -> Scanned:
    """Read tiles from their slide; that it cannot be had is told, not raised.

    Args:
        path: The slide; None where nothing says where it is. What lies at a URL is not fetched.
        store: Its tiles.
        indices: (n,) rows of the store.
    """
    missing = _missing(path, store)
    if missing is not None or path is None or not len(indices):
        return Scanned(tiles={}, missing=missing)
    asked = store.attributes.get("config") or {}
    try:
        reader, modality = asked.get("reader", "auto"), asked.get("modality", "slide")
        with open_slide(path, reader, modality=modality) as slide:
            size = tuple(slide.info.level_dimensions[0])
            about = store.attributes
            known = (about.get("level0_width", size[0]), about.get("level0_height", size[1]))
            if size != known:
                told = f"{size[0]}×{size[1]} px, the tiles' slide had {known[0]}×{known[1]}"
                return Scanned(tiles={}, missing=f"{path} is another slide ({told}): {ONLY}")
            return Scanned(
                tiles={int(row): scanned_tile(slide, store, int(row)) for row in indices}
            )
    except (SlideError, ConfigError) as error:
        return Scanned(tiles={}, missing=f"{error}: {ONLY}")


def _missing(path: str | Path | None, store: TileStore) -> str | None:
    if store.attributes.get("straightened") is not None:
        return f"the slide was turned, so its tiles are no squares of the scan: {ONLY}"
    if path is None:
        return f"nothing says where the slide is; name its folder with --slides: {ONLY}"
    if "://" in str(path):
        return f"the slide is at a URL and not fetched for this page: {ONLY}"
    if not Path(path).exists():
        return f"the slide is not at hand ({path}); name its folder with --slides: {ONLY}"
    return None


def scanned_tile(slide: Slide, store: TileStore, row: int) -> RgbImage:
    """Read one tile from its slide, which was not turned: (tile_px, tile_px, 3) uint8."""
    about = store.attributes
    side = int(about["tile_px_level"])
    x, y = np.rint(store.coords[row] / float(about["level_downsample"])).astype(int)
    rgb = slide.read(int(about["level"]), int(x), int(y), side, side)
    size = (store.tiles.shape[1], store.tiles.shape[1])
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
