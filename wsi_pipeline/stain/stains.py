"""Stain vectors in optical density, and the reference that slides are mapped to.

Optical density is the natural logarithm ``-ln(I / 255)``: a pixel of 255 is white and has density
0, so that white stays white under every map below. 0 is read as 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StainFitError

Matrix = NDArray[np.float64]

OPTICAL_DENSITY: NDArray[np.float32] = (-np.log(np.maximum(np.arange(256), 1) / 255.0)).astype(
    np.float32
)
"""(256,) float32: optical density of each grey level."""

# Rows closer than this cannot be told apart; the 3x3 map would amplify noise about tenfold or more.
MIN_STAIN_ANGLE_DEG = 6.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Stains:
    """What haematoxylin and eosin look like on one slide.

    Attributes:
        matrix: (2, 3) float64, unit rows H and E in optical density, columns R, G, B.
        maxima: (2,) float64, 99th percentile of the concentration of H and of E in tissue.

    Raises:
        StainFitError: a shape is wrong, a number is not finite, a row is not of unit length, a
            maximum is not positive, or the two rows are nearly parallel.
    """

    matrix: Matrix
    maxima: NDArray[np.float64]

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        maxima = np.array(self.maxima, dtype=np.float64)
        if matrix.shape != (2, 3) or maxima.shape != (2,):
            raise StainFitError(
                f"Stains need a (2, 3) matrix and (2,) maxima, not {matrix.shape} and "
                f"{maxima.shape}."
            )
        if not (np.isfinite(matrix).all() and np.isfinite(maxima).all() and (maxima > 0).all()):
            raise StainFitError(f"Stains must be finite with positive maxima, not {maxima}.")
        if not (abs((matrix**2).sum(axis=1) - 1.0) <= 2e-6).all():
            raise StainFitError("The rows of a stain matrix must have unit length.")
        if angle_deg(matrix[0], matrix[1]) < MIN_STAIN_ANGLE_DEG:
            raise StainFitError(
                f"The two stain vectors are {angle_deg(matrix[0], matrix[1]):.1f} degrees apart, "
                f"less than {MIN_STAIN_ANGLE_DEG:g}; they cannot be told apart."
            )
        matrix.flags.writeable = False
        maxima.flags.writeable = False
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "maxima", maxima)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Stains)
            and np.array_equal(self.matrix, other.matrix)
            and np.array_equal(self.maxima, other.maxima)
        )

    def __hash__(self) -> int:
        return hash((self.matrix.tobytes(), self.maxima.tobytes()))

    def to_attributes(self) -> dict[str, Any]:
        """The stains as JSON-able lists, exact to the last bit."""
        return {"matrix": self.matrix.tolist(), "maxima": self.maxima.tolist()}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> "Stains":
        """Undo :meth:`to_attributes`.

        Raises:
            StainFitError: a key is missing or the values are not usable stains.
        """
        try:
            return cls(matrix=attributes["matrix"], maxima=attributes["maxima"])
        except (KeyError, TypeError) as error:
            raise StainFitError(f"Stored stains lack {error}.") from error


def angle_deg(first: Matrix, second: Matrix) -> float:
    """Angle between two (3,) vectors in degrees."""
    cosine = float(first @ second) / math.sqrt(float(first @ first) * float(second @ second))
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))


def unit_rows(matrix: Matrix) -> Matrix:
    """Scale each row to unit length."""
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), dtype=np.float64)


REFERENCE = Stains(
    matrix=unit_rows(np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])),
    maxima=np.array([1.9705, 1.0308]),
)
"""The published reference of Macenko et al.'s method (``HERef`` and ``maxCRef`` of its widely used
MATLAB implementation). Its maxima were measured against a white of 240, not of 255 as here; they
are left as published."""


def density_map(source: Stains, target: Stains = REFERENCE) -> Matrix:
    """The 3x3 matrix that takes a pixel's optical density from one stain basis to another.

    A pixel's density is split by least squares into H and E of ``source``, both are rescaled to the
    target's maxima and recomposed from its vectors; what neither stain explains is dropped.

    Returns:
        (3, 3) float64 ``M`` with ``density_out = M @ density_in``.
    """
    unmix = np.linalg.pinv(source.matrix.T)  # (2, 3): density -> concentrations
    rescale = np.diag(target.maxima / source.maxima)
    return np.asarray(target.matrix.T @ rescale @ unmix, dtype=np.float64)
