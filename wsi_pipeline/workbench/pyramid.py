"""Slides as a browser asks for them: square tiles of a pyramid of twos, whatever levels they have.

As in Microsoft's Deep Zoom, level ``L`` has the slide's own pixels, each level before it half as
many a side, and level 0 is one pixel. Tiles do not overlap.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Final

import cv2
import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.settings import usable_cores
from wsi_pipeline.slides import Slide, open_slide
from wsi_pipeline.types import Modality, RgbImage
from wsi_pipeline.workbench.coarse import Coarse, Kept
from wsi_pipeline.workbench.shrunk import SAME, Shrunk

SIDE: Final = 256  # px of a tile
FAR: Final = 16.0  # no level near: a tile is cut from a picture of the whole …
FAR_WHOLE: Final = 8.0  # … where a level cannot be decoded to a fraction of its size
NEAR: Final = 4.0  # … already from here where that picture is as fine as is asked
SKETCH_PX: Final = 4096  # a side: of levels that are finer no sketch is shown
MOST_OPEN: Final = 6  # slides kept open
MOST_THREADS: Final = 4  # that decode for one tile


def levels_of(size: tuple[int, int]) -> int:
    """Return the number of the level that has a slide's own pixels."""
    return max(0, math.ceil(math.log2(max(size))))


class OpenedSlide:
    """A slide between requests; several threads may cut tiles from it.

    Args:
        slide: It is closed with this.
        kept: Where its picture of the whole is kept between visits.
    """

    def __init__(self, slide: Slide, kept: Kept | None = None) -> None:
        self.slide = slide
        self.users = 0
        self.coarse = Coarse(slide, kept)
        last = len(slide.level_downsamples) - 1
        self._far = FAR if Shrunk.of(slide, last, NEAR).factor > 1 else FAR_WHOLE

    def tile(self, level: int, column: int, row: int) -> RgbImage | None:
        """Return a tile, (h, w, 3) uint8, at most ``SIDE`` px each way; None if there is none.

        Raises:
            SlideReadError: Its pixels cannot be decoded.
        """
        width, height = self.slide.dimensions
        top = levels_of((width, height))
        if not 0 <= level <= top or column < 0 or row < 0:
            return None
        scale = 2 ** (top - level)
        wide = min(SIDE, math.ceil(width / scale) - column * SIDE)
        high = min(SIDE, math.ceil(height / scale) - row * SIDE)
        if wide <= 0 or high <= 0:
            return None
        self.coarse.asked()
        downsamples = self.slide.level_downsamples
        nearest = max(i for i, each in enumerate(downsamples) if i == 0 or each <= scale * SAME)
        ratio = scale / downsamples[nearest]
        if self.sketched(level) or (ratio > NEAR and self.coarse.whole and self._is_finer(scale)):
            corner = (column * SIDE, row * SIDE)
            return _resized(self.coarse.cut(corner, (wide, high), scale), (wide, high))
        source = Shrunk.of(self.slide, nearest, ratio if ratio >= NEAR else 1.0)
        ratio /= source.factor
        x, y = round(column * SIDE * ratio), round(row * SIDE * ratio)
        size = (max(1, round(wide * ratio)), max(1, round(high * ratio)))
        return _resized(source.read(x, y, *size), (wide, high))

    def sketched(self, level: int) -> bool:
        """Whether a level is so far from the slide's own that it comes from one small picture."""
        scale = 2 ** (levels_of(self.slide.dimensions) - level)
        ratio = scale / max(self.slide.level_downsamples)
        is_small = max(self.slide.dimensions) <= SKETCH_PX * scale * SAME
        return bool(ratio > self._far or (ratio > NEAR and is_small and self._is_finer(scale)))

    def warm(self) -> None:
        """Do now what the first tile of the whole slide will wait for.

        Raises:
            SlideReadError: Its pixels cannot be decoded.
        """
        if self.sketched(0):
            self.coarse.begin()

    def close(self) -> None:
        """Close the slide."""
        self.coarse.stop()
        self.slide.close()

    def _is_finer(self, scale: int) -> bool:
        return self.coarse.downsample <= scale * SAME


def _resized(rgb: RgbImage, size: tuple[int, int]) -> RgbImage:
    if rgb.shape[1::-1] == size:
        return rgb
    if not rgb.size:
        return np.full((size[1], size[0], 3), 255, np.uint8)
    smaller = rgb.shape[1] >= size[0] and rgb.shape[0] >= size[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, size, interpolation=how), np.uint8)


@dataclass(frozen=True)
class SlideFile:
    """A slide's file, and how it is read."""

    path: str
    reader: str = "auto"
    modality: Modality = "slide"


class OpenSlides:
    """Slides that are open, the longest unused closed when there are too many."""

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._lock = Lock()
        self._open: OrderedDict[SlideFile, OpenedSlide] = OrderedDict()
        self._warming: list[Thread] = []

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def use(self, file: SlideFile) -> Iterator[OpenedSlide]:
        """Open a slide, or take it as it is; it stays open for the block at least.

        Raises:
            SlideOpenError: It cannot be opened.
        """
        opened = self._take(file)
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1

    def warm(self, file: SlideFile) -> None:
        """Open a slide in the background; who asks for it next learns what is wrong with it."""

        def work() -> None:
            with suppress(SlideError), self.use(file) as opened:
                opened.warm()

        thread = Thread(target=work, daemon=True)
        self._warming = [*filter(Thread.is_alive, self._warming), thread]
        thread.start()

    def close(self) -> None:
        """Close all of them."""
        for thread in self._warming:
            thread.join()
        with self._lock:
            for opened in self._open.values():
                opened.close()
            self._open.clear()

    def _take(self, file: SlideFile) -> OpenedSlide:
        with self._lock:  # opening takes milliseconds; two that open one slide would waste more
            opened = self._open.get(file)
            if opened is None:
                threads = min(MOST_THREADS, usable_cores())
                found = open_slide(file.path, file.reader, threads, modality=file.modality)
                opened = self._open[file] = OpenedSlide(found, Kept.of(found))
            self._open.move_to_end(file)
            opened.users += 1
            for other in [key for key, each in self._open.items() if not each.users]:
                if len(self._open) <= self._most:
                    break
                self._open.pop(other).close()
            return opened
