"""Pictures on disk, whole or not at all.

OpenCV's own writer tells nobody that the disk is full, and takes the unfinished file away.
"""

from pathlib import Path

import cv2

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.types import RgbImage


def write_picture(path: Path, rgb: RgbImage, quality: int | None = None) -> None:
    """Write a picture in the format of the path's suffix.

    Args:
        path: ``.png`` or ``.jpg``.
        rgb: (H, W, 3) uint8.
        quality: Of a JPEG; None takes OpenCV's own.

    Raises:
        OSError: The disk is full or failing.
    """
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    packed = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)[1]
    with atomic_file(path) as partial:
        partial.write_bytes(packed.tobytes())
