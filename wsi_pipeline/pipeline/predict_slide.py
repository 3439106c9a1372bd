"""One slide scored by a trained bundle: its prediction, pictures of it, detections for QuPath."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.atomic import remove, write_text
from wsi_pipeline.engine import is_done, kept
from wsi_pipeline.errors import LearnError, StoreCorruptError, StoreError
from wsi_pipeline.events import SlideDone, SlideSkipped
from wsi_pipeline.features import FeatureBag, choose_device, read_features
from wsi_pipeline.learn import (
    WIDTH,
    BundleConfig,
    Ensemble,
    SlidePrediction,
    feature_settings,
    load_ensemble,
    read_prediction,
    require_same_features,
    write_prediction,
)
from wsi_pipeline.reporting import (
    SlideFrame,
    draw_heatmap,
    store_heatmap,
    tiles_geojson,
    write_heatmap,
    write_ome_heatmap,
)
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import TileStore, find_store, open_tiles
from wsi_pipeline.types import Region

DONE: Final = "predicted earlier"
FORMATS: Final = ("png", "ome.tif")  # of a heatmap, as predictions of before say it
VALUES: Final = "values.ome.tif"  # the numbers that it shows
HOTTEST: Final = 0.99  # quantile of the attention at which its colours end
CANVAS_PX: Final = 900
ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")  # in a class's name, not to be in a folder's


@dataclass(frozen=True, kw_only=True)
class PredictTask:
    """One slide's work order; ``weights`` and ``novelty`` are digests of the model's."""

    slide_id: str
    run: Path
    features: Path
    bundle: Path
    name: str
    weights: str
    novelty: str
    device: str
    own: tuple[str, ...] = ()
    heatmaps: bool
    every_class: bool = False
    geojson: bool
    overwrite: bool

    @property
    def target(self) -> Path:
        return RunFolder(self.run).prediction(self.name, self.slide_id)

    @property
    def is_done(self) -> bool:
        """Whether there is a prediction by these weights."""
        try:
            return (_made_from(self) or {}).get("weights") == self.weights
        except StoreCorruptError:
            return False


def predict_slide(task: PredictTask) -> SlideDone | SlideSkipped:
    """Score one slide and draw it, unless that was done from the same features and weights.

    Raises:
        LearnError: The features were made in another way than those the model was trained on.
        StoreError: There are none, or they are unreadable.
    """
    started = time.monotonic()
    bag = read_features(task.features)
    made_from: dict[str, Any] = {
        "weights": task.weights,
        "novelty": task.novelty,
        "features": bag.digest,
        "heatmaps": list(FORMATS) if task.heatmaps else [],
        "geojson": task.geojson,
    }
    if task.heatmaps and task.every_class:  # not told by predictions made before one could ask
        made_from["heatmap_classes"] = "all"
    if is_done(task.target, _made_from(task), made_from, overwrite=task.overwrite):
        return SlideSkipped(slide_id=task.slide_id, reason=DONE)
    model = _model(task.bundle, task.weights, task.device, task.own)
    settings = feature_settings(bag.attributes) | {WIDTH: bag.features.shape[1]}
    require_same_features(model.config, task.features.parent.name, settings)
    prediction = score(model, bag, made_from)
    placed = place(task.run, task.slide_id, bag, prediction)
    if task.heatmaps:
        draw(
            RunFolder(task.run).heatmaps, task.name, placed, model.config.primary, task.every_class
        )
    if task.geojson:
        export(task.target.with_suffix(".geojson"), placed)
    write_prediction(task.target, prediction)
    unlike = is_unlike(model.config, prediction.novelty)
    return SlideDone(
        slide_id=task.slide_id,
        counts={"tiles": len(bag)},
        flags=("unlike_training",) if unlike else (),
        seconds=time.monotonic() - started,
    )


def score(model: Ensemble, bag: FeatureBag, made_from: Mapping[str, Any]) -> SlidePrediction:
    """Return all that a model, or the mean of its folds, says of one slide."""
    scores, spread = model.score(bag.features)
    return SlidePrediction(
        classes=model.config.classes,
        coords=bag.coords,
        tiles=scores.tiles,
        attention=scores.attention,
        slide=scores.slide,
        spread=spread,
        novelty=model.novelty(bag.features),
        made_from=made_from,
    )


def is_unlike(config: BundleConfig, novelty: float) -> bool:
    """Say whether a slide is another thing than those trained on; no where nothing is known."""
    limit = config.novelty.get("limit")
    return limit is not None and novelty > limit


def _made_from(task: PredictTask) -> Mapping[str, Any] | None:
    if not task.target.exists():
        return None
    try:
        return read_prediction(task.target).made_from
    except StoreCorruptError:
        if task.overwrite:
            return None
        raise


@kept  # a process predicts many slides with one model
def _model(folder: Path, weights: str, device: str, own: tuple[str, ...]) -> Ensemble:
    """Load the model with these weights; one trained anew is another."""
    found = load_ensemble(folder, choose_device(device), own)
    if found.config.weights != weights:
        raise LearnError(f"{folder}: the model was trained anew in the meantime; predict again")
    return found


@dataclass(frozen=True, kw_only=True)
class PlacedPrediction:
    """What a model says of a slide, and where on the slide that is.

    Attributes:
        slide_id: The slide.
        found: The prediction.
        side: Of a tile, in level-0 pixels.
        frame: The slide's.
        store: The same tiles, where they are at hand.
    """

    slide_id: str
    found: SlidePrediction
    side: float
    frame: SlideFrame
    store: TileStore | None


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One map: ``values`` (N,), their ``limits``, the folder's ``suffix`` and what it shows."""

    suffix: str
    what: str
    values: NDArray[np.float32]
    limits: tuple[float, float]


