"""Blood: pools of erythrocytes, told from eosin by haemoglobin's absorption of blue light.

Eosin absorbs green; haemoglobin absorbs green and, by its Soret band near 415 nm, blue as well. So
among pixels that let red through, the ratio of the optical densities in blue and green is higher on
erythrocytes. How high eosin's own ratio is depends on dye and scanner (medians from 0.45 to 0.60 on
nine real slides), so the threshold is 1.2 times that of the slide, within bounds.

The ratio is so strict that only a part of the pixels of a pool of blood reaches it: tiles of which
a third and more is erythrocytes have 0.11 to 0.6. Of 430 tiles without, labelled by eye, none
exceeds 0.1 (squames lying on a section); blood in the sinusoids of liver stays far below. A tile is
flagged above 0.11. Faded or formalin-darkened blood looks like eosin and is missed.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tissue.coarse import CoarseTiles, Levels, density_levels, look_up, shares
from wsi_pipeline.types import Mask

OVER_EOSIN: Final = 1.2
RATIO_BOUNDS: Final = (0.53, 0.75)  # a slide that is mostly blood must not make blood the norm
SMOOTH_PX: Final = 3  # averages the colour noise of the compression away
LEAST_GREEN: Final = 0.15  # optical density below which the ratio is noise
MOST_RED: Final = 0.45  # optical density in red, relative to green; more is haematoxylin


def blood_threshold(coarse: CoarseTiles, glass: NDArray[np.uint8]) -> float:
    """Return the ratio of blue to green optical density beyond which red pixels count as blood.

    Args:
        coarse: Tiles drawn at random from the slide.
        glass: (3,) uint8, colour of the slide's empty glass.
    """
    coarse = _smoothed(coarse)
    _, green, blue = coarse.planes
    densities = density_levels(glass)
    reddish = _reddish(coarse, _reddest(densities))
    if not reddish.any():
        return RATIO_BOUNDS[1]
    ratio = np.median(densities[2, blue[reddish]] / densities[1, green[reddish]])
    return float(np.clip(OVER_EOSIN * ratio, *RATIO_BOUNDS))


def blood_fractions(
    coarse: CoarseTiles, glass: NDArray[np.uint8], threshold: float
) -> NDArray[np.float32]:
    """Share of each tile that is blood.

    Args:
        coarse: (N, h, w, 3) tiles.
        glass: (3,) uint8, colour of the slide's empty glass.
        threshold: From :func:`blood_threshold` for the same slide.

    Returns:
        (N,) float32 in [0, 1].
    """
    densities = density_levels(glass)
    reddest, bluest = _reddest(densities), _bluest(densities, threshold)

    def blood(few: CoarseTiles) -> Mask:
        _, green, blue = few.planes
        return _reddish(few, reddest) & (blue < look_up(green, bluest))

    handfuls = map(_smoothed, coarse.handfuls)
    return np.concatenate([shares(blood(few).view(np.uint8)) for few in handfuls])


def _smoothed(coarse: CoarseTiles) -> CoarseTiles:
    rgb = np.empty_like(coarse.rgb)
    for tile, smooth in zip(coarse.rgb, rgb, strict=True):
        cv2.blur(tile, (SMOOTH_PX, SMOOTH_PX), dst=smooth)
    return CoarseTiles(rgb=rgb, um_per_px=coarse.um_per_px)


def _reddish(coarse: CoarseTiles, reddest: Levels) -> Mask:
    """(N, h, w) bool: which pixels let red through and hold green back."""
    red, green, _ = coarse.planes
    return np.asarray(red > look_up(green, reddest), np.bool_)


# What depends on two grey levels of a pixel is asked once for each level of green, not per pixel.
# Density falls as the level rises: the levels that pass lie beyond one of them.


def _reddest(densities: NDArray[np.float32]) -> Levels:
    """(256,) uint8: the level that red must exceed to be let through, for each level of green."""
    red, green, _ = densities
    passing = np.searchsorted(red[::-1], MOST_RED * green)
    passing[green <= LEAST_GREEN] = 0
    return np.asarray(255 - passing, np.uint8)


def _bluest(densities: NDArray[np.float32], threshold: float) -> Levels:
    """(256,) uint8: the level that blue must stay below on blood, for each level of green."""
    _, green, blue = densities
    passing = 256 - np.searchsorted(blue[::-1], threshold * green, side="right")
    return np.asarray(np.minimum(passing, 255), np.uint8)
