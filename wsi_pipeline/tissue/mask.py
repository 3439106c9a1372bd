"""Where the tissue is, on one overview image.

A method proposes tissue pixels; what follows is common to all of them: marker ink is taken out,
pieces in doubt are judged against the glass around them, gaps are closed, small holes filled, small
pieces dropped, and larger pieces that are no tissue are listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tissue.ink import disc, find_ink
from wsi_pipeline.tissue.methods import TISSUE_METHODS, Appearance, Proposal, appearance
from wsi_pipeline.tissue.pieces import Piece, Pieces, seen_pieces
from wsi_pipeline.types import Mask, RgbImage

PIECES_LEFT_OUT = "pieces_left_out"
CLOSING_UM = 8.0
LISTED_UM2 = 20_000.0  # a smaller piece left out is not worth a word
VISIBLE_DENSITY = 0.025  # what is denser than glass at all
EMPTY_DENSITY = 0.01
NEAR_PX = 2  # of tissue: its blurred edge, no piece of its own
STROKE_UM = 32.0  # the thinnest pen stroke
UNKNOWN_UM_PER_PX = 8.0


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A piece of something that was not taken for tissue.

    Attributes:
        area_um2: Its area.
        reason: Why.
        box: x0, y0, x1, y1 in pixels of the overview.
        mask: (y1 - y0, x1 - x0) bool.
    """

    area_um2: float
    reason: str
    box: tuple[int, int, int, int]
    mask: Mask

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """Tissue on an overview.

    Attributes:
        mask: (H, W) bool.
        method: Name of the method that found it.
        thresholds: What was applied, and Otsu's own cut where it was moved into its bounds.
        glass: (3,) float64, the colour of empty glass; (255, 255, 255) where none was seen.
        flags: ``no_tissue``, ``all_tissue``, ``no_background`` (no glass to measure white on),
            ``ink`` (marker ink was found and excluded), ``pieces_left_out``.
        left_out: Pieces that are no tissue, the largest first.
    """

    mask: Mask
    method: str
    thresholds: Mapping[str, float]
    glass: NDArray[np.float64]
    flags: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()

    def within(self, area: Mask) -> "Tissue":
        """Return the tissue in ``area``, (H, W) bool, and the pieces left out there."""
        there = tuple(one for one in self.left_out if area[one.place][one.mask].any())
        flags = tuple(name for name in self.flags if there or name != PIECES_LEFT_OUT)
        return replace(self, mask=self.mask & area, left_out=there, flags=flags)

    def left_out_mask(self) -> Mask:
        """Return (H, W) bool: all pieces left out."""
        mask = np.zeros_like(self.mask)
        for one in self.left_out:
            mask[one.place] |= one.mask
        return mask


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
        ConfigError: Unknown method.
        ValueError: An impossible size, or not an RGB image.
    """
    _check(rgb, um_per_px, min_area_um2, max_hole_um2)
    scale = UNKNOWN_UM_PER_PX if um_per_px is None else um_per_px
    ink = np.zeros(rgb.shape[:2], np.bool_)
    if method != "none":
        ink = find_ink(rgb, max(1, round(STROKE_UM / 2 / scale)))
    view = appearance(rgb, ink)
    proposal = TISSUE_METHODS.choose(method)(view)
    mask = proposal.mask
    left_out: tuple[LeftOut, ...] = ()
    if method != "none":
        mask = _with_pale_pieces(proposal, view, min_area_um2 / scale**2)
        mask = _clean(mask & ~ink, scale, max_hole_um2) & ~ink
        mask = _drop_small(mask, min_area_um2 / scale**2)
        left_out = _left_out(mask, view, scale)
    return Tissue(
        mask=mask,
        method=method,
        thresholds=MappingProxyType(dict(proposal.thresholds)),
        glass=view.glass,
        flags=(*_flags(mask, ink, view.has_glass), *([PIECES_LEFT_OUT] if left_out else [])),
        left_out=left_out,
    )


def _flags(mask: Mask, ink: Mask, has_glass: bool) -> tuple[str, ...]:
    observed = {
        "no_tissue": not mask.any(),
        "all_tissue": mask.mean() > 0.999,
        "no_background": not has_glass,
        "ink": ink.any(),
    }
    return tuple(name for name, holds in observed.items() if holds)


def _with_pale_pieces(proposal: Proposal, view: Appearance, least_px: float) -> Mask:
    """Add to the mask the pieces in doubt that pass against the glass around them."""
    if proposal.doubtful is None:
        return proposal.mask
    mask = proposal.mask.copy()
    apart = proposal.doubtful & ~_grown(mask) & ~view.ink
    for piece in seen_pieces(view.balanced, apart, _empty(view), least_px):
        if piece.shortcoming is None:
            mask[piece.place] |= piece.mask
    return mask


def _left_out(mask: Mask, view: Appearance, um_per_px: float) -> tuple[LeftOut, ...]:
    """List what is denser than glass and no tissue, if it is large enough to be missed."""
    if not view.has_glass:
        return ()
    visible = (view.density > VISIBLE_DENSITY) & ~_grown(mask)
    opened = cv2.morphologyEx(visible.view(np.uint8), cv2.MORPH_OPEN, disc(1)).view(np.bool_)
    found = [
        LeftOut(
            area_um2=np.count_nonzero(piece.mask) * um_per_px**2,
            reason=_reason(piece, view),
            box=piece.box,
            mask=piece.mask,
        )
        for piece in seen_pieces(view.balanced, opened, _empty(view), LISTED_UM2 / um_per_px**2)
    ]
    return tuple(sorted(found, key=lambda one: -one.area_um2))


def _reason(piece: Piece, view: Appearance) -> str:
    if view.ink[piece.place][piece.mask].mean() > 0.5:
        return "marker ink"
    if view.stain_like[piece.place][piece.mask].mean() < 0.5:
        return "grey or green, no stain"
    return piece.shortcoming or "below the cuts of the tissue method"


def _empty(view: Appearance) -> Mask:
    return np.asarray(view.density < EMPTY_DENSITY, np.bool_)


def _grown(mask: Mask) -> Mask:
    return np.asarray(cv2.dilate(mask.view(np.uint8), disc(NEAR_PX)).view(np.bool_))


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
        raise ValueError(f"Tissue is found on (H, W, 3) uint8 images; got {rgb.shape} {rgb.dtype}.")
    if um_per_px is not None and not (np.isfinite(um_per_px) and um_per_px > 0):
        raise ValueError(f"um_per_px must be positive, or None when unknown; got {um_per_px}.")
    if min_area_um2 < 0 or max_hole_um2 < 0:
        raise ValueError(
            f"min_area_um2 and max_hole_um2 must be >= 0; got {min_area_um2} and {max_hole_um2}."
        )
