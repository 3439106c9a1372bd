"""The gallery: one card a slide."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.reporting.bundles import BundleRead
from wsi_pipeline.reporting.data import Prediction, SlideCard
from wsi_pipeline.reporting.heatmap_files import read_heatmaps
from wsi_pipeline.reporting.pictures import jpeg, read_rgb
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import TileStore

THUMBNAIL_PX: Final = 640


def slide_cards(
    run: Path,
    cohort: Sequence[CohortSlide],
    stores: Mapping[str, TileStore],
    bundle: BundleRead | None,
    most: int,
) -> tuple[SlideCard, ...]:
    """Return a card for each slide with tiles, ``most`` at most; ``bundle`` speaks for it."""
    rows = {slide.slide_id: slide for slide in cohort}
    predictions: Mapping[str, Prediction] = bundle.predictions if bundle else {}
    splits: Mapping[str, str] = bundle.splits if bundle else {}
    cards = [
        _card(run, slide_id, store, rows.get(slide_id))
        for slide_id, store in islice(stores.items(), most)
    ]
    return tuple(
        replace(c, split=splits.get(c.slide_id), prediction=predictions.get(c.slide_id))
        for c in cards
    )


def _card(run: Path, slide_id: str, store: TileStore, row: CohortSlide | None) -> SlideCard:
    about = store.attributes
    overlay = read_rgb(RunFolder(run).thumbnail(slide_id))
    alt = f"Slide {slide_id}: tissue outline and {len(store)} tiles kept"
    return SlideCard(
        slide_id=slide_id,
        patient_id=row.patient_id if row else None,
        label=row.label if row else None,
        cohort=row.cohort if row else None,
        tiles_kept=len(store),
        tiles_candidate=about.get("counts", {}).get("candidates"),
        mpp=about.get("mpp_effective"),
        flags=tuple(about.get("flags", ())),
        overlay=None if overlay is None else jpeg(overlay, alt, THUMBNAIL_PX),
        heatmaps=read_heatmaps(RunFolder(run).heatmaps, slide_id),
    )
