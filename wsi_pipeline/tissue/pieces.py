"""Connected pieces of a mask: by area, and judged against the glass around them.

Pale tissue is tissue wherever it lies. What tells a pale piece from smears, mucus and the rims of
bubbles is that nearly all of it differs from the glass around it, and that it has texture: measured
on pale liver and on the debris of a PAS slide, three quarters of a piece of tissue are at least
17.8 from the glass around in CIE Lab, of a piece of debris at most 14.9.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tissue.ink import disc
from wsi_pipeline.types import Mask, RgbImage

TISSUE_DISTANCE: Final = 16.0  # CIE Lab: three quarters of a piece of tissue are so far from glass
TISSUE_TEXTURE: Final = 0.4  # lightness, CIE Lab: median of what a blur by 2 px takes away
TEXTURE_OF_GLASS: Final = 2.0  # times that of the glass around, at least
RING_PX: Final = (4, 20)  # where the glass around a piece is looked for
FEW_PX: Final = 20  # of a ring, from which no colour is told
WHITE: Final = (100.0, 0.0, 0.0)

Labels = NDArray[np.int32]


class Pieces:
    """The connected pieces of a mask. Only the mask's own pixels are counted and looked up.

    Args:
        mask: (H, W) bool.
        connectivity: 4 or 8.

    Attributes:
        areas: (n,) int64, pixels of each piece.
    """

    def __init__(self, mask: Mask, connectivity: int) -> None:
        count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=connectivity)
        self._mask = mask
        self._count = count
        self._piece = np.asarray(labels)[mask]  # of each pixel of the mask, from 1
        self.areas = np.bincount(self._piece, minlength=count)[1:]

    def areas_of(self, part: Mask) -> NDArray[np.int64]:
        """Return (n,): how many pixels of each piece lie in ``part``, (H, W) bool."""
        return np.bincount(self._piece[part[self._mask]], minlength=self._count)[1:]

    def keep(self, chosen: NDArray[np.bool_]) -> Mask:
        """Return (H, W) bool: the pieces that are chosen, (n,) bool."""
        kept = np.zeros_like(self._mask)
        kept[self._mask] = np.append(False, chosen)[self._piece]
        return kept


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece, seen against the glass around it.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the overview.
        mask: (y1 - y0, x1 - x0) bool.
        distance: CIE Lab distance from the glass that three quarters of the piece exceed.
        texture: Median of the fine contrast in it, lightness of CIE Lab.
        glass_texture: The same of the glass around it.
    """

    box: tuple[int, int, int, int]
    mask: Mask
    distance: float
    texture: float
    glass_texture: float

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)

    @property
    def shortcoming(self) -> str | None:
        """Why the piece is no tissue; None if it is."""
        if self.distance < TISSUE_DISTANCE:
            return f"hardly unlike glass: colour distance {self.distance:.1f} < {TISSUE_DISTANCE:g}"
        least = max(TISSUE_TEXTURE, TEXTURE_OF_GLASS * self.glass_texture)
        if self.texture < least:
            return f"without texture: {self.texture:.1f} < {least:.1f}"
        return None


def seen_pieces(
    balanced: RgbImage, candidates: Mask, empty: Mask, least_px: float
) -> Iterator[Piece]:
    """Yield the pieces of ``candidates`` of at least ``least_px``, each seen against its glass.

    Args:
        balanced: (H, W, 3) uint8, an overview whose glass was made white.
        candidates: (H, W) bool.
        empty: (H, W) bool, what is glass beyond doubt.
        least_px: Area of the smallest.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        candidates.view(np.uint8), connectivity=8
    )
    for index in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= least_px).tolist():
        if index:
            x, y, width, height = stats[index, :4].tolist()
            yield _seen(balanced, empty, np.asarray(labels), index, (x, y, width, height))


def _seen(
    balanced: RgbImage, empty: Mask, labels: Labels, index: int, box: tuple[int, int, int, int]
) -> Piece:
    x, y, width, height = box
    margin = RING_PX[1]
    top, left = max(0, y - margin), max(0, x - margin)
    near = (slice(top, y + height + margin), slice(left, x + width + margin))
    piece = labels[near] == index
    lab = cv2.cvtColor(balanced[near].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    fine = cv2.absdiff(lab[..., 0], cv2.GaussianBlur(lab[..., 0], (0, 0), 2.0))
    ring = _ring(piece) & empty[near]
    known = np.count_nonzero(ring) >= FEW_PX
    glass = np.median(lab[ring], axis=0) if known else np.array(WHITE, np.float32)
    distances = np.linalg.norm(lab[piece] - glass, axis=1)
    return Piece(
        box=(x, y, x + width, y + height),
        mask=piece[y - top : y - top + height, x - left : x - left + width],
        distance=float(np.percentile(distances, 25)),
        texture=float(np.median(fine[piece])),
        glass_texture=float(np.median(fine[ring])) if known else 0.0,
    )


def _ring(piece: Mask) -> Mask:
    near, far = (cv2.dilate(piece.view(np.uint8), disc(radius)) for radius in RING_PX)
    return np.asarray(far > near, np.bool_)
