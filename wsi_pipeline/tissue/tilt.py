"""Which way the tissue lies."""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from wsi_pipeline.types import Mask

LEAST_ELONGATION: Final = 1.3  # rounder tissue has no direction worth turning for


@dataclass(frozen=True, kw_only=True)
class Tilt:
    """Direction of a tissue mask's main axis.

    Attributes:
        angle_deg: From the nearest image axis, in [-45, 45]; positive turns the x axis towards y,
            that is clockwise as seen.
        elongation: Spread along the main axis over that across it; 1 for a disc.
    """

    angle_deg: float
    elongation: float

    @property
    def has_direction(self) -> bool:
        """Whether the tissue is long enough for its angle to mean something."""
        return self.elongation >= LEAST_ELONGATION


def tissue_tilt(mask: Mask) -> Tilt:
    """Measure the main axis of the whole tissue: the first principal component of its pixels.

    Several pieces count as one, so what is measured of scattered cores is how they are laid out.

    Args:
        mask: (H, W) bool; an empty one lies straight.
    """
    moments = cv2.moments(mask.astype(np.uint8), binaryImage=True)
    if not moments["m00"]:
        return Tilt(angle_deg=0.0, elongation=1.0)
    xx, yy, xy = (moments[name] / moments["m00"] for name in ("mu20", "mu02", "mu11"))
    half = math.hypot((xx - yy) / 2, xy)
    along, across = (xx + yy) / 2 + half, (xx + yy) / 2 - half
    angle = math.degrees(math.atan2(2 * xy, xx - yy) / 2)
    angle -= 90 * round(angle / 90)
    return Tilt(angle_deg=angle, elongation=math.sqrt(along / max(across, 1e-9)))
