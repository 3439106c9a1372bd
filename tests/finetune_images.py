"""Flat images and tile stores whose label is the direction of their stripes, never their colour.

Blotches lie over the stripes, so that no two pictures are the same.
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from wsi_pipeline.cohort import CohortSlide, write_cohort
from wsi_pipeline.tiles import create_tiles

LABELS = ("across", "down")
PATTERN = r"^(P\w+?)_"  # the patient in a file's name


def texture(label: str, rng: np.random.Generator, side: int = 48) -> np.ndarray:
    """(side, side, 3) uint8: blotched stripes across or down, of any colour, phase and width."""
    wave = np.sin(np.arange(side) * rng.uniform(0.7, 0.9) + rng.uniform(0, 6)) * 60 + 128
    stripes = np.tile(wave, (side, 1)) if label == "across" else np.tile(wave[:, None], (1, side))
    colour = rng.uniform(0.6, 1.0, 3)
    blotches = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 2)
    stripes = stripes + 40 * blotches / blotches.std()
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


def write_run(folder: Path) -> None:
    """Write tile stores of twelve patients, two of them in the cohort ``tma``, and their table."""
    rng = np.random.default_rng(1)
    slides = []
    for number in range(12):
        label = LABELS[number % 2]
        name = f"S{number:02}"
        cohort = "tcga" if number < 10 else "tma"
        slides.append(
            CohortSlide(
                slide_id=name, path=f"{name}.svs", patient_id=f"P{number}", label=label,
                cohort=cohort,
            )
        )  # fmt: skip
        tiles = np.stack([texture(label, rng, 64) for _ in range(8)])
        coords = np.array([(64 * k, 0) for k in range(8)], np.int64)
        writer = create_tiles(folder / "tiles" / f"{name}.zarr", tile_px=64, capacity=8)
        with writer:
            writer.append(tiles, coords, {"tissue_fraction": np.ones(8, np.float32)})
            writer.commit(
                {"slide": f"{name}.svs", "tile_px_level0": 64, "mpp_effective": 0.5,
                 "mpp_native": 0.5, "overlap_px": 0, "level0_width": 512, "level0_height": 64}
            )  # fmt: skip
    write_cohort(folder / "cohort.csv", slides)
