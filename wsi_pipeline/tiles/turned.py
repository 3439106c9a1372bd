"""A core of a microarray seen upright: its surroundings turned about its centre.

Coordinates stay level-0 pixels around the core, in a frame turned with the microarray's rows, so
the core's square and the circle inscribed in it are the same as before.
"""

from dataclasses import replace
from threading import Lock
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.slides import Slide, SlideReader
from wsi_pipeline.types import Region, RgbImage

REACH: Final = 1.6  # of the region's sides, so that nothing of the square's surroundings is missed


class TurnedCore(SlideReader):
    """A slide of which the surroundings of one region are turned about the region's centre.

    Whatever lies farther away than ``REACH`` reads as white. Each level is turned once, when it is
    first read, by bicubic interpolation: a pixel does not depend on the block it is read in.

    Attributes:
        info: As of the slide.
        angle_deg: By how far the pixels were turned, clockwise as seen.
        matrix: (2, 3) float64, takes level-0 (x, y, 1) of the file to (x, y) of the tiles' coords.
    """

    def __init__(self, slide: Slide, region: Region, angle_deg: float) -> None:
        self.info = slide.info
        self.angle_deg = angle_deg
        centre = (region.x + region.width / 2, region.y + region.height / 2)
        self.matrix: NDArray[np.float64] = cv2.getRotationMatrix2D(centre, -angle_deg, 1.0)
        self._slide = slide
        self._area = _grown(region)
        self._levels: dict[int, tuple[RgbImage, int, int]] = {}
        self._lock = Lock()

    def read_inside(self, level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        pixels, left, top = self._turned(level)
        rows, columns = pixels.shape[:2]
        white = np.full((height, width, 3), 255, np.uint8)
        x0, x1 = max(x, left), min(x + width, left + columns)
        y0, y1 = max(y, top), min(y + height, top + rows)
        if x0 < x1 and y0 < y1:
            part = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
            white[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return white

    def read_associated(self, name: str) -> RgbImage:
        return self._slide.associated_image(name)

    def close(self) -> None:
        self._levels.clear()
        self._slide.close()

    def to_attributes(self) -> dict[str, Any]:
        """Return what a tile store says: the angle, and how to get from the file to its coords."""
        return {"angle_deg": self.angle_deg, "matrix": self.matrix.tolist()}

    def _turned(self, level: int) -> tuple[RgbImage, int, int]:
        """Return a level's turned pixels and where their top-left corner lies on the level."""
        with self._lock:  # threads that need the same level wait for the one that turns it
            if level not in self._levels:
                self._levels[level] = self._turn(level)
            return self._levels[level]

    def _turn(self, level: int) -> tuple[RgbImage, int, int]:
        downsample = self.info.level_downsamples[level]
        x, y, width, height = (
            round(value / downsample)
            for value in (self._area.x, self._area.y, self._area.width, self._area.height)
        )
        pixels = self._slide.read(level, x, y, width, height)
        matrix = self.matrix.copy()
        # the same turn, from pixel centres of the picture read to pixel centres of itself
        origin = (np.array([x, y]) + 0.5) * downsample
        matrix[:, 2] = (self.matrix @ (*origin, 1) - origin) / downsample
        turned = cv2.warpAffine(
            pixels, matrix, (width, height), flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_CONSTANT, borderValue=(255, 255, 255),
        )  # fmt: skip
        return np.asarray(turned, np.uint8), x, y


def _grown(region: Region) -> Region:
    """The region and, on each side, what comes into its surroundings when it is turned."""
    add_x, add_y = (round((REACH - 1) / 2 * side) for side in (region.width, region.height))
    return replace(
        region,
        x=region.x - add_x,
        y=region.y - add_y,
        width=region.width + 2 * add_x,
        height=region.height + 2 * add_y,
    )
