"""Is a tile store sound? Every tile is decoded, every array checked."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wsi_pipeline.errors import StoreError
from wsi_pipeline.tiles.contract import TileStore
from wsi_pipeline.tiles.store import open_tiles


def verify_tiles(path: Path, slide_digest: str | None = None, *, pixels: bool = True) -> list[str]:
    """Check a tile store.

    Args:
        path: The store.
        slide_digest: Digest of the slide as it is now; None leaves staleness unchecked.
        pixels: Whether to decode every tile.

    Returns:
        What is wrong with it, one sentence each; empty when nothing is.
    """
    try:
        store = open_tiles(path)
    except StoreError as error:
        return [str(error)]
    problems = [*_missing(store), *_shapes(store), *_rows(store), *_stale(store, slide_digest)]
    return problems + (list(_pixels(store)) if pixels else [])


def _missing(store: TileStore) -> Iterator[str]:
    if store.path.suffix != ".zarr":
        return
    from wsi_pipeline.tiles.zarr_store import missing_shards

    for name in missing_shards(store.path):
        yield f"{store.path}: {name} is missing"


def _shapes(store: TileStore) -> Iterator[str]:
    side = store.attributes.get("tile_px")
    if store.tiles.shape != (len(store), side, side, 3):
        yield f"{store.path}: tiles have shape {store.tiles.shape}, tile_px is {side}"
    if store.coords.shape != (len(store), 2) or store.coords.dtype != np.int64:
        yield f"{store.path}: coords are {store.coords.shape} {store.coords.dtype}"
    for name, column in store.columns.items():
        if column.shape != (len(store),) or column.dtype != np.float32:
            yield f"{store.path}: {name} is {column.shape} {column.dtype}"
        elif not np.isfinite(column).all():
            yield f"{store.path}: {name} has values that are not finite"


def _rows(store: TileStore) -> Iterator[str]:
    x, y = store.coords.T
    later = (np.diff(y) > 0) | ((np.diff(y) == 0) & (np.diff(x) > 0))
    if not later.all():
        yield f"{store.path}: coords are not in canonical order at row {int(later.argmin()) + 1}"


def _stale(store: TileStore, slide_digest: str | None) -> Iterator[str]:
    stored = store.attributes.get("slide_digest")
    if slide_digest is not None and stored != slide_digest:
        yield (
            f"{store.path}: was cut from another file (slide digest {stored}, now {slide_digest}); "
            "cut the slide again with --overwrite"
        )


def _pixels(store: TileStore) -> Iterator[str]:
    try:
        for _ in store.batches():
            pass
    except StoreError as error:
        yield str(error)
