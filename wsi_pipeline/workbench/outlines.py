"""From masks to outlines and back to what a page draws."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

from wsi_pipeline.types import Mask


def mask_area(mask: Mask, downsample: float, origin: tuple[float, float]) -> MultiPolygon:
    """Return the area of a mask's pixels, level-0 px: what :func:`annotated_mask` undoes."""
    steps = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(steps > 0)
    ends = np.nonzero(steps < 0)[1]
    area = shapely.union_all(shapely.box(starts, rows, ends, rows + 1))
    corners = shapely.simplify(area, 0)  # no points along a straight edge
    return polygons(shapely.transform(corners, lambda xy: xy * downsample + origin))


def rings(area: MultiPolygon) -> Iterator[list[float]]:
    """Yield outlines, holes too, as x, y, x, y …"""
    for part in area.geoms:
        for ring in (part.exterior, *part.interiors):
            yield np.asarray(ring.coords)[:, :2].round(1).ravel().tolist()


def polygons(area: Any) -> MultiPolygon:
    """Return the parts of a shape that have an area."""
    parts = [each for each in getattr(area, "geoms", [area]) if isinstance(each, Polygon)]
    return MultiPolygon([each for each in parts if not each.is_empty])
