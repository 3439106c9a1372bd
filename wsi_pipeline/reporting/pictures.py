"""Pixels to encoded pictures."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from wsi_pipeline.reporting.data import Picture
from wsi_pipeline.types import RgbImage


def jpeg(rgb: RgbImage, alt: str, max_px: int | None = None, quality: int = 85) -> Picture:
    """Encode (H, W, 3) uint8; a longest side beyond ``max_px`` is reduced by area averaging."""
    height, width = rgb.shape[:2]
    if max_px is not None and max(height, width) > max_px:
        scale = max_px / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        height, width = rgb.shape[:2]
    content = io.BytesIO()
    Image.fromarray(rgb).save(content, "JPEG", quality=quality)
    return Picture(data=content.getvalue(), mime="image/jpeg", alt=alt, width=width, height=height)


def read_rgb(path: Path) -> RgbImage | None:
    """(H, W, 3) uint8 of an image file; None when there is none or it cannot be decoded."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError:
        return None
