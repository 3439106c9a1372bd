"""Folds: where the section lies on itself, darker and more saturated than the rest of its slide.

How dark and how saturated depends on stain and thickness, so the threshold comes from the slide:
the median of saturation − intensity over tissue, and three deviations of it. Sparse dark things are
taken out by size: a fold is a broad ridge, a nucleus or a strand of fibres is not.

Measured at 0.5 µm/px, tile flagged above a fold fraction of 0.1, folds made by laying a second tile
of the same slide over a band 30 or 60 µm wide (light passes both):

====================  ============  ==========  ==========
slide                 clean flagged 30 µm found 60 µm found
====================  ============  ==========  ==========
liver, H&E            4 %           49 %        92 %
liver, PAS            0.4 %         37 %        87 %
TCGA, frozen          0 %           65 %        92 %
pancreas, H&E         0 %           18 %        46 %
skin, H&E             0 %           24 %        33 %
====================  ============  ==========  ==========

At 2.5 deviations 7, 1, 0, 0 and 5 % of clean tiles are flagged and 80, 78, 90, 37 and 38 % of the
narrow folds. The stricter rule is the default, because much of what it flags on clean liver is
dense lymphocytes beside pale hepatocytes (the rest are squames lying on the section): no colour
tells these from a fold, so a fold flag asks for a look. Slides of two very unlike tissues (skin:
dermis and keratin) have a wide distribution, and folds of the paler one pass.

Source: Kothari et al., "Eliminating tissue-fold artifacts in histopathological whole-slide images
for improved image-based prediction of cancer grade", J. Pathol. Inform. 2013 (the difference of
saturation and intensity); the robust threshold and the width rule are ours.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tissue.coarse import (
    TISSUE_DENSITY,
    CoarseTiles,
    density_levels,
    light_levels,
    look_up,
    shares,
)
from wsi_pipeline.tissue.ink import disc, opened
from wsi_pipeline.types import Mask

FOLD_DEVIATIONS: Final = 3.0
SMOOTH_UM: Final = 6.0  # about a nucleus: its contrast is averaged away
LEAST_WIDTH_UM: Final = 12.0  # anything narrower is no fold
LEAST_DEVIATION: Final = 0.03  # of a slide so even that any shade would stand out
FEW_PX: Final = 16_384  # of which four float32 images stay in a core's cache
NO_FOLDS: Final = 2.0  # above whatever saturation - intensity can reach


def fold_threshold(
    coarse: CoarseTiles, glass: NDArray[np.uint8], deviations: float = FOLD_DEVIATIONS
) -> float:
    """Return the saturation − intensity beyond which tissue of this slide counts as folded.

    Args:
        coarse: Tiles drawn at random from the slide.
        glass: (3,) uint8, colour of the slide's empty glass.
        deviations: Standard deviations (estimated from the median absolute one) over the median.
    """
    darkness = _Darkness(coarse, glass)
    values = np.concatenate(
        [darkness(few)[_tissue(few, glass)] for few in coarse.handfuls_of(FEW_PX)]
    )
    if not values.size:
        return NO_FOLDS
    median = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - median)))
    return median + deviations * max(spread, LEAST_DEVIATION)


def fold_fractions(
    coarse: CoarseTiles, glass: NDArray[np.uint8], threshold: float
) -> NDArray[np.float32]:
    """Share of each tile that is folded.

    Args:
        coarse: (N, h, w, 3) tiles.
        glass: (3,) uint8, colour of the slide's empty glass.
        threshold: From :func:`fold_threshold` for the same slide.

    Returns:
        (N,) float32 in [0, 1].
    """
    darkness = _Darkness(coarse, glass)
    element = disc(coarse.radius_px(LEAST_WIDTH_UM / 2))
    dark = (darkness(few) > threshold for few in coarse.handfuls_of(FEW_PX))
    return np.concatenate([shares(opened(few.view(np.uint8), element)) for few in dark])


def _tissue(coarse: CoarseTiles, glass: NDArray[np.uint8]) -> Mask:
    """(N, h, w) bool: what is denser than glass."""
    densities = map(look_up, coarse.planes, density_levels(glass))
    return np.asarray(np.mean(list(densities), axis=0) > TISSUE_DENSITY, np.bool_)


class _Darkness:
    """Saturation − intensity, as in the HSI colour model, smoothed on each tile by itself.

    Works in memory of its own on a handful of tiles at a time.
    """

    def __init__(self, coarse: CoarseTiles, glass: NDArray[np.uint8]) -> None:
        """Get ready for handfuls of these tiles."""
        self._levels = light_levels(glass)
        self._kernel = _gaussian(SMOOTH_UM / coarse.um_per_px)
        self._memory = np.empty((4, *next(coarse.handfuls_of(FEW_PX)).rgb.shape[:3]), np.float32)

    def __call__(self, few: CoarseTiles) -> NDArray[np.float32]:
        """Return (n, h, w) float32, which the next call overwrites."""
        red, green, blue, intensity = self._memory[:, : len(few.rgb)]
        for plane, levels, light in zip(few.planes, self._levels, (red, green, blue), strict=True):
            look_up(plane, levels, out=light)
        np.add(red, green, out=intensity)
        intensity += blue
        intensity /= 3
        least = np.minimum(np.minimum(red, green, out=red), blue, out=red)
        least /= intensity
        difference = np.subtract(1, least, out=least)
        difference -= intensity
        return self._smooth(difference, out=green)

    def _smooth(self, values: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._kernel is None:
            return values
        for tile, smooth in zip(values, out, strict=True):
            cv2.sepFilter2D(tile, cv2.CV_32F, self._kernel, self._kernel, dst=smooth)
        return out


def _gaussian(sigma: float) -> NDArray[np.float32] | None:
    """The kernel that cv2.GaussianBlur makes anew every time; None if pixels are wider than it."""
    if sigma < 0.3:
        return None
    return np.asarray(
        cv2.getGaussianKernel(round(8 * sigma + 1) | 1, sigma, cv2.CV_32F), np.float32
    )
