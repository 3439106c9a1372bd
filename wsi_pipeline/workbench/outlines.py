"""From masks to outlines and back to what a page draws."""

from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

from wsi_pipeline.types import Mask

FEWEST_CORNERS: Final = 3  # of a polygon


def mask_area(mask: Mask, downsample: float, origin: tuple[float, float]) -> MultiPolygon:
    """Return the area of a mask's pixels, level-0 px: what :func:`annotated_mask` undoes."""
    contours, parents = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    outer: dict[int, Any] = {}
    holes: list[tuple[int, Any]] = []
    for index, contour in enumerate(contours):
        parent = int(parents[0, index, 3])
        points = contour[:, 0].astype(np.float64)
        if parent < 0:
            outer[index] = _through(points)
        else:
            holes.append((parent, points))
    for parent, points in holes:  # they run through the mask's own pixels around the hole
        outer[parent] = outer[parent].difference(Polygon(points).buffer(-0.5, join_style="mitre"))
    area = shapely.union_all(list(outer.values()))
    return polygons(shapely.transform(area, lambda xy: (xy + 0.5) * downsample + origin))


def rings(area: MultiPolygon) -> Iterator[list[float]]:
    """Yield outlines, holes too, as x, y, x, y …"""
    for part in area.geoms:
        for ring in (part.exterior, *part.interiors):
            yield np.asarray(ring.coords)[:, :2].round(1).ravel().tolist()


def _through(points: Any) -> Any:
    """Return the area of an outline through the middles of its pixels, out to their edges."""
    if len(points) < FEWEST_CORNERS:
        line = shapely.LineString(points) if len(points) > 1 else shapely.Point(points[0])
        return line.buffer(0.5, cap_style="square")
    return shapely.make_valid(Polygon(points)).buffer(0.5, cap_style="square", join_style="mitre")


def polygons(area: Any) -> MultiPolygon:
    """Return the parts of a shape that have an area."""
    parts = [each for each in getattr(area, "geoms", [area]) if isinstance(each, Polygon)]
    return MultiPolygon([each for each in parts if not each.is_empty])
