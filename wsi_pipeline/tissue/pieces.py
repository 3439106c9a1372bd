"""Connected pieces of a mask, by area.

Glass is most of an overview, so only the mask's own pixels are counted and looked up.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import Mask


class Pieces:
    """The connected pieces of a mask.

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
