"""What the workbench tells of a run folder, ready for JSON."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.errors import StoreError, WsiError
from wsi_pipeline.journal import read_outcomes
from wsi_pipeline.learn import SlidePrediction, read_prediction
from wsi_pipeline.reporting import (
    Failure,
    Said,
    SlideFrame,
    all_failures,
    read_bundles,
    read_said,
)
from wsi_pipeline.run_cohort import rows_of
from wsi_pipeline.run_folder import RunFolder, stores_in
from wsi_pipeline.tiles import (
    FLAGS,
    TileStore,
    find_store,
    flags_told,
    kept_mask,
    open_tiles,
    read_decisions,
    store_marks,
    stores_of,
    tile_attributes,
    tile_reasons,
)
from wsi_pipeline.workbench.pyramid import SlideFile

DIGITS: Final = 4  # of a number on the screen
MOST_STORES: Final = 24  # tile stores kept open


@dataclass(frozen=True)
class RunFacts:
    """A run folder as the workbench reads it.

    Attributes:
        folder: Its names.
        slides: Folder the cohort table's paths start from; None: the table's own.
    """

    folder: RunFolder
    slides: Path | None = None
    _stores: OrderedDict[Path, tuple[int, TileStore]] = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    def table(self, damaged: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return every slide with what is known of it, and what was lost with its reason.

        Stores are asked what they say of themselves, which of hundreds takes no second; whether
        their arrays are whole, :meth:`damage` finds.

        Args:
            damaged: What that found.

        Raises:
            CohortError: The cohort table is unusable.
        """
        cohort, paths = rows_of(self.folder), stores_of(self.folder.tiles)
        stores, broken = {}, dict(damaged or {})
        for slide_id, path in paths.items():
            try:
                stores[slide_id] = tile_attributes(path)
            except StoreError as error:
                broken[slide_id] = sentence(error)
        bundles, useless = read_bundles(self.folder.root)
        said, unread = read_said(self.folder, bundles)
        encoded = {n for f in self.folder.features.glob("[!.]*") for n in stores_in(f)}
        failed = all_failures(
            cohort, stores.keys() - broken.keys(),
            [Failure(slide_id=name, stage="tile", reason=why) for name, why in broken.items()],
            list(read_outcomes(self.folder.journal).values()), encoded,
        )  # fmt: skip
        lost = {f.slide_id: f"{f.stage}: {f.reason}" for f in (*failed, *useless, *unread)}
        known = {row.slide_id: row for row in cohort}
        order = [name for name in known if name in stores or name in encoded]
        order += [name for name in stores if name not in known]
        rows = [
            _row(name, known.get(name), stores.get(name, {}), said)
            | {"failure": lost.pop(name, None)}
            for name in order
        ]
        rows += [
            _row(name, known.get(name), {}, said) | {"failure": told} for name, told in lost.items()
        ]
        names = list(dict.fromkeys(row.cohort for row in cohort if row.cohort))
        return {
            "title": " and ".join(names) or self.folder.root.resolve().name,
            "slides": rows,
            "models": [{"name": name} for name in said.names],
            "predicted": sorted(p.name for p in self.folder.predictions.glob("[!.]*")),
        }

    def damage(self) -> dict[str, str]:
        """Open every store, and return by slide why those that are damaged do not open."""
        found = {}
        for slide_id, path in stores_of(self.folder.tiles).items():
            try:
                open_tiles(path)
            except StoreError as error:
                found[slide_id] = sentence(error)
        return found

    def state(self) -> tuple[tuple[str, int], ...]:
        """Return what changes when a stage has written something that the table tells."""
        folder = self.folder
        parts = (folder.cohort, folder.tiles, folder.journal, folder.models, *folder.bundles(),
                 *folder.predictions.glob("[!.]*/slides.csv"))  # fmt: skip
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
        if path is None:
            return None
        written = path.stat().st_mtime_ns
        known = self._stores.get(path)
        if known is None or known[0] != written:
            known = written, open_tiles(path)
            self._stores[path] = known
            while len(self._stores) > MOST_STORES:
                self._stores.popitem(last=False)
        return known[1]

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
        rows: list[int] = []
        if dropped and store is not None:
            rows = np.flatnonzero(~kept_mask(store.coords, dropped)).tolist()
        return {"whole": whole[0] if whole else None, "dropped": rows}

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
            "places": store.coords.ravel().tolist(),
        }  # fmt: skip

    def _layers(self, slide_id: str, store: TileStore) -> dict[str, Callable[[], dict[str, Any]]]:
        """Return by name what a value for each tile is worked out from when it is asked for."""
        found: dict[str, Callable[[], dict[str, Any]]] = {}
        for model, said in self.predictions(slide_id):
            for index, name in enumerate(said.classes):
                found[f"{model}: {name}"] = partial(_of_class, said, index, store)
            for name, weights in said.attention.items():
                found[f"{model}: {name}, attention by rank"] = partial(
                    _of_attention, said, weights, store
                )
        for name, column in store.columns.items():
            if np.issubdtype(column.dtype, np.floating):
                found[name.replace("_", " ")] = partial(layer_of, column)
        return found

    def layer(self, slide_id: str, name: str) -> dict[str, Any]:
        """Return a value for each tile, None where there is none, and the ends of its scale.

        Raises:
            StoreError: The slide has no such layer.
        """
        store = self.store(slide_id)
        made = None if store is None else self._layers(slide_id, store).get(name)
        if made is None:
            raise StoreError(f"{slide_id}: it has no layer {name}")
        return made()

    def row_at(self, slide_id: str, place: tuple[int, int]) -> tuple[TileStore, int]:
        """Return a slide's tiles, and which of them lies at a place, level-0 (x, y).

        Raises:
            StoreError: None does.
        """
        store = self.store(slide_id)
        same = None if store is None else (store.coords == place).all(axis=1)
        if store is None or same is None or not same.any():
            raise StoreError(f"{slide_id}: it has no tile at {place[0]}, {place[1]}")
        return store, int(same.argmax())

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
            at = int(places_in(prediction.coords, store.coords[row : row + 1])[0])
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


