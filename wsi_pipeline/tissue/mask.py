"""Where the tissue is, on one overview image.

A method proposes tissue pixels; what follows is common to all of them: marker ink is taken out,
gaps are closed, small holes filled, small pieces dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tissue.ink import disc, find_ink
from wsi_pipeline.tissue.methods import TISSUE_METHODS, appearance
from wsi_pipeline.tissue.pieces import Pieces
from wsi_pipeline.types import Mask, RgbImage

CLOSING_UM = 24.0
STROKE_UM = 32.0  # the thinnest pen stroke
UNKNOWN_UM_PER_PX = 8.0


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """Tissue on an overview.

    Attributes:
        mask: (H, W) bool.
        method: Name of the method that found it.
        thresholds: What was applied, and Otsu's own cut where it was moved into its bounds.
        glass: (3,) float64, the colour of empty glass; (255, 255, 255) where none was seen.
        flags: ``no_tissue``, ``all_tissue``, ``no_background`` (no glass to measure white on),
            ``ink`` (marker ink was found and excluded).
    """

    mask: Mask
    method: str
    thresholds: Mapping[str, float]
    glass: NDArray[np.float64]
    flags: tuple[str, ...]


def find_tissue(
    rgb: RgbImage,
    um_per_px: float | None = 8.0,
    method: str = "otsu",
    min_area_um2: float = 10_000.0,
    max_hole_um2: float = 40_000.0,
) -> Tissue:
    """Find the tissue on an overview of a slide.

    Args:
        rgb: (H, W, 3) uint8.
        um_per_px: Resolution of ``rgb``; None when unknown: sizes are then taken as at 8 µm/px.
        method: A name from ``TISSUE_METHODS``; ``none`` takes the whole image.
        min_area_um2: Smaller pieces are dropped.
        max_hole_um2: Smaller holes are filled (vessels, lumina, fat); larger ones are glass.

    Returns:
        The mask, the thresholds that made it, and flags; an empty mask is not an error.

    Raises:
        ConfigError: Unknown method, an impossible size, or not an RGB image.
    """
    _check(rgb, um_per_px, min_area_um2, max_hole_um2)
    scale = UNKNOWN_UM_PER_PX if um_per_px is None else um_per_px
    ink = find_ink(rgb, max(1, round(STROKE_UM / 2 / scale)))
    view = appearance(rgb, ink)
    proposal = TISSUE_METHODS.choose(method)(view)
    mask = proposal.mask
    if method != "none":
        mask = _clean(mask & ~ink, scale, max_hole_um2) & ~ink
        mask = _drop_small(mask, min_area_um2 / scale**2)
    return Tissue(
        mask=mask,
        method=method,
        thresholds=MappingProxyType(dict(proposal.thresholds)),
        glass=view.glass,
        flags=_flags(mask, ink, view.has_glass),
    )


def _flags(mask: Mask, ink: Mask, has_glass: bool) -> tuple[str, ...]:
    observed = {
        "no_tissue": not mask.any(),
        "all_tissue": mask.mean() > 0.999,
        "no_background": not has_glass,
        "ink": ink.any(),
    }
    return tuple(name for name, holds in observed.items() if holds)


def _clean(mask: Mask, um_per_px: float, max_hole_um2: float) -> Mask:
    """Close gaps, drop hairs, fill small holes."""
    radius = min(max(1, round(CLOSING_UM / um_per_px)), 25)
    padded = cv2.copyMakeBorder(
        mask.astype(np.uint8), radius, radius, radius, radius, cv2.BORDER_REPLICATE
    )
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc(radius))
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, disc(max(1, radius // 3)))
    inner = opened[radius:-radius, radius:-radius].astype(bool)
    return ~_drop_small(~inner, max_hole_um2 / um_per_px**2)


def _drop_small(mask: Mask, min_area_px: float) -> Mask:
    pieces = Pieces(mask, connectivity=4)
    return pieces.keep(pieces.areas >= min_area_px)


def _check(
    rgb: RgbImage, um_per_px: float | None, min_area_um2: float, max_hole_um2: float
) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise ConfigError(
            f"Tissue is found on (H, W, 3) uint8 images; got {rgb.shape} {rgb.dtype}."
        )
    if um_per_px is not None and not (np.isfinite(um_per_px) and um_per_px > 0):
        raise ConfigError(f"um_per_px must be positive, or None when unknown; got {um_per_px}.")
    if min_area_um2 < 0 or max_hole_um2 < 0:
        raise ConfigError(
            f"min_area_um2 and max_hole_um2 must be >= 0; got {min_area_um2} and {max_hole_um2}."
        )
