"""Colour profiles: what a scanner says its colours mean, and their change to sRGB on request."""

import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.slides.reader import reason
from wsi_pipeline.types import RgbImage

APPLIED = "icc.applied"
_FAULTS = (ImageCms.PyCMSError, OSError, ValueError, TypeError)


def describe_profile(profile: bytes) -> dict[str, str]:
    """What is recorded of a profile: its name and a digest; nothing where there is none."""
    if not profile:
        return {}
    try:
        name = ImageCms.getProfileDescription(io.BytesIO(profile)).strip()
    except _FAULTS:
        name = "unreadable"
    digest = hashlib.blake2b(profile, digest_size=8).hexdigest()
    return {"icc.description": name, "icc.digest": digest}


def to_srgb(path: str, profile: bytes) -> Callable[[RgbImage], RgbImage]:
    """Make the change from a slide's colours to sRGB.

    Relative colorimetric with black-point compensation: colours that both can show stay what they
    are, and glass becomes white.

    Args:
        path: The slide, for the error.
        profile: Its ICC profile, of an RGB device.

    Returns:
        A function from (h, w, 3) uint8 to the same; several threads may call it.

    Raises:
        SlideOpenError: The profile is damaged, or not of RGB.
    """
    try:
        transform = ImageCms.buildTransform(
            io.BytesIO(profile),
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except _FAULTS as error:
        raise SlideOpenError(
            f"{path}: its ICC profile cannot be used ({reason(error)}); leave its colours as they"
            " are (--icc keep)."
        ) from error

    def apply(rgb: RgbImage) -> RgbImage:
        image = Image.fromarray(np.ascontiguousarray(rgb))
        return np.array(ImageCms.applyTransform(image, transform), dtype=np.uint8)

    return apply
