"""Slide readers that a share might have made: one hangs, one swells; the others are as ever."""

import ctypes
import time
from pathlib import Path

import numpy as np

from wsi_pipeline.slides import SlideReader
from wsi_pipeline.slides.jpeg_tiff import JpegTiffReader

HELD: list[np.ndarray] = []


class Stalling(JpegTiffReader):
    """Hangs in C, where no exception reaches it, once its pixels are asked for."""

    def read_into(self, level: int, x: int, y: int, out: np.ndarray) -> None:
        ctypes.CDLL(None).sleep(3600)


class Swelling(JpegTiffReader):
    """Takes ever more memory, but is asked again and again."""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        for _ in range(40):
            HELD.append(np.ones(50_000_000, np.uint8))
            time.sleep(0.1)
            self.beat()
        return super().read(level, x, y, width, height)


def by_name(path: str | Path) -> SlideReader:
    """Open a slide whose name says how it behaves."""
    name = Path(path).name
    kind = Stalling if "stall" in name else Swelling if "swell" in name else JpegTiffReader
    return kind(path)
