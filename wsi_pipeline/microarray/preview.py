"""A picture in which a person checks the cores and their names."""

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import cv2
import numpy as np

from wsi_pipeline.microarray.cores import Dearray
from wsi_pipeline.tissue import KEPT
from wsi_pipeline.types import RgbImage

MIN_PX = 1600  # a smaller overview is enlarged, so that the names can be read
MAX_NOTE = 12  # letters of a label
DARK: Final = (12, 40, 110)
MISSING: Final = (226, 88, 20)

MarkKind = Literal["core", "control", "missing", "unmapped", "doubtful"]
RINGS: Final = MappingProxyType(
    {
        "core": KEPT,
        "control": (132, 44, 150),
        "missing": MISSING,
        "unmapped": (110, 110, 110),
        "doubtful": (200, 30, 30),
    }
)
NAMES: Final = MappingProxyType(
    {
        "core": DARK,
        "control": (96, 20, 110),
        "missing": MISSING,
        "unmapped": (80, 80, 80),
        "doubtful": (200, 30, 30),
    }
)


@dataclass(frozen=True, kw_only=True)
class CoreMark:
    """What is drawn of a core.

    Attributes:
        name: Its place, in the middle of the circle.
        note: Below it, smaller: what the core map says; may be empty.
        x, y, diameter_px: Pixels of the overview.
        kind: ``missing`` and ``unmapped`` (not in the core map) get a thin line, ``doubtful`` a
            red one.
    """

    name: str
    note: str = ""
    x: float
    y: float
    diameter_px: float
    kind: MarkKind = "core"


def draw_cores(rgb: RgbImage, array: Dearray) -> RgbImage:
    """Draw each core's circle and name: blue when it is there, thin orange when it is missing.

    Args:
        rgb: (H, W, 3) uint8, the overview on which the cores were found.
        array: The cores.

    Returns:
        (h, w, 3) uint8, enlarged to at least ``MIN_PX`` on its longest side.
    """
    marks = [
        CoreMark(
            name=core.name, x=core.x, y=core.y, diameter_px=core.diameter_px,
            kind="missing" if core.missing else "core",
        )
        for core in array.cores
    ]  # fmt: skip
    return draw_marks(rgb, marks)


def draw_marks(rgb: RgbImage, marks: Iterable[CoreMark]) -> RgbImage:
    """Draw circles and names: cores blue, controls violet, doubtful red, missing orange, rest grey.

    Args:
        rgb: (H, W, 3) uint8, the overview.
        marks: What is to be drawn.

    Returns:
        (h, w, 3) uint8, enlarged to at least ``MIN_PX`` on its longest side.
    """
    zoom = max(MIN_PX / max(rgb.shape[:2]), 1.0)
    canvas = np.ascontiguousarray(rgb)
    if zoom > 1:
        canvas = np.asarray(cv2.resize(canvas, None, fx=zoom, fy=zoom), dtype=np.uint8)
    marks = list(marks)
    circles = canvas.copy()
    for mark in marks:
        thin = mark.kind in ("missing", "unmapped")
        weight = 1 if thin else int(np.clip(round(mark.diameter_px * zoom / 30), 1, 3))
        centre = round(mark.x * zoom), round(mark.y * zoom)
        radius = round(mark.diameter_px * zoom * 0.55)
        cv2.circle(circles, centre, radius, RINGS[mark.kind], weight, cv2.LINE_AA)
    canvas = np.asarray(cv2.addWeighted(circles, 0.75, canvas, 0.25, 0), dtype=np.uint8)
    for mark in marks:
        size = float(np.clip(mark.diameter_px * zoom / 150, 0.32, 1.0))
        below = 0.24 * mark.diameter_px * zoom
        _write(canvas, mark.name, (mark.x * zoom, mark.y * zoom), size, NAMES[mark.kind])
        note = mark.note if len(mark.note) <= MAX_NOTE else mark.note[: MAX_NOTE - 1] + "."
        place = (mark.x * zoom, mark.y * zoom + below)
        _write(canvas, note, place, max(0.3, 0.6 * size), NAMES[mark.kind])
    return canvas


def side_by_side(one: RgbImage, other: RgbImage, titles: tuple[str, str]) -> RgbImage:
    """Two pictures of one array beside each other, with a title each, so that a person may choose.

    Args:
        one, other: (H, W, 3) uint8.
        titles: What each is.

    Returns:
        (h, 2 W, 3) uint8, or (2 h, W, 3) for pictures wider than high.
    """
    titled = []
    for picture, title in zip((one, other), titles, strict=True):
        head = np.full((60, picture.shape[1], 3), 255, np.uint8)
        _write(head, title, (picture.shape[1] / 2, 30), 1.2, DARK)
        titled.append(np.vstack([head, picture]))
    wide = one.shape[1] > one.shape[0]
    return np.vstack(titled) if wide else np.hstack(titled)


def _write(
    canvas: RgbImage,
    text: str,
    middle: tuple[float, float],
    size: float,
    colour: tuple[int, int, int],
) -> None:
    if not text:
        return
    font = cv2.FONT_HERSHEY_SIMPLEX
    weight = max(1, round(size * 1.2))
    (width, height), _ = cv2.getTextSize(text, font, size, weight)
    corner = round(middle[0] - width / 2), round(middle[1] + height / 2)
    cv2.putText(canvas, text, corner, font, size, (255, 255, 255), weight + 3, cv2.LINE_AA)
    cv2.putText(canvas, text, corner, font, size, colour, weight, cv2.LINE_AA)
