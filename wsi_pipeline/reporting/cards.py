"""The slides: what is said of each, and its pictures for the gallery."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.reporting.data import SlideCard
from wsi_pipeline.reporting.heatmap_files import read_heatmaps
from wsi_pipeline.reporting.pictures import read_rgb, slide_picture
from wsi_pipeline.reporting.predicted import Said
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import TileStore, flags_told


def slide_cards(
    run: Path,
    cohort: Sequence[CohortSlide],
    stores: Mapping[str, TileStore],
    said: Said,
    encoded: frozenset[str],
    most: int | None,
) -> tuple[SlideCard, ...]:
    """Return a card for each slide with tiles or features, ``most`` of them with pictures.

    Args:
        run: The run folder.
        cohort: Its table.
        stores: Tile stores by slide, in order.
        said: What models say of slides.
        encoded: Slides with features, which may have no tiles here: imported, or cut in passing.
        most: How many the gallery shows; None for all.
    """
    rows = {slide.slide_id: slide for slide in cohort}
    cards = []
    alone = [row.slide_id for row in cohort if row.slide_id in encoded - stores.keys()]
    for number, slide_id in enumerate([*stores, *alone]):
        card = _card(slide_id, stores.get(slide_id), rows.get(slide_id), said)
        shown = most is None or number < most
        cards.append(_pictured(run, card) if shown else replace(card, shown=False))
    return tuple(cards)


def _card(
    slide_id: str,
    store: TileStore | None,
    row: CohortSlide | None,
    said: Said,
) -> SlideCard:
    about = {} if store is None else store.attributes
    return SlideCard(
        slide_id=slide_id,
        patient_id=row.patient_id if row else None,
        label=row.label if row else None,
        cohort=row.cohort if row else None,
        split=said.split(slide_id),
        tiles_kept=None if store is None else len(store),
        tiles_candidate=about.get("counts", {}).get("candidates"),
        mpp=about.get("mpp_effective"),
        flags=flags_told(about),
        predictions=said.of(slide_id),
    )


def _pictured(run: Path, card: SlideCard) -> SlideCard:
    overlay = read_rgb(RunFolder(run).thumbnail(card.slide_id))
    alt = f"Slide {card.slide_id}: tissue outline and {card.tiles_kept or 0} tiles kept"
    return replace(
        card,
        overlay=None if overlay is None else slide_picture(overlay, alt),
        heatmaps=read_heatmaps(RunFolder(run).heatmaps, card.slide_id),
    )
