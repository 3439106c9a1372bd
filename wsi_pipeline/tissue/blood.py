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

from wsi_pipeline.tissue.coarse import CoarseTiles

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
    density, reddish = _reddish(coarse, glass)
    if not reddish.any():
        return RATIO_BOUNDS[1]
    ratio = np.median(density[reddish, 2] / density[reddish, 1])
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
    density, reddish = _reddish(coarse, glass)
    blood = reddish & (density[..., 2] > threshold * density[..., 1])
    return np.asarray(blood.mean(axis=(1, 2)), dtype=np.float32)


def _reddish(
    coarse: CoarseTiles, glass: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Optical density (N, h, w, 3), and which pixels let red through and hold green back."""
    density = coarse.density(glass)
    green = density[..., 1]
    return density, (green > LEAST_GREEN) & (density[..., 0] < MOST_RED * green)
