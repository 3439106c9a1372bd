"""Flat images turned so that their tissue lies along an axis, and cores so that their rows do.

Only what can be decoded whole is turned, so that one rotation of all pixels does it. Tiles of a
pyramid cannot be turned one by one without losing what they are: squares of the scan at known
level-0 places that meet their neighbours. For those the tilt is recorded, and nothing else.

Coordinates of a turned core stay level-0 pixels around the core, in a frame turned with the
microarray's rows, so the core's square and the circle inscribed in it are the same as before.
"""

from dataclasses import replace
from threading import Lock
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slides import Slide, SlideReader, read_low
from wsi_pipeline.tiles.settings import OVERVIEW_MPP, SlideRequest, TileSettings
from wsi_pipeline.tissue import background_colour, find_tissue, tissue_tilt
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


LONGEST_PX: Final = 32_000  # OpenCV rotates no larger images
LONGEST_CORE_PX: Final = 10_000  # of level 0: 2.5 mm at 0.25 µm/px, 0.8 GB to turn
LEAST_ANGLE_DEG: Final = 0.5  # turning costs some sharpness
OVERVIEW_PX: Final = 1024  # where the resolution is unknown
FLAT: Final = "image"  # name of the reader of flat images


class StraightSlide(SlideReader):
    """A flat image, turned about its centre on a canvas that holds all of it.

    Attributes:
        info: As of the image, with the size of the canvas.
        angle_deg: By how far it was turned, clockwise as seen; negative is counter-clockwise.
        matrix: (2, 3) float64, takes (x, y, 1) of the image to (x, y) of the canvas.
    """

    def __init__(self, slide: Slide, angle_deg: float, fill: NDArray[np.float64]) -> None:
        width, height = slide.info.dimensions
        self.angle_deg = angle_deg
        self.matrix, size = _turn(width, height, angle_deg)
        pixels = slide.read(0, 0, 0, width, height)
        turned = cv2.warpAffine(
            pixels, self.matrix, size, flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_CONSTANT, borderValue=tuple(map(float, fill)),
        )  # fmt: skip
        self._pixels: RgbImage = np.asarray(turned, np.uint8)
        self._slide = slide
        self.info = replace(
            slide.info,
            level_dimensions=(size,),
            bounds=Region(x=0, y=0, width=size[0], height=size[1]),
        )

    def read_inside(self, _level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        return self._pixels[y : y + height, x : x + width].copy()

    def read_associated(self, _name: str) -> RgbImage:
        raise SlideReadError(f"{self.info.path}: a flat picture has no associated images.")

    def close(self) -> None:
        self._slide.close()

    def to_attributes(self) -> dict[str, Any]:
        """Return what a tile store says: the angle, and how to get from the file to its coords."""
        return {"angle_deg": self.angle_deg, "matrix": self.matrix.tolist()}


def straighten(slide: Slide, settings: TileSettings, request: SlideRequest) -> Slide:
    """Return the slide turned, or itself where that is not asked for or not possible.

    Closing what is returned closes ``slide``; on an error it is closed already.

    Raises:
        SlideReadError: The image cannot be decoded.
    """
    if not settings.straighten or not can_turn(slide, request):
        return slide
    if request.region is not None:
        tilt = request.tilt_deg or 0.0
        straight = abs(tilt) < LEAST_ANGLE_DEG
        return slide if straight else TurnedCore(slide, request.region, -tilt)
    try:
        return _straight(slide, settings, request)
    except BaseException:
        slide.close()
        raise


def _straight(slide: Slide, settings: TileSettings, request: SlideRequest) -> Slide:
    overview = read_low(slide, 1.0, max(1.0, max(slide.info.dimensions) / OVERVIEW_PX))
    mpp = request.mpp_given(settings) or slide.info.mpp or settings.mpp_default
    um_per_px = OVERVIEW_MPP if mpp is None else mpp * overview.downsample
    tilt = tissue_tilt(find_tissue(overview.rgb, um_per_px, settings.tissue_method).mask)
    if not tilt.has_direction or abs(tilt.angle_deg) < LEAST_ANGLE_DEG:
        return slide
    return StraightSlide(slide, -tilt.angle_deg, background_colour(overview.rgb)[0])


def can_turn(slide: Slide, request: SlideRequest) -> bool:
    """Whether this is a core whose microarray's tilt is known, or a whole flat image that fits."""
    if request.region is not None:
        longest = max(request.region.width, request.region.height)
        return request.tilt_deg is not None and longest <= LONGEST_CORE_PX
    return slide.info.reader == FLAT and max(slide.info.dimensions) <= LONGEST_PX


def _turn(width: int, height: int, angle_deg: float) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return the (2, 3) matrix of a clockwise turn about the centre, and the canvas's size."""
    matrix = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), -angle_deg, 1.0))
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    across = int(np.ceil(width * cosine + height * sine))
    down = int(np.ceil(width * sine + height * cosine))
    matrix[:, 2] += (across - width) / 2, (down - height) / 2
    return matrix.astype(np.float64), (across, down)
