"""Tiles: where they lie on a slide, how they are cut, and the stores that keep them."""

from wsi_pipeline.tiles.store import TileStore, TileWriter, create_tiles, open_tiles
from wsi_pipeline.tiles.verify import verify_tiles

__all__ = ["TileStore", "TileWriter", "create_tiles", "open_tiles", "verify_tiles"]
