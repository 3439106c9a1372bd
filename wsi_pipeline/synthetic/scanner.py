"""Scanners: stain colours, white point, optics and sensor noise turn dye into pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.glass import Glass
from wsi_pipeline.synthetic.uptake import DYE_STEP
from wsi_pipeline.types import RgbImage

BAND_PX: Final = 512
_NOISE_PX: Final = 512


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """What a scanner and its laboratory make of the same tissue.

    Attributes:
        name: As in the cohort table.
        haematoxylin, eosin: Optical density of unit concentration in R, G, B.
        white: RGB of empty glass.
        blur_px: Sigma of the optics at level 0.
        noise: Standard deviation of the sensor noise in grey levels.
        quality: JPEG quality.
    """

    name: str
    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    white: tuple[float, float, float]
    blur_px: float
    noise: float
    quality: int


SCANNERS: Final = {
    scanner.name: scanner
    for scanner in (
        Scanner(
            name="synthetic-a", haematoxylin=(0.60, 0.72, 0.36), eosin=(0.20, 0.88, 0.44),
            white=(244.0, 243.0, 245.0), blur_px=0.75, noise=1.3, quality=82,
        ),
        Scanner(
            name="synthetic-b", haematoxylin=(0.64, 0.69, 0.32), eosin=(0.14, 0.84, 0.43),
            white=(240.0, 238.0, 236.0), blur_px=0.95, noise=1.7, quality=80,
        ),
        Scanner(
            name="synthetic-c", haematoxylin=(0.55, 0.74, 0.42), eosin=(0.26, 0.80, 0.36),
            white=(236.0, 237.0, 240.0), blur_px=0.85, noise=1.5, quality=82,
        ),
    )
}  # fmt: skip


def vary_colours(rng: np.random.Generator, scanner: Scanner) -> Scanner:
    """The same scanner on another day: dye batches shift the colours a little."""
    haematoxylin = np.array(scanner.haematoxylin) * np.exp(rng.normal(0.0, 0.035, 3))
    eosin = np.array(scanner.eosin) * np.exp(rng.normal(0.0, 0.035, 3))
    return Scanner(
        name=scanner.name, haematoxylin=_triple(haematoxylin), eosin=_triple(eosin),
        white=scanner.white, blur_px=scanner.blur_px, noise=scanner.noise, quality=scanner.quality,
    )  # fmt: skip


def scan(
    rng: np.random.Generator, glass: Glass, scanner: Scanner, defocus_px: float = 0.0
) -> Iterator[RgbImage]:
    """Image a piece of glass band by band, from the top.

    Args:
        rng: Source of randomness.
        glass: What is imaged.
        scanner: Who images it.
        defocus_px: Sigma of an additional blur in level-0 pixels.

    Yields:
        (h, W, 3) uint8 RGB, ``h`` = BAND_PX but for the last band.
    """
    sigma = float(np.hypot(scanner.blur_px, defocus_px))
    margin = int(np.ceil(4 * sigma))
    noise = _noise(rng, scanner)
    colours = _colours(scanner)
    for top in range(0, glass.height, BAND_PX):
        bottom = min(top + BAND_PX, glass.height)
        first, last = max(top - margin, 0), min(bottom + margin, glass.height)
        dye = glass.rows(first, last)
        pair = (dye.haematoxylin.astype(np.uint16) << 8) | dye.eosin
        rgb = np.asarray(np.take(colours, pair, axis=0), np.uint8)
        rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma), np.uint8)
        yield _add_noise(rng, rgb[top - first : bottom - first], noise, glass.width)


def _colours(scanner: Scanner) -> NDArray[np.uint8]:
    """RGB for each pair of amounts, (65536, 3); row = 256 x haematoxylin + eosin."""
    amount = np.arange(256, dtype=np.float64) * DYE_STEP
    blue = np.exp(-amount[:, None, None] * np.array(scanner.haematoxylin))
    pink = np.exp(-amount[None, :, None] * np.array(scanner.eosin))
    light = blue * pink * np.array(scanner.white)
    return np.asarray(np.rint(light), np.uint8).reshape(65536, 3)


def _noise(rng: np.random.Generator, scanner: Scanner) -> NDArray[np.int16]:
    """A seamless noise tile: mostly luminance, a little colour."""
    grey = rng.standard_normal((_NOISE_PX, _NOISE_PX, 1))
    colour = rng.standard_normal((_NOISE_PX, _NOISE_PX, 3))
    return np.rint(scanner.noise * (0.85 * grey + 0.5 * colour)).astype(np.int16)


def _add_noise(
    rng: np.random.Generator, rgb: RgbImage, noise: NDArray[np.int16], width: int
) -> RgbImage:
    shift = (int(rng.integers(_NOISE_PX)), int(rng.integers(_NOISE_PX)))
    rolled = np.roll(noise, shift, axis=(0, 1))
    strip = np.tile(rolled, (1, -(-width // _NOISE_PX), 1))[: rgb.shape[0], :width]
    return np.asarray(cv2.add(rgb, strip, dtype=cv2.CV_8U), np.uint8)


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))
