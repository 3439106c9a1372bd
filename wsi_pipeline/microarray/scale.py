"""How far apart the cores of a tissue microarray lie, and how large they are."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import Mask

MAX_TILT_DEG = 25.0
STRONG = 0.6  # of the highest peak: farther neighbours correlate less, never more
LOWEST_PEAK = 0.02


@dataclass(frozen=True, kw_only=True)
class Pitch:
    """Steps to the next core: ``along`` a row and ``down`` a column, (2,) float64 x, y in px."""

    along: NDArray[np.float64]
    down: NDArray[np.float64]

    @property
    def shortest_px(self) -> float:
        """The shorter step's length in pixels."""
        return float(min(np.hypot(*self.along), np.hypot(*self.down)))


def pitch_of(mask: Mask) -> Pitch | None:
    """Measure the steps by the autocorrelation's first peaks; None where nothing repeats.

    Args:
        mask: (H, W) bool.
    """
    correlation = _autocorrelation(mask)
    along = _first_peak(correlation)
    down = _first_peak(correlation.T)
    if down is not None:
        down = down[::-1].copy()
    if along is None and down is not None:  # a single column, or a single row: no second step
        along = np.array([down[1], -down[0]])
    if down is None and along is not None:
        down = np.array([-along[1], along[0]])
    return None if along is None or down is None else Pitch(along=along, down=down)


def diameter_of(mask: Mask, pitch_px: float) -> float:
    """Measure the core diameter: the pattern spectrum peaks where whole cores vanish.

    Args:
        mask: (H, W) bool.
        pitch_px: Step between cores, which bounds the search.

    Returns:
        Pixels.

    Source: Maragos, IEEE Trans. PAMI 11, 1989.
    """
    from scipy import ndimage  # a quarter of a second that only microarrays need

    solid = np.asarray(ndimage.binary_fill_holes(mask)).astype(np.uint8)
    inside = np.asarray(cv2.distanceTransform(solid, cv2.DIST_L2, cv2.DIST_MASK_5))
    step = max(0.5, pitch_px / 100)
    radii = np.arange(max(2.0, 0.15 * pitch_px), 0.55 * pitch_px, step)
    areas = np.array([_opened_area(inside, radius) for radius in radii])
    if len(radii) < 3 or areas[0] == areas[-1]:
        return 0.7 * pitch_px
    lost = ndimage.gaussian_filter1d(-np.diff(areas), 0.75 / step)
    return float(2 * radii[int(np.argmax(lost))] + step)


def _opened_area(inside: NDArray[np.float32], radius: float) -> float:
    """Area of the opening by a disc, by distances: to the outside, then to what is deep enough."""
    shallow = (inside < radius).astype(np.uint8)
    if shallow.all():
        return 0.0
    away = np.asarray(cv2.distanceTransform(shallow, cv2.DIST_L2, cv2.DIST_MASK_5))
    return float((away < radius).sum())


def _autocorrelation(mask: Mask) -> NDArray[np.float64]:
    """Normalised to 1 at lag 0, which stands in the middle; twice the mask's size."""
    from scipy import ndimage

    height, width = mask.shape
    shape = (cv2.getOptimalDFTSize(2 * height), cv2.getOptimalDFTSize(2 * width))
    spectrum = np.fft.rfft2(mask - mask.mean(), shape)
    correlation = np.fft.fftshift(np.fft.irfft2(np.abs(spectrum) ** 2, shape))
    return np.asarray(ndimage.gaussian_filter(correlation / max(correlation.max(), 1e-9), 1.5))


def _first_peak(correlation: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The nearest of the strong peaks within ``MAX_TILT_DEG`` of the x axis; (2,) x, y."""
    from scipy import ndimage

    middle_y, middle_x = (side // 2 for side in correlation.shape)
    is_peak = correlation == ndimage.maximum_filter(correlation, size=9)
    y, x = np.nonzero(is_peak & (correlation > LOWEST_PEAK))
    lag = np.stack([x - middle_x, y - middle_y], axis=1).astype(np.float64)
    ahead = (lag[:, 0] > 4) & (np.abs(lag[:, 1]) <= np.tan(np.radians(MAX_TILT_DEG)) * lag[:, 0])
    ahead &= lag[:, 0] < middle_x / 2
    if not ahead.any():
        return None
    heights = correlation[y[ahead], x[ahead]]
    strong = lag[ahead][heights >= STRONG * heights.max()]
    return np.asarray(strong[np.argmin(np.hypot(strong[:, 0], strong[:, 1]))])
