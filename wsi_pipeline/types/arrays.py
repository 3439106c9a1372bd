"""What arrays hold, by shape and dtype."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]  # (H, W, 3)
RgbTiles = NDArray[np.uint8]  # (N, H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
Coords = NDArray[np.int64]  # (N, 2), level-0 (x, y) of each tile's top-left corner
Floats = NDArray[np.floating[Any]]
