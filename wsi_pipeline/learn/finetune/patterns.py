"""What tiles look like, as vectors that a copy shares: for the audit, where there are no features.

A tile becomes its light and dark on a coarse grid, less what varies slowly, of unit length: two
copies of one picture point the same way whatever their brightness, size and compression; two
pictures of like tissue do not. Each is brought to one of its eight positions first, so that a
turned or mirrored copy is found too.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.learn.bags import draw_rows
from wsi_pipeline.learn.finetune.sources import TileSource
from wsi_pipeline.types import RgbTiles

SIDE: Final = 24  # of the grid: 576 numbers a tile
SMOOTH: Final = 7  # grid points that count as varying slowly
NEAR: Final = 0.4  # of the usual distance; docs/learning.md has what was measured
CHUNK: Final = 256  # tiles held at a time

Vectors = NDArray[np.float32]


class PatternFolder:
    """Patterns of a source's tiles, read and described one slide at a time, and kept."""

    def __init__(self, source: TileSource) -> None:
        self._source = source
        self._place = {slide.slide_id: index for index, slide in enumerate(source.slides)}
        self._kept: dict[str, NDArray[np.float16]] = {}

    def vectors(self, slide_id: str) -> Vectors:
        """Return the patterns of a slide's tiles, (N, 576) float32.

        Raises:
            LearnError: A picture is unreadable.
            StoreError: A tile store is unreadable.
        """
        if slide_id not in self._kept:
            place = self._place[slide_id]
            count = self._source.counts[place]
            parts = [
                patterns(self._source.read(place, np.arange(start, min(start + CHUNK, count))))
                for start in range(0, count, CHUNK)
            ]
            self._kept[slide_id] = np.concatenate(parts).astype(np.float16)
        return self._kept[slide_id].astype(np.float32)

    def sample(self, slide_id: str, count: int, rng: np.random.Generator) -> Vectors:
        """Return at most ``count`` of them, in their order, drawn with ``rng``."""
        return draw_rows(self.vectors(slide_id), count, rng)


def patterns(tiles: RgbTiles) -> Vectors:
    """Describe tiles.

    Args:
        tiles: (N, H, W, 3) uint8.

    Returns:
        (N, 576) float32 of unit length; zeros for a tile of one colour.
    """
    found = np.empty((len(tiles), SIDE, SIDE), np.float32)
    for index, tile in enumerate(tiles):
        grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        found[index] = small - cv2.blur(small, (SMOOTH, SMOOTH), borderType=cv2.BORDER_REFLECT)
        found[index] = _upright(found[index], small)
    flat = found.reshape(len(tiles), -1)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(flat / lengths, np.float32)


def _upright(pattern: Vectors, small: Vectors) -> Vectors:
    """Turn a pattern so that the tile's dark is to the right and below, more to the right."""
    ramp = np.linspace(-1, 1, SIDE, dtype=np.float32)
    dark = small.mean() - small
    across, down = float((dark @ ramp).sum()), float((ramp @ dark).sum())
    if across < 0:
        pattern = pattern[:, ::-1]
    if down < 0:
        pattern = pattern[::-1]
    return pattern.T if abs(down) > abs(across) else pattern
