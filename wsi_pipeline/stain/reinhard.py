"""Colour transfer by mean and spread in CIE Lab.

Source: E. Reinhard et al., "Color transfer between images", IEEE CG&A 2001; in CIE Lab rather than
in the paper's lαβ, and with white kept white.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import RgbTiles

# Lightness and chroma over which the transfer fades in, so that glass, bright and neutral, keeps
# its colour, and pale tissue, which has chroma, does not.
_BRIGHT_L = (86.0, 93.0)
_NEUTRAL_CHROMA = (8.0, 4.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabStatistics:
    """Mean and standard deviation of L, a, b over tissue; each (3,) float64, L in [0, 100]."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


LAB_REFERENCE = LabStatistics(
    mean=np.array([65.7, 21.5, -9.9]), deviation=np.array([15.3, 5.9, 5.8])
)
"""Tissue of three H&E slides (CMU-1, a liver biopsy, a pancreatic carcinoma) after Macenko
normalisation to the reference stains, averaged: both methods then aim at the same colours."""


def lab_statistics(pixels: NDArray[np.uint8]) -> LabStatistics:
    """Measure (P, 3) uint8 RGB tissue pixels."""
    lab = _to_lab(pixels[:, None]).reshape(-1, 3).astype(np.float64)
    return LabStatistics(mean=lab.mean(axis=0), deviation=np.maximum(lab.std(axis=0), 1e-3))


def reinhard(
    tiles: RgbTiles, source: LabStatistics, target: LabStatistics = LAB_REFERENCE
) -> RgbTiles:
    """Give tiles the colour statistics of ``target``.

    Args:
        tiles: (N, H, W, 3) uint8 RGB.
        source: statistics of the slide's tissue.
        target: statistics to reach.

    Returns:
        (N, H, W, 3) uint8 RGB, a new array.
    """
    scale = (target.deviation / source.deviation).astype(np.float32)
    shift = (target.mean - source.mean * scale).astype(np.float32)
    result = np.empty_like(tiles)
    for tile, mapped in zip(tiles, result, strict=True):
        lab = _to_lab(tile)
        weight = 1.0 - _like_glass(lab)[..., None]
        lab += weight * (lab * (scale - 1.0) + shift)
        lab[..., 0] = np.clip(lab[..., 0], 0.0, 100.0)
        rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
        mapped[...] = np.clip(np.rint(rgb * 255.0), 0, 255).astype(np.uint8)
    return result


def _like_glass(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W) in [0, 1]: how much each pixel is bright and without colour."""
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    bright = (lab[..., 0] - _BRIGHT_L[0]) / (_BRIGHT_L[1] - _BRIGHT_L[0])
    neutral = (_NEUTRAL_CHROMA[0] - chroma) / (_NEUTRAL_CHROMA[0] - _NEUTRAL_CHROMA[1])
    return np.asarray(np.clip(bright, 0, 1) * np.clip(neutral, 0, 1), np.float32)


def _to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    scaled = np.multiply(rgb, np.float32(1 / 255.0), dtype=np.float32)
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB), dtype=np.float32)
