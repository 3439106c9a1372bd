"""How far apart the cores of a microarray lie: the periodogram of the spots' neighbour vectors.

A spot's neighbours lie whole steps away. The waves of the plane on whose crests most of those
vectors fall are the rows and the columns; the share of agreement is 1 for a perfect lattice and
near 0 for spots strewn at random, so that it also says whether this is an array at all. A wave
half as long fits as well only if there is no jitter, and a wave twice as long only if every
second core is missing: so neither sparse nor uneven arrays mislead it.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.microarray.field import Points, distances

REACH = 4.0  # nearest-neighbour distances within which vectors are compared
SHORTEST = 0.85  # diameters between two cores
LONGEST = 4.5
MAX_TILT_DEG = 40.0
BINS_PER_DIAMETER = 12
LEAST_SIDE = 324  # of the grid the vectors are counted on
MOST_PAIRS = 200_000  # beyond them every second or third will do
CANDIDATES = 5  # waves tried along each axis
LEAST_SINE = 0.5  # of the angle between rows and columns
UNEVEN = 0.25  # log of the ratio of the two steps that is not unusual
ODD = 0.05  # agreement given up for steps as uneven, or for angles 11° off


@dataclass(frozen=True, kw_only=True)
class Pitch:
    """Steps to the next core.

    Attributes:
        along, down: (2,) float64 x, y in px: along a row, down a column.
        agreement: The lower of the two waves' mean cosines, at most 1; of a single line its own.
    """

    along: NDArray[np.float64]
    down: NDArray[np.float64]
    agreement: float

    @property
    def steps(self) -> NDArray[np.float64]:
        """(2, 2) float64, columns ``along`` and ``down``."""
        return np.stack([self.along, self.down], axis=1)


def pitch_of(
    centres: Points,
    weights: NDArray[np.float64],
    diameter_px: float,
    expected_px: float | None = None,
) -> Pitch | None:
    """Measure the steps between cores; None where there are too few spots.

    Args:
        centres: (N, 2) x, y.
        weights: (N,) how much of a core each is, 0 to 1.
        diameter_px: Core diameter.
        expected_px: The step where it is known, within a quarter.
    """
    if len(centres) < 2:
        return None
    shortest, longest = SHORTEST * diameter_px, LONGEST * diameter_px
    if expected_px is not None:
        shortest, longest = 0.75 * expected_px, 1.25 * expected_px
    distance = distances(centres, centres)
    solid = weights >= np.median(weights)
    others = np.where(distance > 0.5 * diameter_px, distance, np.inf)[solid][:, solid]
    usual = float(np.clip(np.median(others.min(axis=1)), shortest, longest))
    first, second = np.nonzero((distance > 0.5 * diameter_px) & (distance < REACH * usual))
    if not len(first):
        return None
    thinned = -(-len(first) // MOST_PAIRS)
    first, second = first[::thinned], second[::thinned]
    vectors = centres[first] - centres[second]
    weight = weights[first] * weights[second]
    weight = weight * np.exp(-((distance[first, second] / (0.6 * REACH * usual)) ** 2))
    neighbours = _Neighbours(vectors, weight, diameter_px / BINS_PER_DIAMETER)
    across = neighbours.waves(shortest, longest, down=False)
    along = neighbours.waves(shortest, longest, down=True)
    return _best_pair(across, along)


Wave = tuple[NDArray[np.float64], float]  # (2,) cycles a pixel, and its agreement


def _best_pair(x_waves: list[Wave], y_waves: list[Wave]) -> Pitch | None:
    """The two waves that agree best, alike in length and at right angles if need be."""
    if not x_waves and not y_waves:
        return None
    if not x_waves:  # a single column, or a single row: no second step
        x_waves = [(np.array([wave[1], -wave[0]]), fit) for wave, fit in y_waves]
    if not y_waves:
        y_waves = [(np.array([-wave[1], wave[0]]), fit) for wave, fit in x_waves]
    best: tuple[float, Pitch] | None = None
    for one, fit_one in x_waves:
        for two, fit_two in y_waves:
            waves = np.stack([one, two])
            lengths = np.hypot(waves[:, 0], waves[:, 1])
            square = float(np.linalg.det(waves)) / float(lengths.prod())
            if square < LEAST_SINE:
                continue
            uneven = float(np.log(lengths[0] / lengths[1])) / UNEVEN
            score = fit_one + fit_two - ODD * (uneven**2 + ((1 - square) / 0.02) ** 2)
            steps = np.asarray(np.linalg.inv(waves), dtype=np.float64)
            pitch = Pitch(along=steps[:, 0], down=steps[:, 1], agreement=min(fit_one, fit_two))
            if best is None or score > best[0]:
                best = score, pitch
    return None if best is None else best[1]


class _Neighbours:
    """Vectors between spots, weighted, and the waves that they fall on."""

    def __init__(self, vectors: Points, weight: NDArray[np.float64], cell_px: float) -> None:
        self.vectors = vectors
        self.weight = weight / max(weight.sum(), 1e-9)
        half = int(np.ceil(np.abs(vectors).max() / cell_px)) + 1
        side = cv2.getOptimalDFTSize(max(2 * half + 1, LEAST_SIDE))
        grid = np.zeros((side, side))
        place = np.round(vectors / cell_px).astype(int) % side
        np.add.at(grid, (place[:, 1], place[:, 0]), self.weight)
        self.power = np.fft.fft2(grid).real
        self.frequency = np.fft.fftfreq(side, cell_px)

    def waves(self, shortest: float, longest: float, *, down: bool) -> list[Wave]:
        """The best waves within ``MAX_TILT_DEG`` of an axis, with lengths between the two."""
        fy, fx = np.meshgrid(self.frequency, self.frequency, indexing="ij")
        ahead, across = (fy, fx) if down else (fx, fy)
        inside = (ahead > 0) & (np.abs(across) <= np.tan(np.radians(MAX_TILT_DEG)) * ahead)
        size = np.hypot(fx, fy)
        inside &= (size >= 1 / longest) & (size <= 1 / shortest)
        peak = inside & (self.power >= cv2.dilate(self.power, np.ones((5, 5), np.uint8)))
        peaks = np.flatnonzero(peak)
        best = peaks[np.argsort(-self.power.flat[peaks], kind="stable")][:CANDIDATES]
        return [self._sharpened(np.array([fx.flat[k], fy.flat[k]])) for k in best]

    def _sharpened(self, wave: NDArray[np.float64]) -> Wave:
        step = float(self.frequency[1])
        for shrink in (0.5, 0.25, 0.1):
            offsets = np.arange(-2, 3) * step * shrink
            around = wave + np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
            fits = self.weight @ np.cos(2 * np.pi * (self.vectors @ around.T))
            wave = around[int(np.argmax(fits))]
        return wave, float(fits.max())
