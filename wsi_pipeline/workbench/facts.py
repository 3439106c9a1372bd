"""What the workbench tells of a run folder, ready for JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import StoreError, WsiError
from wsi_pipeline.learn import SlidePrediction, read_prediction
from wsi_pipeline.reporting import Limits, SlideCard, SlideFrame, collect
from wsi_pipeline.run_cohort import rows_of
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import (
    FLAGS,
    TileStore,
    find_store,
    kept_mask,
    open_tiles,
    read_decisions,
    store_marks,
    tile_reasons,
)
from wsi_pipeline.workbench.pyramid import SlideFile

TABLE_ONLY: Final = Limits(slides=0, example_slides=0)
DIGITS: Final = 4  # of a number on the screen


@dataclass(frozen=True)
class RunFacts:
    """A run folder as the workbench reads it.

    Attributes:
        folder: Its names.
        slides: Folder the cohort table's paths start from; None: the table's own.
    """

    folder: RunFolder
    slides: Path | None = None

    def table(self) -> dict[str, Any]:
        """Return every slide with what is known of it, and what was lost with its reason.

        Raises:
            CohortError: The cohort table is unusable.
        """
        data = collect(self.folder.root, slides=self.slides, limits=TABLE_ONLY)
        lost = {each.slide_id: f"{each.stage}: {each.reason}" for each in data.failures}
        rows = [_row(card, lost.pop(card.slide_id, None)) for card in data.slides]
        rows += [{"id": name, "failure": told} for name, told in lost.items()]
        return {
            "title": data.title,
            "slides": rows,
            "models": [{"name": m.name, "classes": list(m.classes)} for m in data.models],
            "notes": list(data.notes),
        }

    def state(self) -> tuple[tuple[str, int], ...]:
        """Return what changes when a stage has written something that the table tells."""
        folder = self.folder
        parts = (folder.cohort, folder.tiles, folder.journal, folder.models, *folder.bundles())
        return tuple((str(part), part.stat().st_mtime_ns) for part in parts if part.exists())

    def row(self, slide_id: str) -> CohortSlide | None:
        """Return a slide's row of the cohort table."""
        rows = rows_of(self.folder)
        return next((row for row in rows if row.slide_id == slide_id), None)

    def store(self, slide_id: str) -> TileStore | None:
        """Open a slide's tiles; None if it has none.

        Raises:
            StoreError: They are damaged.
        """
        path = find_store(self.folder.tiles, slide_id)
        return None if path is None else open_tiles(path)

    def file_of(self, slide_id: str, store: TileStore | None) -> SlideFile | str:
        """Return a slide's file, or a sentence why it cannot be shown."""
        row = self.row(slide_id)
        path = None if row is None else row.locate(self.slides)
        if path is None:
            return "nothing says where the slide is; name its folder with --slides"
        if "://" not in str(path) and not Path(path).exists():
            return f"the slide is not at hand ({path}); name its folder with --slides"
        asked = {} if store is None else store.attributes.get("config") or {}
        return SlideFile(str(path), asked.get("reader", "auto"), asked.get("modality", "slide"))

    def decided(self, slide_id: str, store: TileStore | None) -> dict[str, Any]:
        """Return what a person decided: about the slide, and which of its tiles are dropped.

        Raises:
            CohortError: The table of decisions is damaged.
        """
        decisions = read_decisions(self.folder.decisions)
        whole = [
            row.choice for row in decisions.rows if (row.slide_id, row.place) == (slide_id, None)
        ]
        dropped = decisions.dropped_tiles(slide_id)
        kept = None if store is None else kept_mask(store.coords, dropped)
        return {
            "whole": whole[0] if whole else None,
            "dropped": [] if kept is None else np.flatnonzero(~kept).tolist(),
        }

    def predictions(self, slide_id: str) -> Iterator[tuple[str, SlidePrediction]]:
        """Yield what each model says of a slide's tiles."""
        for folder in sorted(self.folder.predictions.glob("[!.]*")):
            path = self.folder.prediction(folder.name, slide_id)
            if path.exists():
                yield folder.name, read_prediction(path)

    def tiles(self, slide_id: str) -> dict[str, Any]:
        """Return where a slide's tiles lie on level 0, their flags, and a value each for layers.

        Raises:
            StoreError: Tiles or a prediction are damaged, or there are none.
        """
        store = self.store(slide_id)
        if store is None:
            raise StoreError(f"{slide_id}: it has no tiles")
        frame, side = SlideFrame.from_attributes(store.attributes), float(_side(store))
        rings = frame.rings(store.coords, side) + np.asarray(frame.origin)
        edges = rings[0, [1, 3]] - rings[0, 0]
        found = store_marks(store)
        return {
            "corners": rings[:, 0].round(1).ravel().tolist(),
            "edges": edges.round(3).tolist(),
            "area": _box(frame, np.asarray(rings)),
            "flags": [
                {"name": name, "label": flag.label, "colour": list(flag.colour),
                 "rows": np.flatnonzero(found[name]).tolist()}
                for name, flag in FLAGS.items() if found[name].any()
            ],
            "left_out": store.attributes.get("tissue", {}).get("left_out", []),
            "layers": list(self._layers(slide_id, store)),
        }  # fmt: skip

    def _layers(self, slide_id: str, store: TileStore) -> Iterator[dict[str, Any]]:
        for model, prediction in self.predictions(slide_id):
            order = _order(prediction.coords, store.coords)
            for index, name in enumerate(prediction.classes):
                yield _layer(f"{model}: {name}", prediction.tiles[:, index], order, (0.0, 1.0))
            for name, weights in prediction.attention.items():
                rank = weights.argsort().argsort() / max(1, len(weights) - 1)
                yield _layer(f"{model}: {name}, attention by rank", rank, order, (0.0, 1.0))
        for name, column in store.columns.items():
            if np.issubdtype(column.dtype, np.floating):
                yield _layer(name.replace("_", " "), column, np.arange(len(store)))

    def tile(self, slide_id: str, row: int) -> dict[str, Any]:
        """Return everything known of one tile.

        Raises:
            StoreError: There is no such tile.
        """
        store = self.store(slide_id)
        if store is None or not 0 <= row < len(store):
            raise StoreError(f"{slide_id}: it has no tile {row}")
        measures = {
            name: round(float(column[row]), DIGITS)
            for name, column in store.columns.items()
            if np.isfinite(column[row])
        }
        told = {}
        for model, prediction in self.predictions(slide_id):
            at = int(_order(prediction.coords, store.coords[row : row + 1])[0])
            if at >= 0:
                values = prediction.tiles[at].astype(np.float64).round(DIGITS).tolist()
                told[model] = dict(zip(prediction.classes, values, strict=True))
        return {
            "x": int(store.coords[row, 0]),
            "y": int(store.coords[row, 1]),
            "measures": measures,
            "reasons": list(tile_reasons(store, store_marks(store), row).values()),
            "probabilities": told,
        }


