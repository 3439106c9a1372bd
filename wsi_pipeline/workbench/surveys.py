"""A slide looked at as ``tile`` did: its tissue, its tile places, and which were not kept.

Stores keep what was kept. Where the tissue was, and which places had too little of it, is found
again by the settings in the store, and told only where the counts in the store agree.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from shapely.geometry import MultiPolygon

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides import SlideInfo
from wsi_pipeline.tiles import (
    SlidePlan,
    SlideRequest,
    TileSettings,
    TileStore,
    drawing_origin,
    drawn_digest,
    settings_of_store,
    survey_slide,
)
from wsi_pipeline.tissue import class_colours, read_annotations
from wsi_pipeline.types import Region
from wsi_pipeline.workbench.facts import RunFacts
from wsi_pipeline.workbench.outlines import mask_area, rings
from wsi_pipeline.workbench.pyramid import OpenSlides

MOST: Final = 6  # slides whose overview is kept
REASONS: Final = {
    "tissue": "too little tissue",
    "background": "too much empty glass",
    "unreadable": "could not be read",
}
REJECTED: Final = "rejected_"


@dataclass(frozen=True)
class Surveyed:
    """A slide, and where its tissue is by computation.

    Attributes:
        slide_id: The slide.
        info: Its file.
        settings: By which it was cut.
        plan: Its overview, tissue and tile places, whatever people drew.
    """

    slide_id: str
    info: SlideInfo
    settings: TileSettings
    plan: SlidePlan

    @cached_property
    def tissue_area(self) -> MultiPolygon:
        """The tissue, level-0 px."""
        plan = self.plan
        return mask_area(plan.tissue.mask, plan.tissue_downsample, plan.picture.origin)


class Surveys:
    """Slides that were looked at lately."""

    def __init__(self, facts: RunFacts, opened: OpenSlides) -> None:
        self.facts = facts
        self._opened = opened
        self._lock = Lock()  # an overview takes seconds and memory: one after the other
        self._known: OrderedDict[tuple[Any, ...], Surveyed] = OrderedDict()

    def of(self, slide_id: str) -> Surveyed:
        """Look at a slide; what people drew on it is left aside.

        Raises:
            SlideError: It is not at hand, was turned, or cannot be read.
            StoreError: It has no tiles, or they are damaged.
        """
        return self._survey(slide_id, None, None)

    def rejected(self, slide_id: str) -> dict[str, Any]:
        """Return the places that were not kept, by reason; a sentence where that cannot be known.

        Raises:
            SlideError, StoreError: As in :meth:`of`.
        """
        store = self._store(slide_id)
        drawn = self._annotations(slide_id)
        mask = self.facts.folder.mask(slide_id)
        used = store.attributes.get("mask_digest")
        if used is not None and (not mask.exists() or drawn_digest(mask) != used):
            return {"why": "the mask that the tiles were cut by is not there any more"}
        if store.attributes.get("annotations_digest") != drawn_digest(drawn):
            return {"why": "the regions that the tiles were cut by have changed, or are not here"}
        surveyed = self._survey(slide_id, drawn, None if used is None else mask)
        return _rejected(surveyed.plan, store)

    def annotations(self, slide_id: str) -> list[dict[str, Any]]:
        """Return the regions drawn on a slide: class, colour, outlines, level-0 px.

        Raises:
            SlideError, StoreError: As in :meth:`of`; or they cannot be read.
        """
        drawn = self._annotations(slide_id)
        if drawn is None:
            return []
        surveyed = self.of(slide_id)
        origin = drawing_origin(surveyed.info, drawn, surveyed.settings)
        regions = read_annotations(drawn, origin, surveyed.settings.exclude_annotations)
        colours = class_colours(regions)
        return [
            {"label": each.label or "", "colour": colours.get(each.label or "", (70, 70, 70)),
             "outline": list(rings(each.area))}
            for each in regions
        ]  # fmt: skip

    def _survey(self, slide_id: str, drawn: Path | None, mask: Path | None) -> Surveyed:
        store = self._store(slide_id)
        key = (slide_id, drawn, None if mask is None else mask.stat().st_mtime_ns)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._look(slide_id, store, drawn, mask)
                while len(self._known) > MOST:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]

    def _look(
        self, slide_id: str, store: TileStore, drawn: Path | None, mask: Path | None
    ) -> Surveyed:
        file = self.facts.file_of(slide_id, store)
        if isinstance(file, str):
            raise SlideError(file)
        about, row = store.attributes, self.facts.row(slide_id)
        settings = _settings(about.get("config") or {})
        region = about.get("region_level0")
        request = SlideRequest(
            mpp=None if row is None else row.mpp,
            region=None if region is None else Region(**region),
            annotations=drawn,
            mask=mask,
        )
        with self._opened.use(file) as opened:
            plan = survey_slide(opened.slide, settings, request)
            return Surveyed(slide_id, opened.slide.info, settings, plan)

    def _store(self, slide_id: str) -> TileStore:
        store = self.facts.store(slide_id)
        if store is None:
            raise SlideError(f"{slide_id}: it has no tiles")
        if store.attributes.get("straightened") is not None:
            raise SlideError(f"{slide_id}: it was turned, so what is drawn on it would not fit")
        return store

    def _annotations(self, slide_id: str) -> Path | None:
        row = self.facts.row(slide_id)
        if row is None or not row.annotations:
            return None
        folders = [Path(each) for each in (self.facts.slides, row.root) if each is not None]
        found = [folder / row.annotations for folder in folders]
        there = next((path for path in found if path.exists()), None)
        if there is None:
            raise SlideError(f"{slide_id}: its regions ({row.annotations}) are not at hand")
        return there


def _settings(stored: dict[str, Any]) -> TileSettings:
    """Return what a store's places were chosen by; stains are no part of that."""
    known = settings_of_store(stored, {})
    names = TileSettings.model_fields
    return TileSettings(
        **{name: v for name, v in known.items() if name in names and not name.startswith("stain")}
    )


