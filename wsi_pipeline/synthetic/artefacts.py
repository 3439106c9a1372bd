"""What goes wrong with glass: pen marks, dust."""

from typing import Final

import cv2
import numpy as np

from wsi_pipeline.synthetic.noise import Field, enlarge, smooth_noise

# Optical density of the ink in R, G, B where it lies thick.
INKS: Final = {
    "pen-blue": (1.5, 0.85, 0.22),
    "pen-green": (1.35, 0.42, 0.95),
    "pen-black": (1.7, 1.65, 1.6),
}
REDUCTION: Final = 8  # ink is drawn on every eighth level-0 pixel


def pen_marks(rng: np.random.Generator, size: tuple[int, int], pen_px: float = 300.0) -> Field:
    """Strokes of a felt pen that partly cross the tissue.

    Args:
        rng: Source of randomness.
        size: (width, height) of the slide, level-0 pixels.
        pen_px: Width of the stroke at level 0.

    Returns:
        (height / REDUCTION, width / REDUCTION) thickness of the ink, 0 to about 1.2.
    """
    width, height = -(-size[0] // REDUCTION), -(-size[1] // REDUCTION)
    ink = np.zeros((height, width), np.uint8)
    thick = max(int(pen_px / REDUCTION), 2)
    t = np.linspace(0.0, 1.0, 60)
    for _ in range(int(rng.integers(1, 3))):
        turn = rng.uniform(0, 2 * np.pi)
        sweep = rng.uniform(0.5, 1.3)
        radius = rng.uniform(0.36, 0.44) * (1.0 + 0.06 * np.sin(rng.uniform(4, 9) * t))
        x = width * (0.5 + radius * np.cos(turn + sweep * t))
        y = height * (0.5 + radius * np.sin(turn + sweep * t))
        line = np.round(np.stack([x, y], axis=1) * 16).astype(np.int32)
        cv2.polylines(ink, [line], False, 255, thick, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(ink, (0, 0), 1.5).astype(np.float32) / 255.0
    streaks = 0.75 + 0.14 * smooth_noise(rng, (height, width), 24.0)
    streaks += 0.05 * smooth_noise(rng, (height, width), 4.0)
    return np.asarray(soft * np.clip(streaks, 0.3, 1.2), np.float32)


def ink_band(ink: Field, colour: tuple[float, float, float], rows: slice, width: int) -> Field:
    """Transmission (h, width, 3) of a thin-drawn ink map over some level-0 rows."""
    first, last = rows.start // REDUCTION, -(-rows.stop // REDUCTION)
    part = ink[max(first - 2, 0) : last + 2]
    large = enlarge(part, (part.shape[0] * REDUCTION, part.shape[1] * REDUCTION))
    start = rows.start - max(first - 2, 0) * REDUCTION
    thickness = large[start : start + rows.stop - rows.start, :width]
    density = np.maximum(thickness, 0.0)[..., None] * np.array(colour, np.float32)
    return np.asarray(np.exp(-density), np.float32)
