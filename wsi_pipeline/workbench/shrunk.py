"""A level of a slide, decoded to a fraction of its size where the file allows that.

To average 4096 × 4096 px into one tile nobody needs all of them: libjpeg gives an eighth of a
picture from the means of its blocks, in less than half of the time.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from wsi_pipeline.slides import Slide, SlideReader
from wsi_pipeline.types import RgbImage

FACTORS: Final = (8, 4, 2)
SAME: Final = 1.01  # scales that differ by less are one


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """A level at a whole fraction of its size.

    Attributes:
        slide, level: Of what.
        factor: The fraction; 1 where nothing is to be gained.
    """

    slide: Slide
    level: int
    factor: int

    @classmethod
    def of(cls, slide: Slide, level: int, ratio: float) -> Self:
        """Return the smallest that still has a pixel for each that is asked for.

        Args:
            slide, level: Of what.
            ratio: Pixels of the level to one that is asked for.
        """
        for factor in FACTORS:
            fits = factor <= ratio * SAME and factor <= min(slide.level_dimensions[level])
            if fits and isinstance(slide, SlideReader) and slide.reduced(level, factor) is not None:
                return cls(slide=slide, level=level, factor=factor)
        return cls(slide=slide, level=level, factor=1)

    @property
    def downsample(self) -> float:
        """Level-0 pixels to a pixel."""
        return self.slide.level_downsamples[self.level] * self.factor

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        width, height = self.slide.level_dimensions[self.level]
        return width // self.factor, height // self.factor

    def read(self, x: int, y: int, width: int, height: int) -> RgbImage:
        """Return (height, width, 3) uint8; less where a fraction of a level ends before that.

        Raises:
            SlideReadError: The pixels cannot be decoded.
        """
        reduced = None
        if self.factor > 1 and isinstance(self.slide, SlideReader):
            reduced = self.slide.reduced(self.level, self.factor)
        if reduced is None:
            return self.slide.read(self.level, x, y, width, height)
        most_x, most_y = self.size
        left, top = min(x, most_x - 1), min(y, most_y - 1)
        right, bottom = min(x + width, most_x), min(y + height, most_y)
        out = np.empty((max(1, bottom - top), max(1, right - left), 3), np.uint8)
        reduced.read_into(self.level, left, top, out)
        return out