def _row(
    slide_id: str,
    row: CohortSlide | None,
    about: Mapping[str, Any],
    said: Said,
) -> dict[str, Any]:
    told = said.of(slide_id)
    first = told[0] if told else None
    unlike = ["unlike training"] if any(each.unlike for each in told) else []
    return {
        "id": slide_id,
        "patient": None if row is None else row.patient_id,
        "label": None if row is None else row.label,
        "cohort": None if row is None else row.cohort,
        "split": said.split(slide_id),
        "stain": about.get("stain", {}).get("method"),
        "tiles": about.get("counts", {}).get("kept"),
        "flags": [*flags_told(about), *unlike],
        "truth": None if first is None else first.truth,
        "predictions": [
            {"bundle": each.bundle, "said": each.label,
             "probabilities": {k: round(v, DIGITS) for k, v in each.probabilities.items()}}
            for each in told
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


def places_in(found: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each asked (x, y) its row in ``found``, -1 where it is not there."""
    rows: Mapping[tuple[int, ...], int] = {tuple(at): n for n, at in enumerate(found.tolist())}
    return np.array([rows.get(tuple(at), -1) for at in asked.tolist()], np.int64)


def _of_class(said: SlidePrediction, index: int, store: TileStore) -> dict[str, Any]:
    return layer_of(_at(said.tiles[:, index], said, store), (0.0, 1.0))


def _of_attention(
    said: SlidePrediction, weights: NDArray[np.float32], store: TileStore
) -> dict[str, Any]:
    rank = weights.argsort().argsort() / max(1, len(weights) - 1)
    return layer_of(_at(rank, said, store), (0.0, 1.0))


def _at(values: NDArray[Any], said: SlidePrediction, store: TileStore) -> NDArray[np.float64]:
    return in_order(values, said.coords, store.coords)


def in_order(
    values: NDArray[Any], found: NDArray[np.int64], asked: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return values of the ``found`` places for those ``asked``, NaN where there is none."""
    order = places_in(found, asked)
    return np.where(order >= 0, values[np.maximum(order, 0)], np.nan).astype(np.float64)


def layer_of(values: NDArray[Any], limits: tuple[float, float] | None = None) -> dict[str, Any]:
    """Return a value for each tile, None where there is none, and the ends of its scale."""
    real = values[np.isfinite(values)]
    low, high = limits or ((real.min(), real.max()) if len(real) else (0.0, 1.0))
    listed: list[float | None] = np.asarray(values, np.float64).round(DIGITS).tolist()
    for row in np.flatnonzero(~np.isfinite(values)).tolist():
        listed[row] = None
    return {"values": listed, "low": float(low), "high": float(high)}


def sentence(error: WsiError) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split())
