"""A value per tile, seen over the slide.

Colours come from a perceptually uniform map: equal steps in value look like equal steps in colour,
also in grey and to the colour-blind. Each tile is painted as the square it is; nothing is smoothed,
because a value was computed for each tile and for nothing between.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_pipeline.errors import StoreError
from wsi_pipeline.types import Coords, RgbImage

COLOUR_MAP = "viridis"
_OPACITY = 0.62
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE = 0.36


def draw_heatmap(  # noqa: PLR0913  a picture, its tiles and where they lie
    thumbnail: RgbImage,
    coords: Coords,
    values: ArrayLike,
    tile_px_level0: float,
    downsample: float,
    *,
    origin: tuple[float, float] = (0, 0),
    limits: tuple[float, float] | None = None,
    colour_bar: bool = False,
) -> RgbImage:
    """Colour the tiles of a slide over its thumbnail.

    The tissue beneath is shown in grey, so that the only colours are the values'.

    Args:
        thumbnail: (H, W, 3) uint8 overview.
        coords: (N, 2) int64, level-0 (x, y) of each tile's top-left corner.
        values: (N,) finite numbers.
        tile_px_level0: Side of a tile in level-0 pixels.
        downsample: Level-0 pixels per thumbnail pixel.
        origin: Level-0 (x, y) of the thumbnail's top-left corner.
        limits: Values at the ends of the colours; None takes the least and the largest.
        colour_bar: Add a strip below, with the limits written at its ends.

    Returns:
        (H, W, 3) uint8; with a colour bar, some rows higher.

    Raises:
        StoreError: ``coords`` and ``values`` disagree, or a value is not finite.
    """
    numbers = np.asarray(values, np.float64)
    if coords.shape != (len(numbers), 2) or numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise StoreError(
            f"A heatmap needs N coords with N finite values, not {coords.shape} and "
            f"{numbers.shape}."
        )
    low, high = limits if limits is not None else value_limits(numbers)
    # where tiles overlap, the larger value is painted last, so that nothing hot is hidden
    order = np.argsort(numbers, kind="stable")
    corners = coords[order] - np.asarray(origin)
    grey = np.repeat(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    height, width = grey.shape[:2]
    seen = lay_boxes(boxes_of(corners, tile_px_level0, downsample), (width, height)).pixels()
    covered = seen >= 0
    colours = np.append(colours_of(numbers[order], low, high), [[0, 0, 0]], axis=0)
    painted = np.where(covered[..., None], colours[seen], grey).astype(np.uint8)
    blended = cv2.addWeighted(painted, _OPACITY, grey, 1 - _OPACITY, 0)
    pale = cv2.addWeighted(grey, 0.5, np.full_like(grey, 255), 0.5, 0)
    drawn = np.where(covered[..., None], blended, pale).astype(np.uint8)
    return with_colour_bar(drawn, (low, high)) if colour_bar else drawn


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A picture cut along every edge of the boxes in it: a grid far smaller than its pixels.

    Attributes:
        seen: (R, C) int64, which box is on top in a cell: the last that covers it, -1 if none does.
        rows: (height,) int64, the cell of each row of pixels.
        columns: (width,) int64, that of each column.
    """

    seen: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    def pixels(self) -> NDArray[np.int64]:
        """Return which box is seen at each pixel, (height, width)."""
        return self.seen[self.rows][:, self.columns]


def boxes_of(corners: NDArray[Any], side: float, step: float) -> NDArray[np.int64]:
    """Return (N, 4) int64, x0 y0 x1 y1 of tiles on a picture of ``step`` px a pixel.

    Each is at least a pixel wide; ``corners`` (N, 2) and ``side`` are in the px of ``step``.
    """
    starts = np.rint(corners / step).astype(np.int64)
    ends = np.rint((corners + side) / step).astype(np.int64)
    return np.hstack([starts, np.maximum(ends, starts + 1)])


def lay_boxes(boxes: NDArray[np.int64], size: tuple[int, int]) -> Cells:
    """Lay boxes (N, 4) over each other, the last on top, on a picture of (width, height)."""
    inside = boxes.clip(0, [*size, *size])
    columns, left, right, wide = _cut(inside[:, 0::2], size[0])
    rows, top, bottom, high = _cut(inside[:, 1::2], size[1])
    seen = np.full((high, wide), -1, np.int64)
    most = int((right - left).max(initial=0)), int((bottom - top).max(initial=0))
    if most[0] * most[1] > len(boxes):  # a few large ones, cut by many edges
        for number, (x0, x1, y0, y1) in enumerate(zip(left, right, top, bottom, strict=True)):
            seen[y0:y1, x0:x1] = number
        return Cells(seen=seen, rows=rows, columns=columns)
    for across, down in np.ndindex(most):
        here = np.flatnonzero((left + across < right) & (top + down < bottom))
        np.maximum.at(seen, (top[here] + down, left[here] + across), here)
    return Cells(seen=seen, rows=rows, columns=columns)


def _cut(
    ends: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """Cut a side of a picture where boxes begin and end, (N, 2).

    Returns:
        The cell of each of ``size`` pixels, the first cell of each box, the one after its last,
        and the count of cells.
    """
    cut = np.zeros(size + 1, np.int64)
    cut[ends] = 1
    cut[0] = 0  # the first cell begins there, cut or not
    cells = cut.cumsum()
    first, last = cells[ends].T
    return cells[:size], first, last, int(cells[-1]) + 1


def with_colour_bar(rgb: RgbImage, limits: tuple[float, float], what: str = "") -> RgbImage:
    """Add a strip of colours below a heatmap, the limits at its ends and ``what`` it shows."""
    bar = _bar(rgb.shape[1], *limits)
    if what:
        bar = np.vstack([bar, _line(rgb.shape[1], what)])
    return np.vstack([rgb, bar])


def value_limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Least and largest value; a single value gets a little room so that a scale exists."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def colours_of(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """(N, 3) uint8 RGB for (N,) values; those beyond the limits take the colour of the end."""
    scaled = np.clip((values - low) / (high - low), 0.0, 1.0)
    return np.asarray(mpl.colormaps[COLOUR_MAP](scaled, bytes=True)[..., :3], np.uint8)


def colour_stops(count: int = 9) -> list[str]:
    """Hexadecimal colours along the map, for a scale drawn elsewhere."""
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colours_of(np.linspace(0, 1, count), 0, 1)]


def _line(width: int, what: str) -> RgbImage:
    """A (16, width, 3) strip with a line of words, cut off where there is no room for more."""
    strip = np.full((16, width, 3), 255, np.uint8)
    words = what.encode("ascii", "replace").decode()  # OpenCV draws no other letters
    place = (min(12, width // 8), 11)
    cv2.putText(strip, words, place, _FONT, _FONT_SCALE, (70, 66, 90), 1, cv2.LINE_AA)
    return strip


def _bar(width: int, low: float, high: float) -> RgbImage:
    """A (34, width, 3) strip: the colours, with the limits written below its ends."""
    strip = np.full((34, width, 3), 255, np.uint8)
    margin = min(12, width // 8)
    steps = np.linspace(0, 1, max(width - 2 * margin, 1))
    strip[8:18, margin : margin + len(steps)] = colours_of(steps, 0, 1)
    for text, right in ((f"{low:.3g}", False), (f"{high:.3g}", True)):
        (length, _), _ = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
        x = width - margin - length if right else margin
        cv2.putText(strip, text, (x, 30), _FONT, _FONT_SCALE, (70, 66, 90), 1, cv2.LINE_AA)
    return strip
