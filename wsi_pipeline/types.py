"""Plain data that several rooms share."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]  # (H, W, 3)
RgbTiles = NDArray[np.uint8]  # (N, H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
Coords = NDArray[np.int64]  # (N, 2), level-0 (x, y) of each tile's top-left corner
Floats = NDArray[np.floating[Any]]
Modality = Literal["slide", "ct"]  # what a file is read as
LONGEST_ID: Final = 200  # bytes of a slide's id: names of files are made from it, of 255 at most
Icc = Literal["keep", "apply"]  # what is done with a slide's colour profile


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle in level-0 pixels; ``x``, ``y`` is its top-left corner."""

    x: int
    y: int
    width: int
    height: int
