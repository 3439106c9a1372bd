"""What is darker than glass on the overview of a tissue microarray, at a size to work at."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tissue import disc, otsu_threshold
from wsi_pipeline.types import Mask, RgbImage

WORKING_PX = (800, 1600)  # longest side
REACH = 1.5  # core diameters within which there is glass beside a core
SPANNING = 0.6  # of a side: slide edges and frames
NARROW = 0.6  # of a core's diameter: their mean width; a row of touching cores has 0.79
WIDE_REACH = 0.3  # of the shorter side
DENSITY_BOUNDS = (0.008, 0.05)
DENSITY_SHARE = 0.2  # of Otsu's cut: pale cores lie far below it, clean glass farther still
DARKEST = 99.5  # percentile of density: what the darkest cores reach
FADED, STRETCHED = 0.06, 0.2  # a slide where it is below the one is stretched to the other
DENSITY_SCALE = 4.0  # spreads densities up to 1 / 4 over the 8 bits of Otsu's histogram


@dataclass(frozen=True, kw_only=True)
class View:
    """An overview at working size.

    Attributes:
        mask: (H, W) bool, whatever is darker than the glass around it.
        density: (H, W) float32, optical density of the darkest channel against the glass around;
            None when only a mask was given.
        scale: Working pixels per pixel of the overview.
        inverted: Whether tissue is light on a dark ground there; the view is dark on light.
    """

    mask: Mask
    density: NDArray[np.float32] | None
    scale: float
    inverted: bool


def view_of(overview: RgbImage | Mask, core_px: float | None = None) -> View:
    """Prepare an overview.

    Args:
        overview: (H, W, 3) uint8, or a tissue mask (H, W) bool.
        core_px: Diameter of a core, pixels of the overview, once it is known. Glass is then told
            from what lies on it over little more than a core, so that water marks and shading
            are taken for glass and cores are not. None: wide enough for the cores of any array.

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
    core = None if core_px is None else core_px * scale
    if is_mask:
        mask = _without_frame(np.asarray(pixels >= 128), core)
        return View(mask=mask, density=None, scale=scale, inverted=False)
    inverted = _on_dark_ground(np.asarray(pixels, dtype=np.uint8))
    pixels = np.asarray(255 - pixels if inverted else pixels, dtype=np.uint8)
    reach = WIDE_REACH * min(pixels.shape[:2]) if core is None else REACH * core
    density = _density(np.asarray(pixels, dtype=np.uint8), reach)
    darkest = float(np.percentile(density, DARKEST))
    if 0 < darkest < FADED:
        density = density * np.float32(STRETCHED / darkest)
    scaled = np.clip(density * DENSITY_SCALE, 0, 1)
    cut = np.clip(DENSITY_SHARE * otsu_threshold(scaled) / DENSITY_SCALE, *DENSITY_BOUNDS)
    return View(
        mask=_without_frame(density > cut, core), density=density, scale=scale, inverted=inverted
    )


def _on_dark_ground(rgb: RgbImage) -> bool:
    """Whether the commonest grey, which is the ground's, is darker than the rest: fluorescence."""
    grey = cv2.GaussianBlur(rgb.max(axis=2), (0, 0), 2)
    counts = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
    ground = int(np.argmax(cv2.GaussianBlur(counts[None], (0, 0), 4)))
    rest = np.abs(grey.astype(np.int16) - ground) > 24
    return bool(ground < 128 and rest.any() and float(grey[rest].mean()) > ground)


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


def _without_frame(mask: Mask, core_px: float | None = None) -> Mask:
    """Drop slide edges and scanner frames, which span most of a side.

    Known by touching the border or, where the cores' size is known, by being longer than wide: a
    row of cores that touch spans a side too. So does a scratch that strings cores together; it is
    too thin to count.

    Args:
        mask: (H, W) bool.
        core_px: Diameter of a core.
    """
    height, width = mask.shape
    reach = disc(max(2, max(height, width) // 200))
    solid = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, reach)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    x, y, w, h, area = (stats[:, k] for k in range(5))
    at_border = (x == 0) | (y == 0) | (x + w == width) | (y + h == height)
    narrow = np.zeros(len(stats), bool)
    if core_px is not None:
        narrow = area / np.maximum(np.maximum(w, h), 1) < NARROW * core_px
    frame = (at_border | narrow) & ((w > SPANNING * width) | (h > SPANNING * height))
    frame[0] = False
    around = np.asarray(cv2.dilate(frame[labels].astype(np.uint8), reach))
    return np.asarray(mask & (around == 0), dtype=bool)
