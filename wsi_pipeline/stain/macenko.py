"""Estimate the stain vectors of a slide.

Source: M. Macenko et al., "A method for normalizing histology slides for quantitative analysis",
ISBI 2009.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StainFitError
from wsi_pipeline.stain.percentiles import Vector, at_ranks, span
from wsi_pipeline.stain.plausible import judge_he
from wsi_pipeline.stain.stains import (
    MIN_STAIN_ANGLE_DEG,
    OPTICAL_DENSITY,
    Matrix,
    Stains,
    angle_deg,
    unit_rows,
)

FEW_PIXELS = "too_few_tissue_pixels"
PARALLEL = "near_parallel_stains"

# Unscanned area and thick pigment are black in all channels: no mixture of two dyes.
BLACK_LEVEL = 20

_DENSITY = OPTICAL_DENSITY.astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class StainFit:
    """The outcome of a fit: stains, or the reasons why there are none.

    Attributes:
        stains: None when the pixels do not support an H&E fit; the tiles are then left as they are.
        flags: why, e.g. ``("not_he",)``; empty when ``stains`` is given.
        diagnostics: measured numbers behind the verdict (see :func:`judge_he`), plus
            ``tissue_pixels`` and ``tissue_pixel_fraction``.
    """

    stains: Stains | None
    flags: tuple[str, ...] = ()
    diagnostics: dict[str, float] = field(default_factory=dict)


def fit_macenko(
    pixels: NDArray[np.uint8],
    *,
    beta: float = 0.15,
    alpha: float = 1.0,
    min_pixels: int = 1000,
) -> StainFit:
    """Fit haematoxylin and eosin to pixels of one slide (or one image).

    Pixels denser than ``beta`` in every channel are tissue. Their densities are projected on the
    plane of the two leading eigenvectors of their covariance; the directions at the ``alpha`` and
    ``100 - alpha`` percentiles of the angle in that plane are the two stains, the one that absorbs
    more red being haematoxylin. Odd input gives flags, never an exception.

    Args:
        pixels: (P, 3) uint8 RGB, a random sample of tissue; 100,000 are plenty.
        beta: optical density (natural logarithm) below which a pixel is background.
        alpha: percentile in [0, 50) that is robust against outlying angles.
        min_pixels: fewer tissue pixels than this are not fitted.

    Raises:
        StainFitError: ``pixels`` is not (P, 3) uint8, i.e. the caller is wrong.
    """
    density, fraction = tissue_density(pixels, beta)
    diagnostics = {"tissue_pixels": float(len(density)), "tissue_pixel_fraction": fraction}
    if len(density) < max(min_pixels, 2):
        return StainFit(stains=None, flags=(FEW_PIXELS,), diagnostics=diagnostics)
    matrix = _extreme_directions(density, alpha)
    angle = angle_deg(matrix[0], matrix[1])
    diagnostics["stain_angle_deg"] = angle
    if angle < MIN_STAIN_ANGLE_DEG:
        return StainFit(stains=None, flags=(PARALLEL,), diagnostics=diagnostics)
    return judged_fit(matrix, density, diagnostics)


def judged_fit(matrix: Matrix, density: Matrix, diagnostics: dict[str, float]) -> StainFit:
    """Measure concentrations under a stain matrix and refuse what is not H&E.

    Args:
        matrix: (2, 3) unit rows, H and E.
        density: (P, 3) optical density of tissue.
        diagnostics: numbers measured so far, carried over.
    """
    columns = np.ascontiguousarray(density.T)  # (3, P): NumPy is at its best along rows
    unmix = np.linalg.solve(matrix @ matrix.T, matrix)  # (2, 3), small: not for each pixel
    concentrations = np.asarray(unmix @ columns, np.float64)  # (2, P)
    residual = matrix.T @ concentrations
    residual -= columns
    verdict = judge_he(matrix, concentrations)
    unexplained = np.einsum("cp,cp->", residual, residual) / np.einsum("cp,cp->", columns, columns)
    numbers = {
        **diagnostics,
        **verdict.diagnostics,
        "residual_fraction": float(np.sqrt(unexplained)),
    }
    if verdict.flags:
        return StainFit(stains=None, flags=verdict.flags, diagnostics=numbers)
    maxima = np.array([numbers["h_concentration_p99"], numbers["e_concentration_p99"]])
    return StainFit(stains=Stains(matrix=matrix, maxima=maxima), diagnostics=numbers)


def tissue_density(pixels: NDArray[np.uint8], beta: float) -> tuple[Matrix, float]:
    """Optical density of the pixels that are stained tissue, and their share of all pixels.

    Returns:
        (Q, 3) float64 densities, all above ``beta``, and Q / P.

    Raises:
        StainFitError: ``pixels`` is not (P, 3) uint8.
    """
    if pixels.ndim != 2 or pixels.shape[1] != 3 or pixels.dtype != np.uint8:
        raise StainFitError(
            f"Stain fitting needs (P, 3) uint8 pixels, not {pixels.shape} {pixels.dtype}."
        )
    stained = (beta < OPTICAL_DENSITY) & (np.arange(256) > BLACK_LEVEL)
    if not len(pixels):
        return np.empty((0, 3), np.float64), 0.0
    planes = [np.asarray(plane, np.uint8) for plane in cv2.split(pixels.reshape(1, -1, 3))]
    # All three channels are dense where the brightest is.
    brightest = np.maximum(np.maximum(planes[0], planes[1]), planes[2])
    keep = np.asarray(cv2.LUT(brightest, stained.view(np.uint8)))
    places = np.flatnonzero(keep.view(np.bool_))
    columns = np.empty((3, len(places)), np.float64)
    if len(places):
        for plane, column in zip(planes, columns, strict=True):
            cv2.LUT(np.take(plane, places)[None], _DENSITY, dst=column[None])
    return columns.T, len(places) / len(pixels)


def _extreme_directions(density: Matrix, alpha: float) -> Matrix:
    """(2, 3) unit rows, H first: the angular extremes of the densities in their principal plane."""
    columns = np.ascontiguousarray(density.T)
    # Not np.cov: a threaded BLAS sums in an order that depends on the machine's cores.
    mean = columns.mean(axis=1, keepdims=True)
    covariance = cv2.mulTransposed(columns, aTa=False, delta=mean, scale=1 / (len(density) - 1))
    _, vectors = np.linalg.eigh(covariance)
    plane = vectors[:, [2, 1]]
    # eigh leaves the sign open; densities are positive, so the plane's axes should be too.
    plane = plane * np.where(plane[0] < 0, -1.0, 1.0)
    along, across = plane.T @ columns
    low, high = _angle_percentiles(along, across, alpha)
    pair = np.array([[np.cos(low), np.sin(low)], [np.cos(high), np.sin(high)]]) @ plane.T
    if pair[0, 0] < pair[1, 0]:
        pair = pair[::-1]
    return unit_rows(pair)


def _angle_percentiles(along: Vector, across: Vector, alpha: float) -> tuple[float, float]:
    """The ``alpha`` and ``100 - alpha`` percentiles of the angles of vectors.

    The tangent orders angles as they are ordered, and costs a tenth: only the few angles that the
    percentiles lie between are computed.
    """
    if not (along > 0).all():
        low, high = np.percentile(np.arctan2(across, along), [alpha, 100.0 - alpha])
        return float(low), float(high)
    tangents = across / along
    below, above, share = span(len(tangents), alpha)
    last = len(tangents) - 1
    mirrored = [last - below, last - above]  # as far from the top as those are from the bottom
    lowest = np.arctan(np.negative(at_ranks(-tangents, mirrored)))
    highest = np.arctan(at_ranks(tangents, mirrored))
    low = lowest[0] + share * (lowest[1] - lowest[0])
    high = highest[0] + share * (highest[1] - highest[0])
    return float(low), float(high)
