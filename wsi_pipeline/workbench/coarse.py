"""A whole slide in one small picture, where no level of it is small.

A slide of 100,000 × 100,000 px whose coarsest level has 25,000 takes seconds to be averaged. Until
that is done in the background there is a sketch: the mean of small squares, spread evenly. Whoever
asks for tiles meanwhile goes first. What was averaged is kept for the next visit.
"""

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Final, Self

import cv2
import numpy as np
import simplejpeg

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.digests import digest_of
from wsi_pipeline.errors import WsiError
from wsi_pipeline.mirror_settings import cache_folder
from wsi_pipeline.slides import Slide
from wsi_pipeline.types import RgbImage
from wsi_pipeline.workbench.shrunk import Shrunk

CANVAS_PX: Final = 6400  # of the picture's longer side, at most: a sixteenth of 100,000
STEP: Final = 4  # between it and the smaller one, of which the coarsest tiles are cut
AT_ONCE_PX: Final = 32e6  # of the coarsest level: so many are averaged while one waits
SQUARES: Final = 16  # of a sketch, a side
SQUARE_PX: Final = 32
NATIVE_PX: Final = 256  # of most files' tiles: a square in the middle of one needs no other
STRIP_PX: Final = 6e6  # of the level, read at a time
QUIET_S: Final = 0.15  # since a tile was asked for; then averaging goes on …
PATIENCE_S: Final = 0.4  # … as it does after so long in any case
KEPT_QUALITY: Final = 92
MOST_KEPT: Final = 60  # pictures of some 10 MB; the longest unused goes


