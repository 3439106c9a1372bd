"""Is a feature store what it should be? Every problem is one sentence."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from wsi_pipeline.errors import StoreError
from wsi_pipeline.features.store import (
    COORDS_ATTRIBUTES,
    FEATURES_ATTRIBUTES,
    FeatureBag,
    read_features,
)
from wsi_pipeline.types import Coords


def verify_features(
    path: Path, input_digest: str | None = None, coords: Coords | None = None
) -> list[str]:
    """Check a feature store.

    Args:
        path: The file.
        input_digest: Digest of the input as it is now; None leaves staleness unchecked.
        coords: (N, 2) of the tiles that it should be of; None leaves them unchecked.

    Returns:
        What is wrong with it; empty when nothing is.
    """
    try:
        bag = read_features(path)
        with h5py.File(path, "r") as file:
            problems = [*_attributes(file), *_types(file)]
    except StoreError as error:
        return [str(error)]
    problems += _rows(bag)
    stored = bag.attributes.get("input_digest")
    if input_digest is not None and stored != input_digest:
        problems.append(f"made from another input (digest {stored}, now {input_digest})")
    if coords is not None:
        problems += _tiles(bag, coords)
    return [f"{path}: {problem}" for problem in problems]


def _tiles(bag: FeatureBag, coords: Coords) -> Iterator[str]:
    if len(bag) != len(coords):
        yield f"{len(bag)} features of {len(coords)} tiles; extract the slide again"
    elif not np.array_equal(bag.coords, coords):
        yield "its coords are not those of the tiles; extract the slide again"


def _attributes(file: h5py.File) -> Iterator[str]:
    for name, wanted in (("coords", COORDS_ATTRIBUTES), ("features", FEATURES_ATTRIBUTES)):
        missing = [key for key in wanted if key not in file[name].attrs]
        if missing:
            yield f"{name} lacks the attributes {', '.join(missing)}"


def _types(file: h5py.File) -> Iterator[str]:
    features, coords = file["features"], file["coords"]
    if features.dtype not in (np.float32, np.float16):
        yield f"features are {features.dtype}, not float32 or float16"
    if coords.dtype != np.int64:
        yield f"coords are {coords.dtype}, not int64"


def _rows(bag: FeatureBag) -> Iterator[str]:
    features, coords = bag.features, bag.coords
    if features.ndim != 2 or coords.shape != (len(features), 2):
        yield f"features {features.shape} and coords {coords.shape} do not belong together"
        return
    if not len(features):
        yield "no features"
        return
    bad = int((~np.isfinite(features).all(axis=1)).sum())
    if bad:
        yield f"{bad} of {len(features)} features are not finite"
    twice = len(coords) - len(np.unique(coords, axis=0))
    if twice:
        yield f"{twice} tiles stand there twice"
    width, height = (bag.attributes.get(f"level0_{side}") for side in ("width", "height"))
    if width and height:
        outside = int(((coords >= (width, height)) | (coords < 0)).any(axis=1).sum())
        if outside:
            yield f"{outside} tiles lie outside of the slide's {width}×{height} px"
