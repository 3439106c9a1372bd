"""Core-sized spots of tissue on the overview of a tissue microarray.

The tissue is explained by discs of the cores' size or sizes, one after the other, best first, each
taking its pixels away from the rest, so that touching cores come apart and crumbs beside a core
are no second core.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import NoTissueError
from wsi_pipeline.microarray.field import Points
from wsi_pipeline.microarray.view import View
from wsi_pipeline.tissue import disc
from wsi_pipeline.types import Mask

RING_PENALTY = 0.5  # tissue just outside a core's disc speaks against a centre
SOFTENING = 0.075  # diameters
MIN_COVERAGE = 0.1  # of a core's disc; less is debris
SEPARATION = 0.8  # diameters: cores may touch and be squeezed, but two do not lie on each other
MOST = 2500  # spots and crumbs: no array has as many, and what follows grows with their square
MOST_WORK = 40_000_000  # pixels looked at again as spots are taken away; arrays need a quarter
BLUR_COVERAGE = 0.8
BLUR_SLOPE = 0.26  # of the spot's density a pixel: dust out of focus and dried water fade slower

Values = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Spots:
    """Spots, best first.

    Attributes:
        centres: (N, 2) float64 x, y.
        coverage: (N,) float64, share of the core's disc that is tissue.
        diameters: (N,) float64, of the size of core that explains it best.
    """

    centres: Points
    coverage: NDArray[np.float64]
    diameters: NDArray[np.float64]

    def only(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> "Spots":
        """The spots that ``keep`` names, in its order."""
        return Spots(
            centres=self.centres[keep],
            coverage=self.coverage[keep],
            diameters=self.diameters[keep],
        )

    def joined(self, others: "Spots") -> "Spots":
        """These spots and then the others."""
        return Spots(
            centres=np.concatenate([self.centres, others.centres]),
            coverage=np.concatenate([self.coverage, others.coverage]),
            diameters=np.concatenate([self.diameters, others.diameters]),
        )


def find_spots(view: View, diameters: Sequence[float]) -> Spots:
    """Find whatever may be a core or what is left of one.

    Args:
        view: The overview.
        diameters: Sizes of the cores, pixels of the view.

    Raises:
        NoTissueError: There are more than any array has.
    """
    smallest = min(diameters)
    spots = _explain(_without_specks(view.mask, smallest), diameters)
    spots = spots.only(_apart(spots))
    return spots.only(~_blurred(view, spots))


def round_pieces(mask: Mask, diameter_px: float) -> int:
    """How many pieces of tissue are discs of a size: a second size of core shows in them.

    Args:
        mask: (H, W) bool.
        diameter_px: The size, give or take an eighth.
    """
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc(1))
    _, _, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    width, height = stats[1:, cv2.CC_STAT_WIDTH], stats[1:, cv2.CC_STAT_HEIGHT]
    fill = stats[1:, cv2.CC_STAT_AREA] / (np.pi / 4 * width * height)
    sized = np.abs(np.sqrt(width * height) / diameter_px - 1) <= 1 / 8
    return int((sized & (np.abs(width / height - 1) < 0.2) & (fill > 0.85)).sum())


def _explain(mask: Mask, diameters: Sequence[float]) -> Spots:
    """Explain the mask by discs, greedily (matching pursuit)."""
    discs = [_Disc(diameter) for diameter in diameters]
    widest = max(disc.reach for disc in discs)
    pad = 5 * widest  # room for the widest window around a centre just outside the image
    near = np.pad(mask, widest).astype(np.float32)  # farther out there is nothing to score
    scores = np.stack([np.pad(_filtered(near, each.kernel), pad - widest) for each in discs])
    rest = np.pad(near, pad - widest)
    tops = scores.max(axis=2)  # of each line, so that the best is found without a look at all
    found: list[tuple[float, float, float, float]] = []
    work = 0
    while work <= MOST_WORK and len(found) <= MOST:
        size, y = (int(k) for k in np.unravel_index(int(np.argmax(tops)), tops.shape))
        if tops[size, y] < MIN_COVERAGE / 2:
            break
        x = int(np.argmax(scores[size, y]))
        best = discs[size]
        window = _window(y, x, best.reach)
        share = float((rest[window] * best.inner).sum() / best.inner.sum())
        if share >= MIN_COVERAGE:
            found.append((x - pad, y - pad, share, best.diameter_px))
        rest[window][best.taken] = 0
        reach = best.reach + widest
        lines = slice(y - reach, y + reach + 1)
        changed = rest[_window(y, x, reach + widest)]
        work += changed.size
        for each, score, top in zip(discs, scores, tops, strict=True):
            fresh = _filtered(changed, each.kernel)
            score[_window(y, x, reach)] = fresh[widest:-widest, widest:-widest]
            top[lines] = score[lines].max(axis=1)
    else:
        raise NoTissueError(f"more than {MOST:,} spots of a core's size")
    table = np.array(found, dtype=np.float64).reshape(-1, 4)
    return Spots(centres=table[:, :2], coverage=table[:, 2], diameters=table[:, 3])


class _Disc:
    """What a core of one size looks like."""

    def __init__(self, diameter_px: float) -> None:
        self.diameter_px = diameter_px
        self.inner, ring = _templates(diameter_px / 2)
        self.reach = self.inner.shape[0] // 2
        kernel = self.inner / self.inner.sum() - RING_PENALTY * ring / ring.sum()
        self.kernel = _softened(kernel, SOFTENING * diameter_px)  # a plateau has no centre
        self.taken = np.asarray(cv2.dilate(self.inner, disc(1))).astype(bool)


def _window(y: int, x: int, reach: int) -> tuple[slice, slice]:
    return slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1)


def _filtered(values: Values, kernel: Values) -> Values:
    filtered = cv2.filter2D(values, -1, kernel, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(filtered, dtype=np.float32)


def _softened(kernel: Values, sigma: float) -> Values:
    blurred = cv2.GaussianBlur(kernel, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, dtype=np.float32)


def _templates(radius: float) -> tuple[Values, Values]:
    """A core's disc and the ring around it, 0 or 1."""
    reach = int(np.ceil(1.4 * radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(x, y)
    ring = (distance > 1.1 * radius) & (distance <= 1.4 * radius)
    return (distance <= radius).astype(np.float32), ring.astype(np.float32)


def _without_specks(mask: Mask, diameter_px: float) -> Mask:
    """Take away dust and scratches, narrower than a tenth of a core or below 1.5 % of its area."""
    opened = cv2.morphologyEx(
        mask.astype(np.uint8), cv2.MORPH_OPEN, disc(max(1, round(diameter_px / 20)))
    )
    _, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= 0.015 * np.pi / 4 * diameter_px**2
    keep[0] = False
    return np.asarray(keep[labels], dtype=bool)


def _apart(spots: Spots) -> NDArray[np.int64]:
    """Indices of spots that keep their distance from every better one that is kept."""
    kept: list[int] = []
    for index, centre in enumerate(spots.centres):
        gaps = np.hypot(*(spots.centres[kept] - centre).T)
        near = SEPARATION * (spots.diameters[kept] + spots.diameters[index]) / 2
        if not (gaps < near).any():
            kept.append(index)
    return np.array(kept, dtype=np.int64)


def _blurred(view: View, spots: Spots) -> NDArray[np.bool_]:
    """Spots that do not fill their disc and have no sharp edge; (N,) bool."""
    blurred = np.zeros(len(spots.centres), bool)
    if view.density is None:
        return blurred
    dx = cv2.Sobel(view.density, cv2.CV_32F, 1, 0, scale=1 / 8)
    dy = cv2.Sobel(view.density, cv2.CV_32F, 0, 1, scale=1 / 8)
    slope = np.asarray(cv2.magnitude(dx, dy))
    edged = np.asarray(cv2.dilate(view.mask.astype(np.uint8), disc(1))).astype(bool)
    height, width = view.mask.shape
    y, x = np.ogrid[:height, :width]
    for index in np.flatnonzero(spots.coverage < BLUR_COVERAGE):
        (cx, cy), diameter_px = spots.centres[index], spots.diameters[index]
        near = (
            slice(max(0, int(cy - diameter_px)), int(cy + diameter_px)),
            slice(max(0, int(cx - diameter_px)), int(cx + diameter_px)),
        )
        inside = np.hypot(x[:, near[1]] - cx, y[near[0]] - cy) <= 0.55 * diameter_px
        tissue = inside & view.mask[near]
        if tissue.any():
            steepest = np.percentile(slope[near][inside & edged[near]], 90)
            blurred[index] = steepest < BLUR_SLOPE * np.median(view.density[near][tissue])
    return blurred