@dataclass(frozen=True)
class Kept:
    """Where a slide's picture is kept between visits.

    Attributes:
        path: A JPEG, whose name depends on the file's place, size and time.
    """

    path: Path

    @classmethod
    def of(cls, slide: Slide) -> Self | None:
        """Return the place; None of a slide that is no single file of this machine."""
        file = Path(slide.info.path)
        try:
            about = file.stat()
            if not file.is_file():
                return None
            said = (str(file.resolve()), about.st_size, about.st_mtime_ns, slide.info.reader)
        except OSError:
            return None
        name = digest_of(repr((*said, CANVAS_PX)).encode())
        return cls(cache_folder() / "overviews" / f"{name}.jpg")

    def read(self) -> RgbImage | None:
        """Return the picture; None where there is none, or a damaged one."""
        with suppress(OSError, ValueError):
            picture: RgbImage = simplejpeg.decode_jpeg(self.path.read_bytes(), "RGB")
            self.path.touch()
            return picture
        return None

    def write(self, picture: RgbImage) -> None:
        """Keep it, for this user alone to read; where nothing can be written it is made anew."""
        with suppress(OSError, WsiError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = simplejpeg.encode_jpeg(picture, KEPT_QUALITY, "RGB", "420")
            with atomic_file(self.path) as partial:
                partial.write_bytes(data)
            used = sorted(self.path.parent.glob("*.jpg"), key=lambda each: each.stat().st_mtime)
            for old in used[:-MOST_KEPT]:
                old.unlink(missing_ok=True)


class Coarse:
    """The picture, white where nothing was scanned; safe to ask from several threads.

    Args:
        slide: Of what.
        kept: Where it was kept, or will be; None: nowhere.
    """

    def __init__(self, slide: Slide, kept: Kept | None = None) -> None:
        self._kept = kept
        width, height = slide.dimensions
        level = len(slide.level_downsamples) - 1
        self.downsample = max(slide.level_downsamples[level], max(width, height) / CANVAS_PX)
        self._source = Shrunk.of(slide, level, self.downsample / slide.level_downsamples[level])
        self._decoded_px = math.prod(slide.level_dimensions[level])
        self._shape = (math.ceil(height / self.downsample), math.ceil(width / self.downsample), 3)
        self._canvas: RgbImage | None = None  # once it is whole
        self._small: RgbImage | None = None  # a STEP-th of it; before that the sketch
        self._rows = 0  # of the canvas that are averaged
        self._begun = False
        self._asked = 0.0  # when, by a clock that only goes forward
        self._lock = Lock()
        self._stopped = Event()
        self._thread: Thread | None = None
        self.failed: str | None = None

    @property
    def share(self) -> float:
        """How much of it is averaged; above 0 once there is a sketch."""
        return max(0.01 * self._begun, self._rows / self._shape[0])

    @property
    def whole(self) -> bool:
        """Whether all of it is."""
        return self._canvas is not None

    def cut(self, corner: tuple[int, int], size: tuple[int, int], scale: float) -> RgbImage:
        """Return a part: ``size`` pixels of ``scale`` level-0 pixels each, at such a corner.

        Raises:
            SlideReadError: Its pixels cannot be decoded.
        """
        self.begin()
        ratio, canvas = scale / self.downsample, self._canvas
        if canvas is None or ratio >= 2 * STEP:
            ratio, canvas = ratio / STEP, self._small
        assert canvas is not None
        x, y = (round(each * ratio) for each in corner)
        wide, high = (max(1, round(each * ratio)) for each in size)
        return np.ascontiguousarray(canvas[y : y + high, x : x + wide])

    def asked(self) -> None:
        """Say that somebody waits for pixels of the slide: averaging is put off a little."""
        self._asked = time.monotonic()

    def stop(self) -> None:
        """Leave off; the slide is about to be closed."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def begin(self) -> None:
        """Make the picture, or a sketch of it now and the picture in the background.

        Raises:
            SlideReadError: Its pixels cannot be decoded.
        """
        with self._lock:
            if self._begun:
                return
            if self._decoded_px <= AT_ONCE_PX:
                self._average()
            elif not self._recall():
                self._sketch()
                self._thread = Thread(target=self._average_later, daemon=True)
                self._thread.start()
            self._begun = True

    def _recall(self) -> bool:
        """Take the picture as it was kept at an earlier visit."""
        picture = None if self._kept is None else self._kept.read()
        if picture is None or picture.shape != self._shape:
            return False
        self._finish(picture)
        return True

    def _finish(self, picture: RgbImage) -> None:
        size = picture[::STEP, ::STEP].shape[1::-1]
        self._small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
        self._canvas = picture
        self._rows = len(picture)

    def _sketch(self) -> None:
        """Make the small picture of colours, of which there are few."""
        factor = self._source.factor
        side = max(1, SQUARE_PX // factor)
        across, down = (_middles(each, NATIVE_PX // factor, side) for each in self._source.size)
        colours = np.array([
            [self._source.read(x, y, side, side).mean(axis=(0, 1)) for x in across] for y in down
        ])  # fmt: skip
        high, wide = (-(-each // STEP) for each in self._shape[:2])
        sketch = cv2.resize(colours.astype(np.uint8), (wide, high), interpolation=cv2.INTER_LINEAR)
        self._small = np.asarray(sketch)

    def _average_later(self) -> None:
        try:
            self._average()
            if self._kept is not None and self._canvas is not None:
                self._kept.write(self._canvas)
        except WsiError as error:  # the sketch stays; tiles close by say what is wrong where it is
            self.failed = str(error)

    def _average(self) -> None:
        (width, height), canvas = self._source.size, np.empty(self._shape, np.uint8)
        rows = self._source.factor**-2 * STRIP_PX / width  # of the source
        step = max(1, int(rows / (height / len(canvas))))  # rows of the canvas
        for top in range(0, len(canvas), step):
            self._give_way()
            if self._stopped.is_set():
                return
            bottom = min(len(canvas), top + step)
            first, last = (round(row * height / len(canvas)) for row in (top, bottom))
            rgb = self._source.read(0, first, width, max(1, last - first))
            size = (canvas.shape[1], bottom - top)
            canvas[top:bottom] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
            self._rows = bottom
        self._finish(canvas)

    def _give_way(self) -> None:
        """Wait while somebody else does, where this is the background."""
        end = time.monotonic() + PATIENCE_S
        while self._thread is not None and time.monotonic() < end:
            if time.monotonic() - self._asked > QUIET_S or self._stopped.wait(QUIET_S / 5):
                return


def _middles(length: int, tile: int, side: int) -> list[int]:
    """Return where squares of a ``side`` begin, spread evenly, each in the middle of a tile."""
    found = []
    for n in range(SQUARES):
        number = int((n + 0.5) * length / SQUARES / tile)
        found.append(min(number * tile + (tile - side) // 2, max(0, length - side)))
    return found
