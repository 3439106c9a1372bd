"""Blood: pools of erythrocytes, told from eosin by haemoglobin's absorption of blue light.

Eosin absorbs green; haemoglobin absorbs green and, by its Soret band near 415 nm, blue as well. So
among pixels that let red through, the ratio of the optical densities in blue and green is higher on
erythrocytes. How high eosin's own ratio is depends on dye and scanner (medians from 0.45 to 0.63 on
five real slides), so the threshold is 1.25 times that of the slide, within bounds.

Measured at 0.5 µm/px on H&E liver, PAS liver, a frozen TCGA slide, skin and pancreas: no tile
reaches a fraction of 0.05 but on the pancreas, whose vessels and bleeding are what is found; a tile
filled with erythrocytes from there reaches more than 0.5. Faded or formalin-darkened blood looks
like eosin and is missed. A tile is flagged above 0.5, because blood in the sinusoids of liver is
tissue and not artefact.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tissue.coarse import CoarseTiles, Levels, density_levels, look_up, shares
from wsi_pipeline.types import Mask

OVER_EOSIN: Final = 1.25
RATIO_BOUNDS: Final = (0.62, 0.75)  # a slide that is mostly blood must not make blood the norm
LEAST_GREEN: Final = 0.12  # optical density below which the ratio is noise
MOST_RED: Final = 0.45  # optical density in red, relative to green; more is haematoxylin


def blood_threshold(coarse: CoarseTiles, glass: NDArray[np.uint8]) -> float:
    """Return the ratio of blue to green optical density beyond which red pixels count as blood.

    Args:
        coarse: Tiles drawn at random from the slide.
        glass: (3,) uint8, colour of the slide's empty glass.
    """
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

    return np.concatenate([shares(blood(few).view(np.uint8)) for few in coarse.handfuls()])


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
