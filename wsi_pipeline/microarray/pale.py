"""A second look at the vacant places of the grid: cores so pale that they count as glass.

Where a core should lie, a disc that is a little darker than the glass around it all over is a
core; the same anywhere else would be a water mark. What the first look saw and did not take for a
core stays what it is.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.microarray.lattice import Lattice
from wsi_pipeline.microarray.spots import Spots
from wsi_pipeline.microarray.view import View

CLEAR: Final = 11.0  # times the noise between a disc and the ring around it
FILLED: Final = 0.8  # share of the disc that is darker than the ring
UNSEEN: Final = 0.25  # share of it, at most, that the first look saw
REACH: Final = 0.25  # steps from the place within which the disc is looked for
DARKEST: Final = 0.15  # density that counts, so that a speck is no disc

Floats = NDArray[np.float32]


def pale_spots(view: View, lattice: Lattice, diameter_px: float) -> Spots:
    """Find pale cores at the vacant places of a grid.

    Args:
        view: The overview.
        lattice: What the first look found.
        diameter_px: Core diameter.

    Returns:
        The spots, with the share of their discs that is tissue; none where only a mask was given.
    """
    places = _vacant(lattice)
    if view.density is None or not len(places):
        return _spots([], diameter_px)
    look = _Look(view, lattice, diameter_px)
    pitch = float(np.hypot(*lattice.steps[:, 0]))
    found = [look.at(x, y, max(1, round(REACH * pitch))) for x, y in places]
    return _spots([spot for spot in found if spot is not None], diameter_px)


def _spots(found: list[tuple[float, float, float]], diameter_px: float) -> Spots:
    table = np.array(found, dtype=np.float64).reshape(-1, 3)
    return Spots(
        centres=table[:, :2],
        coverage=table[:, 2],
        diameters=np.full(len(table), diameter_px),
    )


def _vacant(lattice: Lattice) -> NDArray[np.float64]:
    """(N, 2) x, y where cores of the grid should lie and none was found, pixels of the view."""
    cells = lattice.placed.cells[lattice.chosen]
    if not len(cells):
        return np.zeros((0, 2))
    taken = {(int(x), int(y)) for x, y in cells}
    columns, rows = np.unique(cells[:, 0]), np.unique(cells[:, 1])
    vacant = np.array([(x, y) for y in rows for x in columns if (int(x), int(y)) not in taken])
    if not len(vacant):
        return np.zeros((0, 2))
    field = lattice.placed.field
    offsets, _ = field.predict(vacant + field.offsets.mean(axis=0))
    return np.asarray((vacant + offsets) @ lattice.steps.T)


class _Look:
    """How much darker than the ring around it a disc is, everywhere on the overview."""

    def __init__(self, view: View, lattice: Lattice, diameter_px: float) -> None:
        assert view.density is not None
        self.radius = diameter_px / 2
        density = np.minimum(view.density, DARKEST)
        self.smooth = cv2.GaussianBlur(density, (0, 0), diameter_px / 16)
        around = _around(density.shape, lattice)  # glass elsewhere may be cleaner
        self.noise = _spread(self.smooth[~view.mask & around])
        self.free = _without_cores(density.shape, lattice)
        reach = int(np.ceil(1.6 * self.radius))
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        apart = np.hypot(x, y)
        disc = (apart <= 0.9 * self.radius).astype(np.float32)
        ring = ((apart > 1.15 * self.radius) & (apart <= 1.6 * self.radius)).astype(np.float32)
        free = self.free.astype(np.float32)
        in_disc, in_ring = _sum(free, disc), _sum(free, ring)
        self.contrast = _sum(density * free, disc) / np.maximum(in_disc, 1) - _sum(
            density * free, ring
        ) / np.maximum(in_ring, 1)
        hidden = (in_disc < 0.8 * disc.sum()) | (in_ring < 0.25 * ring.sum())
        self.contrast[hidden] = -1
        self.least = CLEAR * _spread(self.contrast[~hidden & around])
        self.seen = _sum(view.mask.astype(np.float32), disc) / disc.sum()

    def at(self, x: float, y: float, reach: int) -> tuple[float, float, float] | None:
        """The pale core near a place: x, y, and the share of its disc that is tissue."""
        column, row = round(x), round(y)
        height, width = self.contrast.shape
        if not (reach <= column < width - reach and reach <= row < height - reach):
            return None
        window = self.contrast[row - reach : row + reach + 1, column - reach : column + reach + 1]
        down, along = np.unravel_index(int(np.argmax(window)), window.shape)
        cy, cx = row - reach + int(down), column - reach + int(along)
        if self.contrast[cy, cx] < max(self.least, 1e-6) or self.seen[cy, cx] > UNSEEN:
            return None
        share = self._filled(cy, cx)
        return (float(cx), float(cy), share) if share >= FILLED else None

    def _filled(self, cy: int, cx: int) -> float:
        rows, columns = np.ogrid[: self.free.shape[0], : self.free.shape[1]]
        apart = np.hypot(columns - cx, rows - cy)
        disc = (apart <= 0.9 * self.radius) & self.free
        ring = (apart > 1.15 * self.radius) & (apart <= 1.6 * self.radius) & self.free
        ground = self.smooth[ring]
        cut = float(np.median(ground)) + 2.5 * max(_spread(ground), self.noise)
        return float((self.smooth[disc] > cut).mean())


def _around(shape: tuple[int, ...], lattice: Lattice) -> NDArray[np.bool_]:
    """(H, W) the box of the grid and a step around it."""
    centres = lattice.spots.centres[lattice.chosen]
    step = float(np.abs(lattice.steps).max())
    (left, top), (right, bottom) = centres.min(axis=0) - step, centres.max(axis=0) + step
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right))


def _without_cores(shape: tuple[int, ...], lattice: Lattice) -> NDArray[np.bool_]:
    """(H, W) what lies on no spot that was found."""
    taken = np.zeros(shape, np.uint8)
    spots = lattice.spots
    for (x, y), coverage, diameter in zip(
        spots.centres, spots.coverage, spots.diameters, strict=True
    ):
        if coverage >= 0.3:
            cv2.circle(taken, (round(x), round(y)), round(0.62 * diameter), 1, cv2.FILLED)
    return np.asarray(taken == 0)


def _sum(values: Floats, kernel: Floats) -> Floats:
    summed = cv2.filter2D(values, -1, kernel, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(summed, dtype=np.float32)


def _spread(values: Floats) -> float:
    """Standard deviation, by the median of the distances from the median."""
    if not values.size:
        return 0.0
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
