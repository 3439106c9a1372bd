"""What is darker than glass on the overview of a tissue microarray, at a size to work at."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tissue.ink import disc
from wsi_pipeline.tissue.methods import otsu_threshold
from wsi_pipeline.types import Mask, RgbImage

WORKING_PX = (800, 1600)  # longest side
WIDE_REACH = 0.3  # of the shorter side
DENSITY_BOUNDS = (0.008, 0.05)
DENSITY_SHARE = 0.2  # of Otsu's cut: pale cores lie far below it, clean glass farther still
DENSITY_SCALE = 4.0  # spreads densities up to 1 / 4 over the 8 bits of Otsu's histogram


@dataclass(frozen=True, kw_only=True)
class View:
    """An overview at working size.

    Attributes:
        mask: (H, W) bool, whatever is darker than the glass around it.
        density: (H, W) float32, optical density of the darkest channel against the glass around;
            None when only a mask was given.
        scale: Working pixels per pixel of the overview.
    """

    mask: Mask
    density: NDArray[np.float32] | None
    scale: float


def view_of(overview: RgbImage | Mask, reach_px: float | None = None) -> View:
    """Prepare an overview.

    Args:
        overview: (H, W, 3) uint8, or a tissue mask (H, W) bool.
        reach_px: How far apart, in pixels of the overview, glass may be told from what lies on it:
            more than a core, so that cores are not taken for glass, and little more, so that water
            marks and shading are. None: wide enough for the cores of any array.

    Raises:
        ConfigError: Neither of the two.
    """
    is_mask = overview.ndim == 2 and overview.dtype == np.bool_
    is_rgb = overview.ndim == 3 and overview.shape[2] == 3 and overview.dtype == np.uint8
    if not (is_mask or is_rgb) or 0 in overview.shape:
        raise ConfigError(
            "Cores are found on an (H, W, 3) uint8 image or an (H, W) bool mask; "
            f"got {overview.shape} {overview.dtype}."
        )
    longest = max(overview.shape[:2])
    scale = float(np.clip(longest, *WORKING_PX)) / longest
    pixels = overview.astype(np.uint8) * 255 if is_mask else overview
    if scale != 1:
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        pixels = np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=how))
    if is_mask:
        return View(mask=_without_frame(pixels >= 128), density=None, scale=scale)
    reach = WIDE_REACH * min(pixels.shape[:2]) if reach_px is None else reach_px * scale
    density = _density(np.asarray(pixels, dtype=np.uint8), reach)
    scaled = np.clip(density * DENSITY_SCALE, 0, 1)
    cut = np.clip(DENSITY_SHARE * otsu_threshold(scaled) / DENSITY_SCALE, *DENSITY_BOUNDS)
    return View(mask=_without_frame(density > cut), density=density, scale=scale)


def _density(rgb: RgbImage, reach: float) -> NDArray[np.float32]:
    dark = np.asarray(cv2.GaussianBlur(rgb.min(axis=2), (0, 0), 0.8), dtype=np.float32)
    transmitted = np.clip(dark / _local_white(dark, reach), 1 / 255, 1)
    return np.asarray(-np.log10(transmitted), dtype=np.float32)


def _local_white(values: NDArray[np.float32], reach: float) -> NDArray[np.float32]:
    """Brightness of the glass around each pixel, by a closing of the grey values."""
    height, width = values.shape
    size = (max(width // 4, 1), max(height // 4, 1))
    small = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    radius = max(1, round(reach / 8))  # half the reach, at a quarter of the size
    calm = cv2.medianBlur(np.asarray(small, dtype=np.uint8), 3)
    closed = cv2.morphologyEx(calm, cv2.MORPH_CLOSE, disc(radius), borderType=cv2.BORDER_REPLICATE)
    smooth = cv2.GaussianBlur(np.asarray(closed, dtype=np.float32), (0, 0), radius / 2)
    back = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.maximum(np.asarray(back, dtype=np.float32), 1)


def _without_frame(mask: Mask) -> Mask:
    """Drop what touches the border and spans most of a side: slide edges, scanner frames.

    A scratch that strings a row of cores together spans a side too; it is too thin to count.
    """
    height, width = mask.shape
    reach = disc(max(2, max(height, width) // 200))
    solid = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, reach)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    x, y, w, h = (stats[:, k] for k in range(4))
    at_border = (x == 0) | (y == 0) | (x + w == width) | (y + h == height)
    frame = at_border & ((w > 0.6 * width) | (h > 0.6 * height))
    frame[0] = False
    around = np.asarray(cv2.dilate(frame[labels].astype(np.uint8), reach))
    return np.asarray(mask & (around == 0), dtype=bool)
