"""How large the cores of a microarray are: the pattern spectrum of its tissue.

Discs of growing size are fitted into the tissue. Where whole cores vanish at once, as many of one
size do, the area that is left falls steeply.

Source: Maragos, IEEE Trans. PAMI 11, 1989.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import Mask

SMALLEST_PX = 5.0  # diameter
LARGEST = 0.4  # of the shorter side
STEPS = 60
OTHER = 0.2  # of the highest peak: what else may be the size of cores


def core_sizes(mask: Mask) -> list[float]:
    """Measure what diameters cores may have, the likeliest first; pixels, at most three.

    Args:
        mask: (H, W) bool.
    """
    from scipy import ndimage  # a quarter of a second that only microarrays need

    solid = np.asarray(ndimage.binary_fill_holes(mask)).astype(np.uint8)
    inside = np.asarray(cv2.distanceTransform(solid, cv2.DIST_L2, cv2.DIST_MASK_5))
    radii = np.geomspace(SMALLEST_PX / 2, LARGEST * min(mask.shape) / 2, STEPS)
    areas = np.array([_opened_area(inside, radius) for radius in radii])
    lost = ndimage.gaussian_filter1d(-np.diff(areas) / np.diff(np.log(radii)), 1.0)
    middles = np.sqrt(radii[1:] * radii[:-1])
    padded = np.pad(lost, 1)
    is_peak = (lost > 0) & (lost >= padded[:-2]) & (lost > padded[2:])
    peaks = np.flatnonzero(is_peak & (lost >= OTHER * lost.max()))
    ordered = peaks[np.argsort(-lost[peaks], kind="stable")][:3]
    return [2 * _top(lost, middles, int(peak)) for peak in ordered]


def _top(lost: NDArray[np.float64], radii: NDArray[np.float64], peak: int) -> float:
    """Radius of a peak between the samples, by a parabola."""
    if not 0 < peak < len(lost) - 1:
        return float(radii[peak])
    before, at, after = lost[peak - 1 : peak + 2]
    shift = 0.5 * (before - after) / min(before - 2 * at + after, -1e-9)
    return float(radii[peak] * (radii[1] / radii[0]) ** shift)


def _opened_area(inside: NDArray[np.float32], radius: float) -> float:
    """Area of the opening by a disc, by distances: to the outside, then to what is deep enough."""
    shallow = (inside < radius).astype(np.uint8)
    if shallow.all():
        return 0.0
    away = np.asarray(cv2.distanceTransform(shallow, cv2.DIST_L2, cv2.DIST_MASK_5))
    return float((away < radius).sum())
