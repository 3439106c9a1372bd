"""Colour transfer by mean and spread in CIE Lab.

Source: E. Reinhard et al., "Color transfer between images", IEEE CG&A 2001; in CIE Lab rather than
in the paper's lαβ, and with white kept white.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import RgbTiles

# Lightness range below white over which the transfer fades in, so that the glass keeps its colour.
_FADE_L = 12.0


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
        weight = np.clip((100.0 - lab[..., :1]) / _FADE_L, 0.0, 1.0)
        lab += weight * (lab * (scale - 1.0) + shift)
        lab[..., 0] = np.clip(lab[..., 0], 0.0, 100.0)
        rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
        mapped[...] = np.clip(np.rint(rgb * 255.0), 0, 255).astype(np.uint8)
    return result


def _to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    scaled = np.multiply(rgb, np.float32(1 / 255.0), dtype=np.float32)
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB), dtype=np.float32)
