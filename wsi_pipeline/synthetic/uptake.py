"""How strongly tissue takes the stains, alike for every label.

Colour must not give the label away. The patterns are drawn with similar amounts of dye; what
differs between them is then levelled: each piece's distribution of each dye is mapped onto a
distribution that its patient drew without regard to the label.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

LEVELS: Final = (0.02, 0.10, 0.25, 0.50, 0.70, 0.80, 0.90, 0.97, 0.995)
HAEMATOXYLIN: Final = (0.00, 0.035, 0.09, 0.17, 0.235, 0.31, 0.66, 1.18, 1.65)
EOSIN: Final = (0.02, 0.08, 0.23, 0.46, 0.57, 0.64, 0.74, 0.90, 1.10)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Concentrations that the LEVELS quantiles of a patient's tissue reach."""

    haematoxylin: tuple[float, ...]
    eosin: tuple[float, ...]


def draw_targets(rng: np.random.Generator) -> Targets:
    """One patient's uptake: strength and contrast of each dye vary between patients."""
    return Targets(haematoxylin=_vary(rng, HAEMATOXYLIN), eosin=_vary(rng, EOSIN))


def _vary(rng: np.random.Generator, middle: tuple[float, ...]) -> tuple[float, ...]:
    strength = np.exp(rng.normal(0.0, 0.13))
    contrast = np.exp(rng.normal(0.0, 0.07))
    top = middle[-2]
    return tuple(float(strength * top * (value / top) ** contrast) for value in middle)


def match(
    dye: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    quantiles: tuple[float, ...],
    dye_step: float,
) -> NDArray[np.uint8]:
    """Map a dye map monotonically so that its LEVELS quantiles become ``quantiles``.

    Args:
        dye: (H, W) concentrations in units of ``dye_step``.
        inside: (H, W), where tissue is; only this part is matched to the quantiles.
        quantiles: Concentrations wanted at LEVELS.
        dye_step: Concentration of one unit.
    """
    counts = cv2.calcHist([dye], [0], inside.view(np.uint8), [256], [0, 256])
    counts = np.asarray(counts, np.float64).ravel()
    total = counts.sum()
    if total == 0:
        return dye
    # Middle of each value's share of the distribution; ties in the source move as one.
    rank = (np.cumsum(counts) - 0.5 * counts) / total
    wanted = np.interp(rank, (0.0, *LEVELS, 1.0), (0.0, *quantiles, 1.25 * quantiles[-1]))
    table = np.clip(np.rint(wanted / dye_step), 0, 255).astype(np.uint8)
    table[0] = 0  # empty glass stays empty
    return np.asarray(cv2.LUT(dye, table), np.uint8)
