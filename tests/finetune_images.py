"""Flat images whose label is the direction of their stripes, never their colour."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

LABELS = ("across", "down")
PATTERN = r"^(P\w+?)_"  # the patient in a file's name


def texture(label: str, rng: np.random.Generator, side: int = 48) -> np.ndarray:
    """(side, side, 3) uint8: stripes across or down, of any colour, phase and width."""
    wave = np.sin(np.arange(side) * rng.uniform(0.7, 0.9) + rng.uniform(0, 6)) * 60 + 128
    stripes = np.tile(wave, (side, 1)) if label == "across" else np.tile(wave[:, None], (1, side))
    colour = rng.uniform(0.6, 1.0, 3)
    noisy = stripes[..., None] * colour + rng.normal(0, 6, (side, side, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def write_images(root: Path, patients: Iterable[int], images: int = 6) -> None:
    """Write ``images`` of each patient in a folder for each label."""
    numbers = list(patients)
    rng = np.random.default_rng(numbers)
    for label in LABELS:
        folder = root / label
        folder.mkdir(parents=True)
        for patient in numbers:
            for number in range(images):
                path = folder / f"P{label[0]}{patient}_{number}.png"
                cv2.imwrite(str(path), texture(label, rng))