def _rejected(plan: SlidePlan, store: TileStore) -> dict[str, Any]:
    counts = store.attributes.get("counts", {})
    wanted = plan.wanted
    if (len(plan.grid), len(wanted) - int(wanted.sum())) != (
        counts.get("candidates"), counts.get(f"{REJECTED}tissue", 0)
    ):  # fmt: skip
        return {"why": "the tiles were cut by other rules than today's: their places are not known"}
    coords = plan.grid.coords()
    kept = {tuple(at) for at in store.coords.tolist()}
    lost = {tuple(at) for at in (store.attributes.get("unreadable") or {}).get("coords", ())}
    by_pixels = [
        at for at, want in zip(map(tuple, coords.tolist()), wanted.tolist(), strict=True)
        if want and at not in kept and at not in lost
    ]  # fmt: skip
    touched = ~wanted & (plan.tissue_fraction > 0)
    found = {
        REASONS["tissue"]: coords[touched].tolist(),
        _pixel_reason(counts): [list(at) for at in by_pixels],
        REASONS["unreadable"]: [list(at) for at in lost],
    }
    return {
        "reasons": [
            {"reason": reason, "corners": np.ravel(places).tolist()}
            for reason, places in found.items() if places
        ],
        "glass": int((~wanted).sum() - touched.sum()),
    }  # fmt: skip


def _pixel_reason(counts: dict[str, int]) -> str:
    return " or ".join(_pixel_reasons(counts)) or REASONS["background"]


def _pixel_reasons(counts: dict[str, int]) -> Iterator[str]:
    """Yield why tiles that had enough tissue were not kept: their pixels said so."""
    for name, count in counts.items():
        what = name.removeprefix(REJECTED)
        if name.startswith(REJECTED) and count and what not in ("tissue", "unreadable"):
            yield REASONS.get(what, f"flagged {what}, dropped")
