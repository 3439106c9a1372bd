"""Cores as QuPath knows them: GeoJSON out for a look there, and in again."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.atomic import write_text
from wsi_pipeline.errors import CohortError
from wsi_pipeline.microarray.table import NOBODY, PlacedCore, place_name
from wsi_pipeline.types import Region

CORNERS = 48  # of the polygon that stands for a circle


def write_geojson_cores(path: Path, cores: Sequence[PlacedCore], margin: float) -> None:
    """Write cores as QuPath TMA cores, level-0 px; missing ones, which have no place, are left out.

    Args:
        path: The file.
        cores: The table.
        margin: Of the regions' sides, in core diameters.
    """
    features = [_feature(core, margin) for core in cores if core.region is not None]
    text = json.dumps({"type": "FeatureCollection", "features": features}, indent=1)
    write_text(path, text + "\n")


def read_geojson_cores(path: Path, cores: Sequence[PlacedCore], margin: float) -> list[PlacedCore]:
    """Read cores back: where QuPath has them now, and which it calls missing.

    Args:
        path: A FeatureCollection; cores are known by their names, ids or places (``A-1``, ``A1``).
        cores: The table they belong to.
        margin: Of the regions' sides, in core diameters.

    Returns:
        The table with the places that the file gives; cores that the file lacks are missing.

    Raises:
        CohortError: It is no such file, or names a core that the table does not have, or twice.
    """
    try:
        found = json.loads(path.read_text("utf-8-sig"))
        features = found["features"] if isinstance(found, dict) else found
    except (OSError, ValueError, KeyError) as error:
        raise CohortError(f"{path}: no GeoJSON of cores: {error}") from None
    names = {
        name.casefold(): k
        for k, core in enumerate(cores)
        if core.mapped.core_id
        for name in {core.mapped.core_id, place_name(core.mapped),
                     f"{core.mapped.row}-{core.mapped.column}"}
    }  # fmt: skip
    table = [
        replace(core, region=None, status="missing", tissue=None, certainty=None)
        for core in cores if core.mapped.core_id
    ]  # fmt: skip
    order = {k: n for n, k in enumerate(k for k, core in enumerate(cores) if core.mapped.core_id)}
    seen: set[int] = set()
    strangers = []
    for feature in features:
        if (properties := feature.get("properties") or {}).get("objectType") != "tmaCore":
            continue
        region = _region(path, feature, margin)
        name = str(properties.get("name") or "")
        if not name:
            strangers.append(PlacedCore(mapped=NOBODY, region=region, status="unmapped"))
            continue
        if (index := names.get(name.casefold())) is None:
            raise CohortError(f"{path}: core {name!r} is not in the table")
        if index in seen:
            raise CohortError(f"{path}: core {name!r} stands twice")
        seen.add(index)
        gone = bool(properties.get("isMissing"))
        table[order[index]] = replace(
            cores[index], region=None if gone else region, status="missing" if gone else "",
            certainty=None if gone else 1.0,
        )  # fmt: skip
    if not seen:
        raise CohortError(f"{path}: no core of the table is in it")
    return table + strangers


def _feature(core: PlacedCore, margin: float) -> dict[str, Any]:
    region = core.region
    assert region is not None
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radius = region.width / margin / 2
    x = region.x + region.width / 2 + radius * np.cos(angles)
    y = region.y + region.height / 2 + radius * np.sin(angles)
    ring = [[round(float(a), 1), round(float(b), 1)] for a, b in zip(x, y, strict=True)]
    mapped = core.mapped
    about = {"Case ID": mapped.patient_id, "Core ID": mapped.core_id, "Label": mapped.label}
    properties: dict[str, Any] = {
        "objectType": "tmaCore",
        "isMissing": core.status in ("lost", "missing"),
        "metadata": {name: value for name, value in about.items() if value},
    }
    if mapped.core_id:
        properties["name"] = mapped.core_id
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": properties,
    }


def _region(path: Path, feature: dict[str, Any], margin: float) -> Region:
    try:
        corners = np.array(feature["geometry"]["coordinates"][0], dtype=np.float64)
        low, high = corners[:, :2].min(axis=0), corners[:, :2].max(axis=0)
    except (KeyError, IndexError, TypeError, ValueError):
        raise CohortError(f"{path}: a core without a polygon") from None
    side = round(float((high - low).max()) * margin)
    x, y = (round(float(middle) - side / 2) for middle in (low + high) / 2)
    return Region(x=x, y=y, width=side, height=side)
