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

from wsi_pipeline.tissue.coarse import TISSUE_DENSITY, CoarseTiles
from wsi_pipeline.tissue.ink import disc

FOLD_DEVIATIONS: Final = 3.0
SMOOTH_UM: Final = 6.0  # about a nucleus: its contrast is averaged away
LEAST_WIDTH_UM: Final = 12.0  # anything narrower is no fold
LEAST_DEVIATION: Final = 0.03  # of a slide so even that any shade would stand out
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
    tissue = coarse.density(glass).mean(axis=3) > TISSUE_DENSITY
    values = _smooth(coarse, _difference(coarse.transmitted(glass)))[tissue]
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
    dark = _smooth(coarse, _difference(coarse.transmitted(glass))) > threshold
    shares = np.zeros(len(dark), np.float32)
    element = disc(coarse.radius_px(LEAST_WIDTH_UM / 2))
    for index in np.flatnonzero(dark.any(axis=(1, 2))):
        ridge = cv2.morphologyEx(dark[index].astype(np.uint8), cv2.MORPH_OPEN, element)
        shares[index] = ridge.mean()
    return shares


def _difference(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Saturation − intensity of (N, h, w, 3), as in the HSI colour model; (N, h, w)."""
    red, green, blue = light[..., 0], light[..., 1], light[..., 2]
    intensity = (red + green + blue) / 3
    least = np.minimum(np.minimum(red, green), blue)
    return np.asarray(1 - least / intensity - intensity, dtype=np.float32)


def _smooth(coarse: CoarseTiles, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur each tile by itself."""
    sigma = SMOOTH_UM / coarse.um_per_px
    if sigma < 0.3:  # pixels are wider than what would be averaged
        return values
    out = np.empty_like(values)
    for index, tile in enumerate(values):
        out[index] = cv2.GaussianBlur(tile, (0, 0), sigma)
    return out
