"""What is drawn into every vendor's file, and how it is cut."""

import numpy as np
import simplejpeg
from slides_fuzz.seeds import picture

from wsi_pipeline.types import RgbImage

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
