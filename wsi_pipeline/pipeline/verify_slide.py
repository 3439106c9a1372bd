"""Everything that a run folder holds of one slide, checked against what it was made from."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.errors import StoreError, WsiError
from wsi_pipeline.events import SlideDone, SlideSkipped
from wsi_pipeline.features import read_attributes, read_features, verify_features
from wsi_pipeline.learn import features_digest, read_bundle_config, read_prediction
from wsi_pipeline.run_folder import STORE, BundleFile, RunFolder
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.tiles import (
    Place,
    TileStore,
    find_store,
    kept_mask,
    open_tiles,
    store_digest,
    verify_tiles,
)
from wsi_pipeline.types import Floats


@dataclass(frozen=True, kw_only=True)
class VerifyTask:
    """One slide's work order.

    Attributes:
        slide_id: The slide.
        run: Run folder.
        slide: Its file, to see whether it changed since; None leaves that unchecked.
        dropped: Level-0 (x, y) of tiles that a person decided to leave out.
        pixels: Whether every tile is decoded.
    """

    slide_id: str
    run: Path
    slide: str | None
    dropped: frozenset[Place]
    pixels: bool


def verify_slide(task: VerifyTask) -> SlideDone | SlideSkipped:
    """Check a slide's tiles, features and predictions.

    Raises:
        StoreError: It names everything that is wrong.
    """
    started = time.monotonic()
    tiles = find_store(RunFolder(task.run).tiles, task.slide_id)
    features = sorted(RunFolder(task.run).features.glob(f"[!.]*/{task.slide_id}{STORE}"))
    predictions = sorted(RunFolder(task.run).predictions.glob(f"[!.]*/{task.slide_id}{STORE}"))
    if tiles is None and not features and not predictions:
        return SlideSkipped(slide_id=task.slide_id, reason="nothing there")
    problems: list[str] = []
    if tiles is not None:
        problems += verify_tiles(tiles, _digest_now(task, problems), pixels=task.pixels)
    store = None if tiles is None else _open(tiles)
    for path in features:
        problems += _features(path, store, task)
    for path in predictions:
        problems += _prediction(path, task)
    if problems:
        raise StoreError("; ".join(dict.fromkeys(problems)))
    return SlideDone(
        slide_id=task.slide_id,
        counts={
            "tile stores": int(tiles is not None),
            "feature stores": len(features),
            "predictions": len(predictions),
        },
        seconds=time.monotonic() - started,
    )


def _digest_now(task: VerifyTask, problems: list[str]) -> str | None:
    if task.slide is None:
        return None
    try:
        return slide_digest(task.slide)
    except WsiError as error:
        problems.append(str(error))
        return None


def _open(path: Path) -> TileStore | None:
    """Open a store that has been checked; None where it was found wanting."""
    try:
        return open_tiles(path)
    except StoreError:
        return None


def _features(path: Path, store: TileStore | None, task: VerifyTask) -> list[str]:
    """Check a feature store, and whether its tiles are still those it was made of."""
    try:
        made_from: dict[str, Any] = read_attributes(path).get("made_from") or {}
    except StoreError as error:
        return [str(error)]
    if store is None or made_from.get("source") != "tiles":
        return verify_features(path)
    kept = store.coords[kept_mask(store.coords, task.dropped)]
    return verify_features(path, store_digest(store), kept)


def _prediction(path: Path, task: VerifyTask) -> Iterator[str]:
    """Yield what is wrong with a prediction: itself, its features, its model."""
    again = "predict again with --overwrite"
    try:
        found = read_prediction(path)
        bundle = RunFolder(task.run).model(path.parent.name)
        if (bundle / BundleFile.CONFIG).exists():
            weights = read_bundle_config(bundle).digests.get("weights")
            if found.made_from.get("weights") != weights:
                yield f"{path}: is of an earlier model {path.parent.name}; {again}"
            encoder = read_bundle_config(bundle).encoder
            store = RunFolder(task.run).feature_store(encoder, task.slide_id)
            if store.exists():
                digest = features_digest(read_features(store).features)
                if found.made_from.get("features") != digest:
                    yield f"{path}: is of other features than {store}; {again}"
    except WsiError as error:
        yield str(error)
        return
    values: list[Floats] = [found.tiles.ravel(), *found.attention.values(), *found.slide.values()]
    if not np.isfinite(np.concatenate(values)).all():
        yield f"{path}: holds values that are not finite; {again}"
    rows = {len(found.coords), len(found.tiles), *map(len, found.attention.values())}
    if len(rows) > 1:
        yield f"{path}: row counts differ: {', '.join(map(str, sorted(rows)))}; {again}"
