"""How strongly tissue takes the stains, alike for every label.

Colour must not give the label away. The patterns are drawn with similar amounts of dye; what
still differs is levelled: the joint distribution of the two dyes in a piece of tissue is moved onto
one reference, whatever the label, and then changed by what its patient drew.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEVELS: Final = (0.0, 0.02, 0.05, 0.10, 0.18, 0.30, 0.50, 0.68, 0.78, 0.86, 0.92, 0.97, 0.995, 1.0)
# Concentrations at LEVELS along four directions of the (haematoxylin, eosin) plane, measured on
# the patterns: the mean over the three labels.
DIRECTIONS: Final = ((1.0, 0.0), (0.0, 1.0), (0.7071, 0.7071), (0.7071, -0.7071))
REFERENCE: Final[tuple[tuple[float, ...], ...]] = (
    (0, 0, 0.004, 0.008, 0.058, 0.096, 0.133, 0.196, 0.238, 0.621, 0.958, 1.3, 1.754, 2.4),
    (0, 0.021, 0.044, 0.087, 0.179, 0.283, 0.463, 0.592, 0.671, 0.746, 0.825, 0.942, 1.1, 1.5),
    (0, 0.021, 0.037, 0.143, 0.283, 0.389, 0.507, 0.607, 0.678, 0.76, 0.866, 1.069, 1.388, 2),
    (-1.064, -0.61, -0.524, -0.46, -0.398, -0.33, -0.236, -0.091, -0.021, 0.268, 0.53, 0.784,
     1.114, 1.7),
)  # fmt: skip
DYE_STEP: Final = 0.0125  # concentration of one unit in the 8-bit dye maps
_ROUNDS: Final = 4
_THIN: Final = 0.3

DyeMap = NDArray[np.uint8]  # (H, W), concentration / DYE_STEP


@dataclass(frozen=True, kw_only=True)
class Uptake:
    """How one patient's tissue takes haematoxylin and eosin, drawn without regard to the label.

    Attributes:
        strength: Factor on either dye.
        contrast: Exponent on either dye, relative to its 97th percentile; more is starker.
        nuclear_eosin: Eosin that goes with each unit of haematoxylin, beyond the usual.
    """

    strength: tuple[float, float]
    contrast: tuple[float, float]
    nuclear_eosin: float


def draw_uptake(rng: np.random.Generator) -> Uptake:
    """Draw a patient's uptake."""
    strength = np.exp(rng.normal(0.0, 0.13, 2)).tolist()
    contrast = np.exp(rng.normal(0.0, 0.18, 2)).tolist()
    return Uptake(
        strength=(strength[0], strength[1]),
        contrast=(contrast[0], contrast[1]),
        nuclear_eosin=float(rng.normal(0.0, 0.06)),
    )


def take_up(
    haematoxylin: DyeMap, eosin: DyeMap, inside: NDArray[np.bool_], uptake: Uptake
) -> tuple[DyeMap, DyeMap]:
    """Level the dyes of a piece of tissue and give them a patient's range.

    Args:
        haematoxylin: (H, W), as drawn.
        eosin: (H, W), as drawn.
        inside: (H, W), where tissue is.
        uptake: The patient's.
    """
    amounts = np.maximum(level(count_pairs(haematoxylin, eosin, inside)), 0.0)
    for dye, (strength, contrast) in enumerate(zip(uptake.strength, uptake.contrast, strict=True)):
        top = REFERENCE[dye][LEVELS.index(0.97)]
        amounts[:, dye] = strength * top * (amounts[:, dye] / top) ** contrast
    amounts[:, 1] += uptake.nuclear_eosin * amounts[:, 0]
    table = np.clip(np.rint(amounts / DYE_STEP), 0, 255).astype(np.uint8)
    table[0] = 0  # empty glass stays empty
    pair = (haematoxylin.astype(np.uint16) << 8) | eosin
    return np.take(table[:, 0], pair), np.take(table[:, 1], pair)


def count_pairs(
    haematoxylin: DyeMap, eosin: DyeMap, inside: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """How often each pair of amounts occurs in tissue, (65536,), on every third row."""
    pair = (haematoxylin[::3].astype(np.uint16) << 8) | eosin[::3]
    return np.bincount(pair[inside[::3]], minlength=65536).astype(np.float64)


def level(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each pair of amounts moves so that their joint distribution becomes the reference.

    Args:
        counts: (65536,) occurrences of each pair; index = 256 x haematoxylin + eosin.

    Returns:
        (65536, 2) concentrations of haematoxylin and eosin.

    Source: Pitié et al., N-dimensional probability density function transfer, ICCV 2005: 1-D
    transfers along turning directions.
    """
    amounts = np.stack(np.divmod(np.arange(65536), 256), axis=1) * DYE_STEP
    seen = counts > 0
    points, weights = amounts[seen], counts[seen]
    for _ in range(_ROUNDS):
        for direction, quantiles in zip(DIRECTIONS, REFERENCE, strict=True):
            along = points @ np.array(direction)
            order, rank = _ranks(along, weights)
            wanted = np.interp(rank, LEVELS, quantiles)
            points[order] += (wanted - along[order])[:, None] * np.array(direction)
    # Thin fluid stays as drawn: stretched, its few grey levels would show as contour lines.
    trust = np.clip(amounts[seen].sum(axis=1) / _THIN, 0.0, 1.0)[:, None]
    amounts[seen] += trust * (points - amounts[seen])
    return amounts


def _ranks(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """An order of weighted values, and the middle of each one's share in that order."""
    order = np.argsort(values, kind="stable")
    share = weights[order]
    return order, (np.cumsum(share) - 0.5 * share) / share.sum()


def quantiles(counts: NDArray[np.float64]) -> list[list[float]]:
    """What REFERENCE is made of: concentrations at LEVELS along DIRECTIONS."""
    amounts = np.stack(np.divmod(np.arange(65536), 256), axis=1) * DYE_STEP
    rows = []
    for direction in DIRECTIONS:
        along = amounts @ np.array(direction)
        order, rank = _ranks(along, counts)
        rows.append(np.interp(LEVELS, rank, along[order]).tolist())
    return rows
