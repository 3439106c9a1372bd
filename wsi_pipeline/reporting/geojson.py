"""Tiles as detections that QuPath imports."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreError
from wsi_pipeline.reporting.style import colour_of


def tiles_geojson(
    rings: NDArray[np.floating[Any]],
    classes: Sequence[str],
    probabilities: NDArray[np.floating[Any]],
    measurements: Mapping[str, NDArray[np.floating[Any]]] | None = None,
) -> str:
    """Tiles as a GeoJSON feature collection of detections.

    Each is classified by its likeliest class, with one measurement a class (``p(<class>)``) and the
    further ones given.

    Args:
        rings: (N, 4, 2), the corners of each tile in the viewer's pixels (:class:`SlideFrame`).
        classes: Names of the C classes; empty for tiles without probabilities.
        probabilities: (N, C).
        measurements: Name to (N,) numbers, such as attention.

    Raises:
        StoreError: Row counts or the number of classes disagree.
    """
    extra = {} if measurements is None else dict(measurements)
    shapes = {"probabilities": probabilities.shape, **{k: v.shape for k, v in extra.items()}}
    asked = {"probabilities": (len(rings), len(classes)), **dict.fromkeys(extra, (len(rings),))}
    if shapes != asked:
        raise StoreError(f"Tiles for GeoJSON disagree: {shapes}, expected {asked}.")
    names = [*(f"p({name})" for name in classes), *extra]
    table = np.column_stack([probabilities, *extra.values()]).astype(np.float64).round(6).tolist()
    best = probabilities.argmax(1).tolist() if classes else [None] * len(rings)
    kinds = [{"name": name, "color": _rgb(index)} for index, name in enumerate(classes)]
    closed = np.concatenate([rings, rings[:, :1]], axis=1).round(3).tolist()
    features = []
    for ring, numbers, index in zip(closed, table, best, strict=True):
        properties: dict[str, Any] = {
            "objectType": "detection",
            "measurements": dict(zip(names, numbers, strict=True)),
        }
        if index is not None:
            properties["classification"] = kinds[index]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))


def _rgb(index: int) -> list[int]:
    colour = colour_of(index)
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
