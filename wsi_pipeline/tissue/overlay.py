"""Pictures in which a person checks the mask and the tiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_pipeline.tissue.colours import Colour
from wsi_pipeline.types import Mask, RgbImage

OUTLINE: Final = (16, 122, 87)
KEPT: Final = (36, 96, 214)
LEFT_OUT: Final = (232, 0, 160)
WHITE: Final = (255, 255, 255)
FILL: Final = 0.34


@dataclass(frozen=True, kw_only=True)
class TileLayer:
    """Tiles that are drawn alike.

    Attributes:
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the overview, fractions allowed.
        colour: RGB.
        filled: Lightly, as flagged tiles are; else only their edge is drawn.
    """

    boxes: ArrayLike
    colour: Colour
    filled: bool = False


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A drawn region: its ``rings``, (N, 2) x, y each in pixels of the overview, and its RGB."""

    rings: Sequence[NDArray[np.float64]]
    colour: Colour


def draw_overlay(
    rgb: RgbImage,
    mask: Mask,
    tiles: Sequence[TileLayer] = (),
    left_out: Mask | None = None,
    regions: Sequence[Outline] = (),
) -> RgbImage:
    """Draw tiles, the tissue's outline (green), and the outlines of regions that people drew.

    Pieces that were not taken for tissue are hatched in magenta, and their outline is thick.

    What is not tissue is faded a little, so that the eye goes to what will be used.

    Args:
        rgb: (H, W, 3) uint8 overview.
        mask: (h, w) bool; resized to ``rgb`` when its size differs.
        tiles: Later ones over earlier ones.
        left_out: (h, w) bool, likewise resized; None for nothing.
        regions: Drawn over everything, cased in white.

    Returns:
        A new (H, W, 3) uint8.
    """
    height, width = rgb.shape[:2]
    shown = _fitted(mask, height, width)
    canvas = _faded(rgb, shown.astype(bool))
    thick = max(1, round(max(height, width) / 700))
    for layer in tiles:
        boxes = np.asarray(layer.boxes, dtype=np.float64).reshape(-1, 4)
        canvas = _tiles(canvas, boxes, layer.colour, FILL if layer.filled else 0.0)
    contours, _ = cv2.findContours(shown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, OUTLINE, thick, cv2.LINE_AA)
    if left_out is not None and left_out.any():
        _hatch(canvas, _fitted(left_out, height, width), thick)
    _regions(canvas, regions, thick)
    return canvas


def _regions(canvas: RgbImage, regions: Sequence[Outline], thick: int) -> None:
    """Every casing before any line, so that none hides a neighbour's line."""
    reach = 2**15 - 1  # beyond it OpenCV's coordinates overflow when a line is drawn
    drawn = [
        ([np.rint(np.clip(ring, -reach, reach)).astype(np.int32) for ring in one.rings], one.colour)
        for one in regions
    ]
    for rings, _ in drawn:
        cv2.polylines(canvas, rings, True, WHITE, 2 * thick + 2, cv2.LINE_AA)
    for rings, colour in drawn:
        cv2.polylines(canvas, rings, True, colour, 2 * thick, cv2.LINE_AA)


def _fitted(mask: Mask, height: int, width: int) -> NDArray[np.uint8]:
    shown = mask.astype(np.uint8)
    if mask.shape == (height, width):
        return shown
    return np.asarray(cv2.resize(shown, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def _hatch(canvas: RgbImage, mask: NDArray[np.uint8], thick: int) -> None:
    y, x = np.nonzero(mask)
    stripes = (x + y) % (8 * thick) < 2 * thick
    canvas[y[stripes], x[stripes]] = LEFT_OUT
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, LEFT_OUT, 3 * thick, cv2.LINE_AA)


def _faded(rgb: RgbImage, mask: Mask) -> RgbImage:
    pale = _mixed(rgb, WHITE, 0.4)
    return np.asarray(cv2.copyTo(rgb, mask.view(np.uint8), pale), np.uint8)


def _tiles(
    rgb: RgbImage, boxes: NDArray[np.float64], colour: tuple[int, int, int], fill: float
) -> RgbImage:
    """Boxes with a light fill and a translucent edge; the edge is one pixel, drawn inside."""
    if not len(boxes):
        return rgb
    canvas, edges = rgb.copy(), np.zeros(rgb.shape[:2], np.uint8)
    for x0, y0, x1, y1 in np.round(boxes).astype(int):
        corner = (max(x1 - 1, x0), max(y1 - 1, y0))
        if fill:
            cv2.rectangle(canvas, (x0, y0), corner, colour, cv2.FILLED)
        cv2.rectangle(edges, (x0, y0), corner, 1, 1)
    if fill:
        canvas = np.asarray(cv2.addWeighted(canvas, fill, rgb, 1 - fill, 0), np.uint8)
    side = float(np.median(boxes[:, 2] - boxes[:, 0]))
    strength = (0.75 if fill else 0.45) * min(max(side / 16, 0.4), 1)  # no blue wall of tiny tiles
    inked = _mixed(canvas, colour, strength)
    return np.asarray(cv2.copyTo(inked, edges, canvas), np.uint8)


def _mixed(rgb: RgbImage, colour: tuple[int, int, int], share: float) -> RgbImage:
    """Mix a colour into every pixel: what a channel becomes depends on its level alone."""
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    table = cv2.addWeighted(np.full_like(levels, colour), share, levels, 1 - share, 0)
    return np.asarray(cv2.LUT(rgb, table), np.uint8)
