"""Tiles to look at: as stored and, where the slide is at hand, as scanned."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import SlideError
from wsi_pipeline.reporting.data import TilePair
from wsi_pipeline.reporting.pictures import jpeg
from wsi_pipeline.slides import Slide, open_slide
from wsi_pipeline.tiles import TileStore
from wsi_pipeline.types import RgbTiles


def spread_slides(
    stores: Mapping[str, TileStore], cohort: Sequence[CohortSlide], most: int
) -> dict[str, TileStore]:
    """Choose slides that differ: one of each (cohort, scanner, label) first, then the rest."""
    rows = {slide.slide_id: slide for slide in cohort}
    kinds: dict[tuple[str | None, ...], list[str]] = {}
    for slide_id in stores:
        row = rows.get(slide_id)
        kind = (row.cohort, row.scanner, row.label) if row else (None,)
        kinds.setdefault(kind, []).append(slide_id)
    turns = max(map(len, kinds.values()), default=0)
    chosen = [ids[turn] for turn in range(turns) for ids in kinds.values() if turn < len(ids)]
    return {slide_id: stores[slide_id] for slide_id in chosen[:most]}


def tile_pairs(
    stores: Mapping[str, TileStore],
    cohort: Sequence[CohortSlide],
    slides: Path | None,
    per_slide: int,
) -> tuple[TilePair, ...]:
    """Return ``per_slide`` tiles of each store, those with the most tissue in evenly spaced parts.

    Args:
        stores: By slide.
        cohort: Where the slides are, for tiles as scanned.
        slides: Folder its paths start from; None leaves the tiles as scanned out.
        per_slide: How many tiles of each slide.
    """
    rows = {slide.slide_id: slide for slide in cohort}
    pairs: list[TilePair] = []
    for slide_id, store in stores.items():
        indices = _chosen(store, per_slide)
        path = rows[slide_id].locate(slides) if slides and slide_id in rows else None
        pairs += _pairs(slide_id, store, indices, path)
    return tuple(pairs)


def _chosen(store: TileStore, count: int) -> np.ndarray:
    tissue = store.columns.get("tissue_fraction", np.ones(len(store), np.float32))
    parts = np.array_split(np.arange(len(store)), min(count, len(store)))
    return np.array([part[tissue[part].argmax()] for part in parts], np.int64)


def _pairs(
    slide_id: str, store: TileStore, indices: np.ndarray, path: str | Path | None
) -> Iterator[TilePair]:
    turned = store.attributes.get("straightened") is not None  # no rectangle of the file
    scanned = None if path is None or turned else _as_scanned(path, store, indices)
    for number, after in enumerate(store.tiles[indices]):
        before = (
            None if scanned is None else jpeg(scanned[number], f"Tile of {slide_id} as scanned")
        )
        yield TilePair(
            slide_id=slide_id, before=before, after=jpeg(after, f"Tile of {slide_id} as stored")
        )


def _as_scanned(path: str | Path, store: TileStore, indices: np.ndarray) -> RgbTiles | None:
    """(n, tile_px, tile_px, 3) uint8 read afresh; None where the slide cannot be read here."""
    try:
        with open_slide(path) as slide:
            return np.stack([_read_tile(slide, store, int(index)) for index in indices])
    except SlideError:
        return None


def _read_tile(slide: Slide, store: TileStore, index: int) -> RgbTiles:
    about = store.attributes
    side = int(about["tile_px_level"])
    x, y = np.rint(store.coords[index] / float(about["level_downsample"])).astype(int)
    rgb = slide.read(int(about["level"]), int(x), int(y), side, side)
    size = (store.tiles.shape[1], store.tiles.shape[1])
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
