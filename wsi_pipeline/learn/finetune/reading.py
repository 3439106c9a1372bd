"""Batches of tiles read ahead by threads while the device works."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np

from wsi_pipeline.learn.finetune.order import Places
from wsi_pipeline.learn.finetune.sources import TileSource
from wsi_pipeline.types import RgbTiles

AHEAD: Final = 4  # batches read before they are asked for: the bound on memory


def read_batches(
    source: TileSource, places: Places, batch: int, threads: int = 2
) -> Iterator[tuple[Places, RgbTiles]]:
    """Yield batches in the order of ``places``, the last one shorter.

    Args:
        source: Where tiles come from.
        places: (n, 2) int64.
        batch: Tiles of a batch.
        threads: That read side by side.

    Yields:
        The batch's places and its tiles, (b, H, W, 3) uint8.
    """
    with ThreadPoolExecutor(threads, "tiles") as pool:
        waiting: deque[tuple[Places, Future[RgbTiles]]] = deque()
        try:
            for start in range(0, len(places), batch):
                part = places[start : start + batch]
                waiting.append((part, pool.submit(_read, source, part)))
                if len(waiting) > AHEAD:
                    part, tiles = waiting.popleft()
                    yield part, tiles.result()
            while waiting:
                part, tiles = waiting.popleft()
                yield part, tiles.result()
        finally:
            for _, tiles in waiting:
                tiles.cancel()


def _read(source: TileSource, places: Places) -> RgbTiles:
    """Read each slide's tiles in one go, and put them back in the batch's order."""
    order = np.lexsort((places[:, 1], places[:, 0]))
    parts = []
    for slide in np.unique(places[:, 0]):
        at = order[places[order, 0] == slide]
        tiles, back = np.unique(places[at, 1], return_inverse=True)
        parts.append(source.read(int(slide), tiles)[back])
    batch = np.concatenate(parts)
    tiles = np.empty_like(batch)
    tiles[order] = batch
    return tiles