def place(run: Path, slide_id: str, bag: FeatureBag, found: SlidePrediction) -> PlacedPrediction:
    """Find out where the tiles lie; a slide of unknown size is as large as its tiles say.

    Raises:
        StoreError: The tile store that is at hand cannot be opened, or no store tells the tiles'
            size.
    """
    path = find_store(RunFolder(run).tiles, slide_id)
    store = None if path is None else open_tiles(path)
    if store is not None and not np.array_equal(store.coords, found.coords):
        store = None
    side = bag.attributes.get("tile_px_level0") or bag.attributes.get("patch_size_level0")
    if side is None:
        raise StoreError(f"{slide_id}: its features do not tell the tiles' size on level 0")
    known = {**bag.attributes, **(store.attributes if store else {})}
    if known.get("bounds_level0") is None and not known.get("level0_width"):
        width, height = (found.coords.max(axis=0) + np.ceil(side).astype(int)).tolist()
        known["bounds_level0"] = vars(Region(x=0, y=0, width=width, height=height))
    return PlacedPrediction(
        slide_id=slide_id,
        found=found,
        side=float(side),
        frame=SlideFrame.from_attributes(known),
        store=store,
    )


def draw(
    folder: Path, model: str, placed: PlacedPrediction, primary: str, every_class: bool = False
) -> None:
    """Write heatmaps to ``<folder>/<model>-<map>/``: PNG, OME-TIFF, and OME-TIFF of the numbers.

    One shows where the primary model looked, unless it looks everywhere alike; another what the
    tile classifier makes of each tile, for the class that the slide is said to be. With
    ``every_class`` there is one for each class in ``<model>-tiles-<position>-<class>``; else those
    that an earlier prediction left there are removed.
    """
    slide_id, found = placed.slide_id, placed.found
    layers = list(_layers(found, primary))
    for position, name in enumerate(found.classes):
        layer = _class_layer(found, position, f"tiles-{position}-{ODD.sub('_', name)}")
        if every_class:
            layers.append(layer)
            continue
        for suffix in ("png", "json", "ome.tif", VALUES):
            remove(folder / f"{model}-{layer.suffix}" / f"{slide_id}.{suffix}")
    for layer in layers:
        target = folder / f"{model}-{layer.suffix}"
        rgb = _picture(placed, layer)
        write_heatmap(target, slide_id, rgb, layer.what, layer.limits)
        for suffix, limits in (("ome.tif", layer.limits), (VALUES, None)):
            write_ome_heatmap(
                target / f"{slide_id}.{suffix}",
                placed.frame,
                placed.found.coords,
                layer.values,
                placed.side,
                limits,
                name=f"{slide_id}: {layer.what}",
            )


def export(path: Path, placed: PlacedPrediction) -> None:
    """Write the tiles for QuPath: class, probabilities and attention of each."""
    found = placed.found
    attention = {
        f"attention {name}": values * len(values) for name, values in found.attention.items()
    }
    rings = placed.frame.rings(found.coords, placed.side)
    write_text(path, tiles_geojson(rings, found.classes, found.tiles, attention))


def _layers(found: SlidePrediction, primary: str) -> Iterator[_Layer]:
    attention = found.attention[primary] * len(found.coords)
    if np.ptp(attention) > 0:
        yield _Layer(
            suffix="attention",
            what=f"attention of {primary}, relative to an even spread",
            values=attention,
            limits=(0.0, max(float(np.quantile(attention, HOTTEST)), 1.0)),
        )
    yield _class_layer(found, int(found.slide[primary].argmax()), "tiles")


def _class_layer(found: SlidePrediction, position: int, suffix: str) -> _Layer:
    return _Layer(
        suffix=suffix,
        what=f"tile probability of {found.classes[position]}",
        values=found.tiles[:, position],
        limits=(0.0, 1.0),
    )


def _picture(placed: PlacedPrediction, layer: _Layer) -> NDArray[np.uint8]:
    """Draw over the slide's tiles where they are at hand, else over white."""
    if placed.store is not None:
        return store_heatmap(placed.store, layer.values, layer.limits)[0]
    coords, side = placed.found.coords, placed.side
    start = coords.min(axis=0) - side
    extent = coords.max(axis=0) + 2 * side - start
    downsample = float(extent.max()) / CANVAS_PX
    width, height = np.ceil(extent / downsample).astype(int)
    white = np.full((height, width, 3), 255, np.uint8)
    return draw_heatmap(
        white, coords, layer.values, side, downsample,
        origin=(float(start[0]), float(start[1])), limits=layer.limits,
    )  # fmt: skip
