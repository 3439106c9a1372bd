"""cuCIM on the CPU, with a cache as large as OpenSlide's own."""

from pathlib import Path

import numpy as np
from cucim import CuImage
from tile_reader import TILE_PX, Read, measure

_CACHE_MIB = 32


def open_slide(path: Path) -> Read:
    CuImage.cache("per_process", memory_capacity=_CACHE_MIB)
    slide = CuImage(str(path))

    def read(x: int, y: int) -> np.ndarray:
        return np.asarray(slide.read_region((x, y), (TILE_PX, TILE_PX), 0))

    return read


if __name__ == "__main__":
    measure(open_slide)
