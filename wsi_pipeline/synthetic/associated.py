"""The label and the macro image of a synthetic slide. Neither says what the tissue is."""

import hashlib

import cv2
import numpy as np

from wsi_pipeline.types import RgbImage

_INK = (38, 38, 46)


def label_image(slide_id: str) -> RgbImage:
    """A paper label: SYNTHETIC, the slide's name and a pattern in the manner of a 2-D code."""
    label = np.full((400, 400, 3), (246, 245, 240), np.uint8)
    cv2.rectangle(label, (6, 6), (393, 393), (200, 200, 196), 2)
    _write(label, "SYNTHETIC", (28, 62), 1.6, 3)
    _write(label, "no patient, no diagnosis", (30, 98), 0.8, 1)
    _write(label, slide_id, (28, 150), 1.3, 2)
    _write(label, "H&E", (28, 196), 1.2, 2)
    digest = np.frombuffer(hashlib.sha256(slide_id.encode()).digest(), np.uint8)
    code = np.unpackbits(digest).reshape(16, 16)
    code[0], code[:, 0] = 1, 1
    code[-1, 1::2], code[1::2, -1] = 0, 0
    squares = np.kron(code, np.ones((10, 10), np.uint8))[..., None]
    label[220:380, 28:188] = np.where(squares > 0, np.array(_INK, np.uint8), label[220:380, 28:188])
    return label


def macro_image(thumbnail: RgbImage, label: RgbImage) -> RgbImage:
    """The whole glass with its label on the left and the tissue where it was scanned."""
    macro = np.full((420, 1200, 3), (226, 229, 231), np.uint8)
    macro[:12], macro[-12:] = (198, 203, 206), (198, 203, 206)
    macro[22:398, 16:392] = cv2.resize(label, (376, 376), interpolation=cv2.INTER_AREA)
    height, width = thumbnail.shape[:2]
    scale = min(340 / height, 620 / width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(thumbnail, size, interpolation=cv2.INTER_AREA)
    x, y = 790 - size[0] // 2, 210 - size[1] // 2
    place = macro[y : y + size[1], x : x + size[0]]
    place[:] = np.minimum(place, small)
    cv2.rectangle(macro, (x - 6, y - 6), (x + size[0] + 5, y + size[1] + 5), (40, 160, 60), 2)
    return macro


def _write(
    image: RgbImage, text: str, corner: tuple[int, int], scale: float, thickness: int
) -> None:
    cv2.putText(image, text, corner, cv2.FONT_HERSHEY_PLAIN, scale * 1.4, _INK, thickness)
