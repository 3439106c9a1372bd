"""A picture in which a person checks the cores and their names."""

import cv2
import numpy as np

from wsi_pipeline.tissue.overlay import FLAGGED, KEPT
from wsi_pipeline.tissue.tma import Core, Dearray
from wsi_pipeline.types import RgbImage

MIN_PX = 1600  # a smaller overview is enlarged, so that the names can be read


def draw_cores(rgb: RgbImage, array: Dearray) -> RgbImage:
    """Draw each core's circle and name: blue when it is there, thin orange when it is missing.

    Args:
        rgb: (H, W, 3) uint8, the overview on which the cores were found.
        array: The cores.

    Returns:
        (h, w, 3) uint8, enlarged to at least ``MIN_PX`` on its longest side.
    """
    zoom = max(MIN_PX / max(rgb.shape[:2]), 1.0)
    canvas = np.ascontiguousarray(rgb)
    if zoom > 1:
        canvas = np.asarray(cv2.resize(canvas, None, fx=zoom, fy=zoom), dtype=np.uint8)
    circles = canvas.copy()
    weight = int(np.clip(round(array.diameter_px * zoom / 30), 1, 3))
    for core in array.cores:
        centre = round(core.x * zoom), round(core.y * zoom)
        radius = round(core.diameter_px * zoom * 0.55)
        colour, line = (FLAGGED, 1) if core.missing else (KEPT, weight)
        cv2.circle(circles, centre, radius, colour, line, cv2.LINE_AA)
    canvas = np.asarray(cv2.addWeighted(circles, 0.75, canvas, 0.25, 0), dtype=np.uint8)
    for core in array.cores:
        _write_name(canvas, core, zoom)
    return canvas


def _write_name(canvas: RgbImage, core: Core, zoom: float) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = float(np.clip(core.diameter_px * zoom / 150, 0.32, 1.0))
    weight = max(1, round(scale * 1.2))
    (width, height), _ = cv2.getTextSize(core.name, font, scale, weight)
    corner = round(core.x * zoom - width / 2), round(core.y * zoom + height / 2)
    colour = FLAGGED if core.missing else (12, 40, 110)
    cv2.putText(canvas, core.name, corner, font, scale, (255, 255, 255), weight + 3, cv2.LINE_AA)
    cv2.putText(canvas, core.name, corner, font, scale, colour, weight, cv2.LINE_AA)
