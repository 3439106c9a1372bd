"""Pixels to encoded pictures."""

import io
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image

from wsi_pipeline.reporting.data import Picture
from wsi_pipeline.types import RgbImage

QUALITY: Final = 85
SLIDE_PX: Final = 400  # of slides as a page shows them; their panes are narrower
SLIDE_QUALITY: Final = 60


def webp(rgb: RgbImage, alt: str, max_px: int | None = None, quality: int = QUALITY) -> Picture:
    """Encode (H, W, 3) uint8; a longest side beyond ``max_px`` is reduced by area averaging.

    WebP takes half of a JPEG's bytes, and every browser since 2020 shows it.
    """
    height, width = rgb.shape[:2]
    if max_px is not None and max(height, width) > max_px:
        scale = max_px / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        height, width = rgb.shape[:2]
    content = io.BytesIO()
    Image.fromarray(rgb).save(content, "WEBP", quality=quality, method=2)
    return Picture(data=content.getvalue(), mime="image/webp", alt=alt, width=width, height=height)


def slide_picture(rgb: RgbImage, alt: str) -> Picture:
    """Encode (H, W, 3) uint8 of a slide as small as a page of hundreds wants it."""
    return webp(rgb, alt, SLIDE_PX, SLIDE_QUALITY)


def read_rgb(path: Path) -> RgbImage | None:
    """(H, W, 3) uint8 of an image file; None when there is none or it cannot be decoded."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError:
        return None
