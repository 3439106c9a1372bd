"""microtome-wsi, which reads a file's own tiles and no others."""

from pathlib import Path

import microtome
import numpy as np
from protocol import decline
from tile_reader import TILE_PX, Read, measure


def open_slide(path: Path) -> Read:
    slide = microtome.open(str(path))

    def read(x: int, y: int) -> np.ndarray:
        if x % TILE_PX or y % TILE_PX:
            decline("read between a file's own tiles")
        return slide.read_tile(0, x // TILE_PX, y // TILE_PX)

    return read


if __name__ == "__main__":
    measure(open_slide)
