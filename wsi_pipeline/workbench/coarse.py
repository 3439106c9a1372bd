"""A whole slide in one small picture, where no level of it is small.

A slide of 100,000 × 100,000 px whose coarsest level has 25,000 takes seconds to be averaged. Until
that is done in the background there is a sketch: the mean of small squares, spread evenly.
"""

import math
from threading import Event, Lock, Thread
from typing import Final

import cv2
import numpy as np

from wsi_pipeline.errors import WsiError
from wsi_pipeline.slides import Slide
from wsi_pipeline.types import RgbImage

CANVAS_PX: Final = 4096  # of the picture's longer side, at most
AT_ONCE_PX: Final = 32e6  # of the coarsest level: so many are averaged while one waits
SQUARES: Final = 24  # of a sketch, a side
SQUARE_PX: Final = 32
STRIP_PX: Final = 16e6  # of the level, read at a time


class Coarse:
    """The picture, white where nothing was scanned; safe to ask from several threads."""

    def __init__(self, slide: Slide) -> None:
        width, height = slide.dimensions
        self._slide = slide
        self._level = len(slide.level_downsamples) - 1
        self._size = slide.info.level_dimensions[self._level]
        self.downsample = max(1.0, max(width, height) / CANVAS_PX)
        shape = (math.ceil(height / self.downsample), math.ceil(width / self.downsample), 3)
        self._canvas = np.full(shape, 255, np.uint8)
        self._rows = 0  # of the canvas that are averaged
        self._begun = False
        self._lock = Lock()
        self._stopped = Event()
        self._thread: Thread | None = None
        self.failed: str | None = None

    @property
    def share(self) -> float:
        """How much of it is averaged; above 0 once there is a sketch."""
        return max(0.01 * self._begun, self._rows / len(self._canvas))

    @property
    def whole(self) -> bool:
        """Whether all of it is."""
        return self._rows == len(self._canvas)

    def cut(self, corner: tuple[int, int], size: tuple[int, int], scale: float) -> RgbImage:
        """Return a part: ``size`` pixels of ``scale`` level-0 pixels each, at such a corner.

        Raises:
            SlideReadError: Its pixels cannot be decoded.
        """
        self._begin()
        ratio = scale / self.downsample
        x, y = (round(each * ratio) for each in corner)
        wide, high = (max(1, round(each * ratio)) for each in size)
        return self._canvas[y : y + high, x : x + wide]

    def stop(self) -> None:
        """Leave off; the slide is about to be closed."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _begin(self) -> None:
        with self._lock:
            if self._begun:
                return
            if math.prod(self._size) <= AT_ONCE_PX:
                self._average()
            else:
                self._sketch()
                self._thread = Thread(target=self._average_later, daemon=True)
                self._thread.start()
            self._begun = True

    def _sketch(self) -> None:
        """Fill the picture with colours, of which there are few."""
        width, height = self._size
        columns = [int((n + 0.5) * width / SQUARES - SQUARE_PX / 2) for n in range(SQUARES)]
        rows = [int((n + 0.5) * height / SQUARES - SQUARE_PX / 2) for n in range(SQUARES)]
        colours = np.array([
            [self._slide.read(self._level, x, y, SQUARE_PX, SQUARE_PX).mean(axis=(0, 1))
             for x in columns] for y in rows
        ])  # fmt: skip
        size = self._canvas.shape[1::-1]
        self._canvas[:] = cv2.resize(colours.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)

    def _average_later(self) -> None:
        try:
            self._average()
        except WsiError as error:  # the sketch stays; tiles close by say what is wrong where it is
            self.failed = str(error)

    def _average(self) -> None:
        (width, height), canvas = self._size, self._canvas
        step = max(1, int(STRIP_PX / width / (height / len(canvas))))  # rows of the canvas
        for top in range(0, len(canvas), step):
            if self._stopped.is_set():
                return
            bottom = min(len(canvas), top + step)
            first, last = (round(row * height / len(canvas)) for row in (top, bottom))
            rgb = self._slide.read(self._level, 0, first, width, max(1, last - first))
            size = (canvas.shape[1], bottom - top)
            canvas[top:bottom] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
            self._rows = bottom
