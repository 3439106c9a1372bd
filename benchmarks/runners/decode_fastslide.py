"""FastSlide, with a cache as large as OpenSlide's own."""

from pathlib import Path

import fastslide
import numpy as np
from tile_reader import TILE_PX, Read, measure

_CACHE_BYTES = 32 << 20


def open_slide(path: Path) -> Read:
    slide = fastslide.FastSlide.from_file_path(path, cache=_CACHE_BYTES)

    def read(x: int, y: int) -> np.ndarray:
        return np.asarray(slide.read_region((x, y), 0, (TILE_PX, TILE_PX)).numpy())[..., :3]

    return read


if __name__ == "__main__":
    measure(open_slide)
