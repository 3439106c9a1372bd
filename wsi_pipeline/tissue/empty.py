"""What is empty of a tile: where light passes as through the slide's glass.

Judged on pixels as scanned, so that no stain method changes it, at about 2 µm/px. The light in a
lumen is tinted (233, 226, 234 beside glass of 243 on one slide), and clear cells are nearly as pale
as glass: brightness alone tells neither. Three kinds of places are empty:

* even ones: bright, without contrast, at least 10 µm wide: lumina, vessels, glass;
* calm ones: a little darker, but nothing dark within 22 µm: glass with specks or mucus on it;
* narrow ones: bright and 6 µm wide, over a larger area: clefts and torn edges.

The vacuoles and the cleared cytoplasm of single cells are smaller and parted by membranes, or have
wisps in them: they are tissue.

Developed on liver with clefts, on glycogen-filled liver (H&E) and on PAS liver; on the other slides
an estimate by another method differs by more than 0.1 on at most 1 % of tiles
(``tests/tissue/test_empty.py``).
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tissue.coarse import CoarseTiles, Levels, as_picture
from wsi_pipeline.tissue.ink import disc

BRIGHT_DENSITY: Final = 0.05  # optical density of any channel against glass, that of a lumen's tint
CALM_DENSITY: Final = 0.07
EDGE_DENSITY: Final = 0.08  # up to which an empty place reaches into its blurred edge
MOST_CONTRAST: Final = 20  # grey levels between neighbours, in an even place
EVEN_UM: Final = 4.0  # half widths that places must have
CALM_UM: Final = 10.0
NARROW_UM: Final = 2.0
EDGE_UM: Final = 4.0
LEAST_UM2: Final = 400.0  # a cell

_CROSS = disc(1)


def empty_fractions(coarse: CoarseTiles, glass: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of each tile that is empty.

    Args:
        coarse: (N, h, w, 3) tiles as scanned.
        glass: (3,) uint8, colour of the slide's empty glass.

    Returns:
        (N,) float32 in [0, 1].
    """
    area = coarse.rgb.shape[1] * coarse.rgb.shape[2]
    counts = [
        cv2.countNonZero(mask) if mask is not None else 0
        for few in coarse.handfuls
        for mask in _few(few, glass)
    ]
    return np.asarray(np.array(counts, np.float64) / max(area, 1), np.float32)


def empty_masks(coarse: CoarseTiles, glass: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where each tile is empty; (N, h, w) bool. See :func:`empty_fractions`."""
    found = np.zeros(coarse.rgb.shape[:3], np.bool_)
    for index, mask in enumerate(mask for few in coarse.handfuls for mask in _few(few, glass)):
        if mask is not None:
            found[index] = mask != 0
    return found


def _few(coarse: CoarseTiles, glass: NDArray[np.uint8]) -> list[Levels | None]:
    """(h, w) uint8 for each tile, not 0 where it is empty; None where nothing is."""
    if not len(coarse.rgb):
        return []
    find = _Finder(coarse.um_per_px)
    calm = _as_bright(coarse, glass, CALM_DENSITY)
    if not any(map(find.suffices, calm)):  # as most tissue: the rest need not be asked
        return [None] * len(calm)
    bright, edge = (
        _as_bright(coarse, glass, density) for density in (BRIGHT_DENSITY, EDGE_DENSITY)
    )
    grey = np.asarray(cv2.cvtColor(as_picture(coarse.rgb), cv2.COLOR_RGB2GRAY), np.uint8)
    return [
        find(*planes) for planes in zip(bright, calm, edge, grey.reshape(calm.shape), strict=True)
    ]


def _as_bright(coarse: CoarseTiles, glass: NDArray[np.uint8], density: float) -> Levels:
    """255 where all channels let as much light through as glass of this optical density."""
    low = np.ceil(glass.astype(np.float64) * 10**-density)
    shape = coarse.planes[0].shape
    red, green, blue = (
        cv2.threshold(plane.reshape(-1, shape[2]), least - 1, 255, cv2.THRESH_BINARY)[1]
        for plane, least in zip(coarse.planes, low.tolist(), strict=True)
    )
    return np.asarray(cv2.min(cv2.min(red, green, dst=red), blue, dst=red), np.uint8).reshape(shape)


class _Finder:
    """Finds what is empty on tiles of one resolution."""

    def __init__(self, um_per_px: float) -> None:
        self._even, self._calm, self._narrow, self._edge = (
            disc(max(1, round(um / um_per_px))) for um in (EVEN_UM, CALM_UM, NARROW_UM, EDGE_UM)
        )
        self._least_px = max(1, round(LEAST_UM2 / um_per_px**2))

    def suffices(self, mask: Levels) -> bool:
        """Whether so much could be larger than a cell."""
        return cv2.countNonZero(mask) >= self._least_px

    def __call__(self, bright: Levels, calm: Levels, edge: Levels, grey: Levels) -> Levels | None:
        if not self.suffices(calm):
            return None
        if cv2.countNonZero(calm) == calm.size:
            return calm  # however bright
        places = self._large(_opened(calm, self._calm))
        if not self.suffices(bright):
            return places
        contrast = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, _CROSS)
        even = cv2.bitwise_and(bright, cv2.compare(contrast, MOST_CONTRAST, cv2.CMP_LE))
        found = self._large(_opened(np.asarray(even, np.uint8), self._even), places)
        if found is not None:
            reached = cv2.bitwise_and(cv2.dilate(found, self._edge), edge)
            cv2.bitwise_or(found, reached, dst=found)
        narrow = self._large(_opened(bright, self._narrow))
        return _either(found, narrow)

    def _large(self, mask: Levels, more: Levels | None = None) -> Levels | None:
        """Keep the pieces of a mask, or of two, that are larger than a cell; None if none is."""
        if more is not None:
            mask = np.asarray(cv2.bitwise_or(mask, more), np.uint8)
        if not self.suffices(mask):
            return None
        count, labels = cv2.connectedComponents(mask, connectivity=4)
        if count == 2:  # one piece besides what is not set
            return mask
        if count > 256:
            large = np.bincount(labels.ravel()) >= self._least_px
            large[0] = False
            return np.asarray(np.where(large[labels], 255, 0), np.uint8) if large.any() else None
        numbers = labels.astype(np.uint8)
        areas = cv2.calcHist([numbers], [0], None, [256], [0, 256])
        keep = np.asarray(cv2.compare(areas, self._least_px, cv2.CMP_GE), np.uint8)
        keep[0] = 0
        kept = cv2.countNonZero(keep)
        if kept in (0, count - 1):
            return mask if kept else None
        return np.asarray(cv2.LUT(numbers, keep.reshape(256)), np.uint8)


def _either(one: Levels | None, other: Levels | None) -> Levels | None:
    if one is None or other is None:
        return other if one is None else one
    return np.asarray(cv2.bitwise_or(one, other), np.uint8)


def _opened(mask: Levels, element: Levels) -> Levels:
    """Open a mask as if it went on beyond the tile's sides."""
    border = cv2.BORDER_REPLICATE
    eroded = np.asarray(cv2.erode(mask, element, borderType=border), np.uint8)
    if not cv2.countNonZero(eroded):
        return eroded
    return np.asarray(cv2.dilate(eroded, element, borderType=border), np.uint8)
