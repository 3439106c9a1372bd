"""What is drawn into every vendor's file, and how it is cut."""

import numpy as np
import simplejpeg

from wsi_pipeline.types import RgbImage


def picture(width: int, height: int) -> RgbImage:
    """Pink blobs on white: something that is taken for tissue."""
    y, x = np.mgrid[:height, :width]
    wave = np.sin(x / 23) + np.cos(y / 31) + np.sin((x + y) / 11) / 2
    rgb = np.full((height, width, 3), 240, np.uint8)
    rgb[wave > 0] = (190, 90, 160)
    noise = np.random.default_rng(5).integers(-12, 12, (height, width, 1))
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


PICTURE = picture(768, 512)


def level_of(step: int) -> RgbImage:
    """Every ``step``-th pixel: what a level of that downsample holds."""
    return np.ascontiguousarray(PICTURE[::step, ::step])


def padded(rgb: RgbImage, side: int) -> RgbImage:
    """White to the right and below, up to whole tiles."""
    height, width = rgb.shape[:2]
    return np.pad(rgb, ((0, -height % side), (0, -width % side), (0, 0)), constant_values=255)


def jpeg(rgb: RgbImage) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), 95, colorsubsampling="444"))
