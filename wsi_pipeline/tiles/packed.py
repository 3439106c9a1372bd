"""Tiles packed as JPEG: one stream of bytes and where each tile begins in it.

A fifth of the space of lossless tiles, at the price of a loss that hardly shows but moves features
about as far as a shift by one pixel does (docs/performance.md). The array is then
``tiles_jpeg`` (bytes,) uint8 with ``tiles_offset`` (N + 1,) int64, and only ``open_tiles`` gives it
as tiles.
"""

from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.tiles.store import AGAIN, TileArray
from wsi_pipeline.types import RgbTiles

JPEG: Final = "tiles_jpeg"
OFFSET: Final = "tiles_offset"
QUALITY: Final = 90

Bytes = NDArray[np.uint8]


def pack_jpeg(tiles: RgbTiles) -> list[bytes | bytearray]:
    """Return each tile's JPEG stream."""
    return [imagecodecs.jpeg8_encode(tile, level=QUALITY) for tile in tiles]


class Stream(Protocol):
    """The bytes of a store's tiles, of which several threads may read."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Bytes: ...


class PackedTiles(TileArray):
    """Tiles decoded as they are asked for.

    Raises:
        StoreCorruptError: ``offsets`` do not fit the stream.
    """

    def __init__(
        self, path: Path, tile_px: int, offsets: NDArray[np.int64], stream: Stream
    ) -> None:
        super().__init__(path, len(offsets) - 1, tile_px)
        if offsets[0] != 0 or offsets[-1] > len(stream) or (np.diff(offsets) < 0).any():
            raise StoreCorruptError(f"{path}: {OFFSET} is damaged; {AGAIN}")
        self._offsets = offsets
        self._stream = stream

    def read_run(self, first: int, out: RgbTiles) -> None:
        bounds = self._offsets[first : first + len(out) + 1]
        stream = self._stream.read(int(bounds[0]), int(bounds[-1]))
        for row, (start, stop) in enumerate(pairwise(bounds - bounds[0])):
            try:
                imagecodecs.jpeg8_decode(stream[start:stop].tobytes(), out=out[row])
            except (imagecodecs.Jpeg8Error, ValueError) as error:
                raise StoreCorruptError(
                    f"{self.path}: tile {first + row} does not decode ({error}); {AGAIN}"
                ) from error
