"""Arrays that are worked in again and again: new memory costs more than copying does."""

import math

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import RgbTiles


class Workspace:
    """Named arrays, each as large as the largest asked for. One thread uses it at a time."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, *shape: int) -> NDArray[np.uint8]:
        """Return an array of this shape, uint8; the next call with this name gives the same."""
        size = math.prod(shape)
        if name not in self._arrays or self._arrays[name].size < size:
            self._arrays[name] = np.empty(size, np.uint8)
        return self._arrays[name][:size].reshape(shape)

    def taken(self, name: str, tiles: RgbTiles, places: NDArray[np.int64]) -> RgbTiles:
        """Return the tiles at ``places``, ascending; the very tiles, if those are all."""
        if len(places) == len(tiles):
            return tiles
        out = self.array(name, len(places), *tiles.shape[1:])
        return np.take(tiles, places, axis=0, out=out, mode="clip")