def _row(card: SlideCard, lost: str | None) -> dict[str, Any]:
    first = card.predictions[0] if card.predictions else None
    return {
        "id": card.slide_id,
        "patient": card.patient_id,
        "label": card.label,
        "cohort": card.cohort,
        "split": card.split,
        "tiles": card.tiles_kept,
        "flags": list(card.flags),
        "failure": lost,
        "said": None if first is None else first.label,
        "sure": None if first is None else round(first.probabilities[first.label], DIGITS),
        "truth": None if first is None else first.truth,
        "predictions": [
            {"bundle": each.bundle, "said": each.label,
             "probabilities": {k: round(v, DIGITS) for k, v in each.probabilities.items()}}
            for each in card.predictions
        ],
    }  # fmt: skip


def _side(store: TileStore) -> Any:
    return store.attributes["tile_px_level0"]


def _box(frame: SlideFrame, rings: NDArray[np.float64]) -> list[float]:
    """Return what is worth showing at first, level-0 x, y, width, height: a core, or the slide."""
    if frame.matrix is None:
        area = frame.area
        return [float(area.x), float(area.y), float(area.width), float(area.height)]
    low, high = rings.min(axis=(0, 1)), rings.max(axis=(0, 1))
    return [*low.tolist(), *(high - low).tolist()]


def _order(found: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each asked (x, y) its row in ``found``, -1 where it is not there."""
    rows: Mapping[tuple[int, ...], int] = {tuple(at): n for n, at in enumerate(found.tolist())}
    return np.array([rows.get(tuple(at), -1) for at in asked.tolist()], np.int64)


def _layer(
    name: str,
    values: NDArray[Any],
    order: NDArray[np.int64],
    limits: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Return a value for each tile, None where there is none, and the ends of its scale."""
    taken = np.where(order >= 0, values[np.maximum(order, 0)], np.nan).astype(np.float64)
    real = taken[np.isfinite(taken)]
    low, high = limits or ((real.min(), real.max()) if len(real) else (0.0, 1.0))
    listed = [None if np.isnan(each) else round(each, DIGITS) for each in taken.tolist()]
    return {"name": name, "values": listed, "low": float(low), "high": float(high)}


def sentence(error: WsiError) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split())
