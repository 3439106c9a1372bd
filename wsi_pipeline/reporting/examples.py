"""Tiles to look at: as stored and, where the slide is at hand, as scanned."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.reporting.data import TilePair
from wsi_pipeline.reporting.pictures import webp
from wsi_pipeline.reporting.scanned import read_scanned
from wsi_pipeline.tiles import TileStore, store_marks, tile_reasons, worst_first


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

    A flagged one comes on top, where there is one.

    Args:
        stores: By slide.
        cohort: Where the slides are, for tiles as scanned.
        slides: Folder its paths start from; None for the table's own.
        per_slide: How many tiles of each slide.
    """
    rows = {slide.slide_id: slide for slide in cohort}
    pairs: list[TilePair] = []
    for slide_id, store in stores.items():
        indices = _chosen(store, per_slide)
        path = rows[slide_id].locate(slides) if slide_id in rows else None
        pairs += _pairs(slide_id, store, indices, path)
    return tuple(pairs)


def _chosen(store: TileStore, count: int) -> np.ndarray:
    """Return rows: ``count`` typical tiles and, where one is flagged, the worst of its flag."""
    tissue = store.columns.get("tissue_fraction", np.ones(len(store), np.float32))
    parts = np.array_split(np.arange(len(store)), min(count, len(store)))
    typical = [int(part[tissue[part].argmax()]) for part in parts]
    for flag, mask in store_marks(store).items():
        found = np.flatnonzero(mask)
        if count and len(found):
            worst = int(found[worst_first(store, flag, found)[0]])
            return np.array(list(dict.fromkeys([*typical, worst])), np.int64)
    return np.array(typical, np.int64)


def _pairs(
    slide_id: str, store: TileStore, indices: np.ndarray, path: str | Path | None
) -> Iterator[TilePair]:
    scanned, marks = read_scanned(path, store, indices), store_marks(store)
    limits = store.attributes.get("flag_limits")
    for row, after in zip(indices.tolist(), store.tiles[indices], strict=True):
        before = scanned.tiles.get(row)
        yield TilePair(
            slide_id=slide_id,
            before=None if before is None else webp(before, f"Tile of {slide_id} as scanned"),
            after=webp(after, f"Tile of {slide_id} as stored"),
            reason="; ".join(tile_reasons(store, marks, row).values()) if limits else "",
        )
