"""One slide scored by a trained bundle, and drawn."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.atomic import write_text
from wsi_pipeline.engine import is_done
from wsi_pipeline.errors import LearnError, StoreCorruptError
from wsi_pipeline.events import SlideDone, SlideSkipped

if TYPE_CHECKING:
    from wsi_pipeline.features import FeatureBag
    from wsi_pipeline.learn import Bundle, SlidePrediction

DONE: Final = "predicted earlier"
UNLIKE: Final = 1.25  # times the highest novelty of a slide trained on: this slide is another thing
HOTTEST: Final = 0.99  # quantile of the attention at which its colours end
CANVAS_PX: Final = 900


@dataclass(frozen=True, kw_only=True)
class PredictTask:
    """One slide's work order."""

    slide_id: str
    run: Path
    features: Path
    bundle: Path
    name: str
    weights: str
    device: str
    heatmaps: bool
    geojson: bool
    overwrite: bool

    @property
    def target(self) -> Path:
        return self.run / "predictions" / self.name / f"{self.slide_id}.h5"


def predict_slide(task: PredictTask) -> SlideDone | SlideSkipped:
    """Score one slide and draw it, unless that was done from the same features and weights.

    Raises:
        LearnError: The features were made in another way than those the model was trained on.
        StoreError: There are none, or they are unreadable.
    """
    from wsi_pipeline.features import read_features
    from wsi_pipeline.learn import (
        feature_settings,
        features_digest,
        require_same_features,
        write_prediction,
    )

    started = time.monotonic()
    bag = read_features(task.features)
    made_from = {
        "weights": task.weights,
        "features": features_digest(bag.features),
        "heatmaps": task.heatmaps,
        "geojson": task.geojson,
    }
    if is_done(task.target, _made_from(task), made_from, overwrite=task.overwrite):
        return SlideSkipped(slide_id=task.slide_id, reason=DONE)
    bundle = _bundle(task.bundle, task.weights, task.device)
    require_same_features(
        bundle.config, task.features.parent.name, feature_settings(bag.attributes)
    )
    prediction = score(bundle, bag, made_from)
    side = float(bag.attributes.get("tile_px_level0") or bag.attributes["patch_size_level0"])
    if task.heatmaps:
        _draw(task, bundle, prediction, side)
    if task.geojson:
        _export(task, bundle, prediction, side)
    write_prediction(task.target, prediction)
    usual = bundle.config.novelty.get("highest")
    unlike = usual is not None and prediction.novelty > UNLIKE * usual
    return SlideDone(
        slide_id=task.slide_id,
        counts={"tiles": len(bag)},
        flags=("unlike_training",) if unlike else (),
        seconds=time.monotonic() - started,
    )


def score(bundle: "Bundle", bag: "FeatureBag", made_from: Mapping[str, Any]) -> "SlidePrediction":
    """Return all that a bundle says of one slide."""
    from wsi_pipeline.learn import SlidePrediction, novelty, score_slide

    scores = score_slide(
        bundle.tile_classifier, bundle.aggregators, bag.features, bundle.config.temperatures
    )
    return SlidePrediction(
        classes=bundle.config.classes,
        coords=bag.coords,
        tiles=scores.tiles,
        attention=scores.attention,
        slide=scores.slide,
        novelty=novelty(bundle.tile_classifier, bag.features),
        made_from=made_from,
    )


def _made_from(task: PredictTask) -> Mapping[str, Any] | None:
    from wsi_pipeline.learn import read_prediction

    if not task.target.exists():
        return None
    try:
        return read_prediction(task.target).made_from
    except StoreCorruptError:
        if task.overwrite:
            return None
        raise


def _draw(task: PredictTask, bundle: "Bundle", found: "SlidePrediction", side: float) -> None:
    """Write two heatmaps: where the model looked, and what the tile classifier makes of it."""
    from wsi_pipeline.reporting import write_heatmap

    primary = bundle.config.primary
    folder = task.run / "heatmaps"
    best = int(found.slide[primary].argmax())
    label = found.classes[best]
    drawings = [
        (f"{task.name}-tiles", f"tile probability of {label}", found.tiles[:, best], (0.0, 1.0))
    ]
    attention = found.attention[primary] * len(found.coords)
    if np.ptp(attention) > 0:
        limits = (0.0, max(float(np.quantile(attention, HOTTEST)), 1.0))
        what = f"attention of {primary}, relative to an even spread"
        drawings.insert(0, (f"{task.name}-attention", what, attention, limits))
    for name, what, values, limits in drawings:
        rgb = _heatmap(task, found, values, side, limits)
        write_heatmap(folder / name, task.slide_id, rgb, what, limits)


def _heatmap(
    task: PredictTask,
    found: "SlidePrediction",
    values: NDArray[np.float32],
    side: float,
    limits: tuple[float, float],
) -> NDArray[np.uint8]:
    """Draw over the slide's tiles where they are at hand, else over white."""
    from wsi_pipeline.reporting import draw_heatmap, store_heatmap
    from wsi_pipeline.tiles import find_store, open_tiles

    path = find_store(task.run / "tiles", task.slide_id)
    if path is not None:
        store = open_tiles(path)
        if np.array_equal(store.coords, found.coords):
            return store_heatmap(store, values, limits)[0]
    start = found.coords.min(axis=0) - side
    extent = found.coords.max(axis=0) + 2 * side - start
    downsample = float(extent.max()) / CANVAS_PX
    width, height = np.ceil(extent / downsample).astype(int)
    white = np.full((height, width, 3), 255, np.uint8)
    origin = (float(start[0]), float(start[1]))
    return draw_heatmap(white, found.coords, values, side, downsample, origin=origin, limits=limits)


def _export(task: PredictTask, bundle: "Bundle", found: "SlidePrediction", side: float) -> None:
    """Write the tiles for QuPath: class, probabilities and attention of each."""
    from wsi_pipeline.reporting import tiles_geojson

    attention = {
        f"attention {name}": values * len(values) for name, values in found.attention.items()
    }
    text = tiles_geojson(found.coords, side, bundle.config.classes, found.tiles, attention)
    write_text(task.target.with_suffix(".geojson"), text)


@lru_cache(maxsize=1)  # a process predicts many slides with one model
def _bundle(folder: Path, weights: str, device: str) -> "Bundle":
    """Load the bundle with these weights; a bundle trained anew is another."""
    from wsi_pipeline.learn import load_bundle, resolve_device

    bundle = load_bundle(folder, resolve_device(device))
    if bundle.config.digests["weights"] != weights:
        raise LearnError(f"{folder}: the model was trained anew in the meantime; predict again")
    return bundle
