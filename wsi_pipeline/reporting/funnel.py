"""How many slides and tiles came through, and why the others did not."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.journal import Outcome
from wsi_pipeline.reporting.data import Failure, Funnel, FunnelStep
from wsi_pipeline.tiles import FLAGS, TileStore

UNTOLD: Final = "no tile store, and the journal does not say why (see logs/tile.log of older runs)"
TILING: Final = "tile"  # the stage that makes or loses a slide's tiles


def all_failures(
    cohort: Sequence[CohortSlide],
    stores: Collection[str],
    damaged: Sequence[Failure],
    outcomes: Sequence[Outcome],
    encoded: Collection[str] = (),
) -> tuple[Failure, ...]:
    """What the journal calls failed or unusable, damaged stores, and slides it does not tell of.

    Slides that are ``encoded`` without tiles here, because features were imported or tiles cut in
    passing, are not lost.
    """
    lost = [
        Failure(slide_id=o.slide_id, stage=o.stage, reason=o.words, fate=o.fate)
        for o in outcomes
        if o.fate == "failed" or (o.fate == "skipped" and o.stage == TILING)
        if not (o.stage == TILING and o.slide_id in stores)
    ]
    told = {f.slide_id for f in (*lost, *damaged)}
    silent = [
        Failure(slide_id=s.slide_id, stage=TILING, reason=UNTOLD)
        for s in cohort
        if s.slide_id not in stores and s.slide_id not in told and s.slide_id not in encoded
    ]
    return (*lost, *damaged, *silent)


def read_funnel(
    cohort: Sequence[CohortSlide],
    stores: Mapping[str, TileStore],
    failures: Sequence[Failure],
    encoded: Collection[str] = (),
) -> Funnel:
    """Slides from the cohort table to tile stores; tiles from the grid to the stores."""
    lost = {
        f.slide_id: "failed" if f.fate == "failed" else f.reason.partition(":")[0]
        for f in failures
        if f.stage == TILING
    }
    asked = {slide.slide_id for slide in cohort} | set(stores) | set(lost)
    if not asked:
        return Funnel()
    alone = (asked & set(encoded)) - set(stores)
    steps = [FunnelStep(name="in the cohort", count=len(asked), lost=Counter(lost.values()))]
    if stores or not alone:
        steps.append(FunnelStep(name="with tiles", count=len(stores)))
    if alone:
        steps.append(FunnelStep(name="with features alone", count=len(alone)))
    return Funnel(
        slides=tuple(steps),
        tiles=_tiles(stores.values()),
    )


def _tiles(stores: Iterable[TileStore]) -> tuple[FunnelStep, ...]:
    counts: Counter[str] = Counter()
    for store in stores:
        counts.update(store.attributes.get("counts", {}))
    if not counts["candidates"]:
        return ()
    little = counts["rejected_tissue"]
    lost = {"too much background": counts["rejected_background"]}
    lost |= {"unreadable": counts["rejected_unreadable"]} if counts["rejected_unreadable"] else {}
    lost |= {flag.fate: counts[f"rejected_{name}"] for name, flag in FLAGS.items()}
    return (
        FunnelStep(
            name="places in the grid",
            count=counts["candidates"],
            lost={"too little tissue": little},
        ),
        FunnelStep(name="on tissue", count=counts["candidates"] - little, lost=lost),
        FunnelStep(name="kept", count=counts["kept"]),
    )
