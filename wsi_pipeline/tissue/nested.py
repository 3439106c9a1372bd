"""Which region speaks where regions of different classes overlap.

Who draws necrosis within a tumour means the necrosis: the inner region wins, at any depth, also a
class drawn within a region that is left out. Where two regions only overlap, or are one shape under
two names, nothing says which is meant, and neither speaks there; what is left out stays out.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import shapely

WITHIN: Final = 0.9  # share of a region that lies in another it is drawn in: hands are not exact
SAME: Final = 0.99  # of the larger's area: one shape drawn twice

Area = Any  # a shapely geometry


def areas_alone(
    areas: Sequence[Area], labels: Sequence[str | None], included: Sequence[bool]
) -> list[Area]:
    """Return the part of each region in which it speaks.

    Args:
        areas: Valid polygons of any number of parts, level-0 px; may be empty.
        labels: Their classes; a region without one is no class, and no other takes from it.
        included: False of regions to be left out, whatever their class.
    """
    kinds = [label if inside else False for label, inside in zip(labels, included, strict=True)]
    sizes = shapely.area(np.asarray(areas, object)) if len(areas) else np.empty(0)
    taken: dict[int, list[Area]] = defaultdict(list)
    for first, second in _pairs(areas):
        small, large = (first, second) if sizes[first] <= sizes[second] else (second, first)
        for loser, winner in _losers(areas, kinds, small, large):
            taken[loser].append(areas[winner])
    return [
        shapely.difference(area, shapely.union_all(taken[number])) if number in taken else area
        for number, area in enumerate(areas)
    ]


def _pairs(areas: Sequence[Area]) -> list[tuple[int, int]]:
    """Return the pairs that touch or overlap, found by an index of places."""
    if len(areas) < 2:
        return []
    first, second = shapely.STRtree(areas).query(areas, predicate="intersects")
    return [(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True) if a < b]


def _losers(
    areas: Sequence[Area], kinds: Sequence[str | bool | None], small: int, large: int
) -> list[tuple[int, int]]:
    """Return who loses what they share, and to whom, of two regions that touch."""
    pair = (kinds[small], kinds[large])
    if pair[0] == pair[1] or (None in pair and False not in pair):
        return []
    common = shapely.area(shapely.intersection(areas[small], areas[large]))
    if common == 0:
        return []
    sizes = areas[small].area, areas[large].area
    inside = common >= WITHIN * sizes[0] and sizes[0] < SAME * sizes[1]
    if inside and pair[0] is not None:
        return [(large, small)]
    if pair[0] is False:
        return [(large, small)]
    if pair[1] is False:
        return [(small, large)]
    return [(small, large), (large, small)]
