"""Tiles packed as JPEG: one stream of bytes and where each tile begins in it.

A fifth of the space of lossless tiles, at the price of a loss that hardly shows but moves features
about as far as a shift by one pixel does (docs/performance.md). The array is then
``tiles_jpeg`` (bytes,) uint8 with ``tiles_offset`` (N + 1,) int64, and only ``open_tiles`` gives it
as tiles.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.tiles.contract import TileArray
from wsi_pipeline.types import RgbTiles

JPEG: Final = "tiles_jpeg"
OFFSET: Final = "tiles_offset"
QUALITY: Final = 90
THREADS: Final = 2  # the codec lets go of the interpreter

Bytes = NDArray[np.uint8]


class Packer:
    """Turns tiles into bytes and remembers where each ends."""

    def __init__(self) -> None:
        self._sizes = [0]
        self.seconds = 0.0

    def pack(self, tiles: RgbTiles) -> Bytes:
        """Return (b,) uint8: the tiles' JPEG streams one after the other."""
        begun = time.perf_counter()
        streams = [
            np.frombuffer(imagecodecs.jpeg8_encode(tile, level=QUALITY), np.uint8) for tile in tiles
        ]
        self._sizes += map(len, streams)
        packed = np.concatenate(streams)
        self.seconds += time.perf_counter() - begun
        return packed

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(n + 1,) int64: tile ``i`` is bytes ``offsets[i]`` to ``offsets[i + 1]``."""
        return np.cumsum(self._sizes, dtype=np.int64)


class PackedTiles(TileArray):
    """Tiles decoded as they are asked for."""

    def __init__(
        self,
        path: Path,
        tile_px: int,
        offsets: NDArray[np.int64],
        read: Callable[[int, int], Bytes],
    ) -> None:
        """``read`` takes the first byte and the one after the last, and is thread-safe."""
        self.shape = (len(offsets) - 1, tile_px, tile_px, 3)
        self._path = path
        self._offsets = offsets
        self._read = read

    def _range(self, start: int, stop: int) -> RgbTiles:
        return self._gather(np.arange(start, stop))

    def _gather(self, indices: NDArray[np.int64]) -> RgbTiles:
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        cuts = np.flatnonzero(np.diff(indices) != 1) + 1
        runs = [(a, b) for a, b in pairwise([0, *cuts.tolist(), len(indices)]) if b > a]
        if len(indices) < 2 * THREADS:
            for run in runs:
                self._decode(indices, run, out)
            return out
        longest = -(-len(indices) // THREADS)
        pieces = [(s, min(s + longest, b)) for a, b in runs for s in range(a, b, longest)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda piece: self._decode(indices, piece, out), pieces))
        return out

    def _decode(self, indices: NDArray[np.int64], run: tuple[int, int], out: RgbTiles) -> None:
        """Decode consecutive tiles ``indices[slice(*run)]`` into the same rows of ``out``."""
        first = int(indices[run[0]])
        bounds = self._offsets[first : first + run[1] - run[0] + 1]
        stream = self._read(int(bounds[0]), int(bounds[-1]))
        for row, (start, stop) in zip(range(*run), pairwise(bounds - bounds[0]), strict=True):
            try:
                imagecodecs.jpeg8_decode(stream[start:stop].tobytes(), out=out[row])
            except (imagecodecs.Jpeg8Error, ValueError) as error:
                raise StoreCorruptError(
                    f"{self._path}: tile {first + row - run[0]} does not decode ({error})"
                ) from error
