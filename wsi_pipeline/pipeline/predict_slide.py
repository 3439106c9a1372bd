"""One slide scored by a trained bundle, and drawn."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from wsi_pipeline.engine import is_done
from wsi_pipeline.errors import LearnError, StoreCorruptError
from wsi_pipeline.events import SlideDone, SlideSkipped
from wsi_pipeline.features import FeatureBag, choose_device, read_features
from wsi_pipeline.learn import (
    WIDTH,
    BundleConfig,
    Ensemble,
    SlidePrediction,
    feature_settings,
    features_digest,
    load_ensemble,
    read_prediction,
    require_same_features,
    write_prediction,
)
from wsi_pipeline.pipeline.predict_draw import FORMATS, draw, export, place
from wsi_pipeline.run_folder import RunFolder

DONE: Final = "predicted earlier"


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
    geojson: bool
    overwrite: bool

    @property
    def target(self) -> Path:
        return RunFolder(self.run).prediction(self.name, self.slide_id)


def predict_slide(task: PredictTask) -> SlideDone | SlideSkipped:
    """Score one slide and draw it, unless that was done from the same features and weights.

    Raises:
        LearnError: The features were made in another way than those the model was trained on.
        StoreError: There are none, or they are unreadable.
    """
    started = time.monotonic()
    bag = read_features(task.features)
    made_from = {
        "weights": task.weights,
        "novelty": task.novelty,
        "features": features_digest(bag.features),
        "heatmaps": list(FORMATS) if task.heatmaps else [],
        "geojson": task.geojson,
    }
    if is_done(task.target, _made_from(task), made_from, overwrite=task.overwrite):
        return SlideSkipped(slide_id=task.slide_id, reason=DONE)
    model = _model(task.bundle, task.weights, task.device, task.own)
    settings = feature_settings(bag.attributes) | {WIDTH: bag.features.shape[1]}
    require_same_features(model.config, task.features.parent.name, settings)
    prediction = score(model, bag, made_from)
    placed = place(task.run, task.slide_id, bag, prediction)
    if task.heatmaps:
        draw(RunFolder(task.run).heatmaps, task.name, placed, model.config.primary)
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


@lru_cache(maxsize=1)  # a process predicts many slides with one model
def _model(folder: Path, weights: str, device: str, own: tuple[str, ...]) -> Ensemble:
    """Load the model with these weights; one trained anew is another."""
    found = load_ensemble(folder, choose_device(device), own)
    if found.config.weights != weights:
        raise LearnError(f"{folder}: the model was trained anew in the meantime; predict again")
    return found
