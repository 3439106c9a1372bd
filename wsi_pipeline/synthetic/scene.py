"""One piece of tissue: its outline, the patterns in it, and its dye at full resolution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.glands import glandular
from wsi_pipeline.synthetic.liver import lobular, trabecular
from wsi_pipeline.synthetic.noise import Field, Shape, enlarge, grain, repeat, smooth_noise
from wsi_pipeline.synthetic.nuclei import gather, paint
from wsi_pipeline.synthetic.pattern import (
    Pattern,
    at,
    blob,
    fill,
    lay,
    signed_distance,
    step,
    um,
)
from wsi_pipeline.synthetic.stroma import blood, fat, fibrous, necrosis
from wsi_pipeline.synthetic.uptake import DYE_STEP, DyeMap, Uptake, take_up

MPP: Final = 0.25  # level 0

Draw = Callable[[np.random.Generator, Shape], Pattern]

PATTERNS: Final[dict[str, Draw]] = {
    "hcc": trabecular,
    "cca": glandular,
    "normal": lobular,
}
COMMON: Final[tuple[Draw, ...]] = (fibrous, necrosis, fat, blood)


@dataclass(frozen=True, kw_only=True)
class Dye:
    """Stain of a piece of tissue at level 0; both maps (H, W) uint8 in units of DYE_STEP."""

    haematoxylin: DyeMap
    eosin: DyeMap


def section(rng: np.random.Generator, label: str, size: tuple[int, int], uptake: Uptake) -> Dye:
    """A resection or biopsy on its glass.

    Args:
        rng: Source of randomness.
        label: A key of PATTERNS.
        size: (width, height) in level-0 pixels.
        uptake: How strongly this patient's tissue takes the stains.
    """
    shape = (-(-size[1] // 2), -(-size[0] // 2))
    outline = _fragments(rng, shape)
    pattern = PATTERNS[label](rng, shape)
    if label != "normal" and rng.random() < 0.5:
        pattern = _beside(rng, pattern, lobular, rng.uniform(0.12, 0.35))
    for kind in rng.permutation(len(COMMON))[: rng.integers(1, 3)]:
        pattern = _beside(rng, pattern, COMMON[kind], rng.uniform(0.06, 0.22))
    return _develop(rng, pattern, outline, size, uptake)


def core(rng: np.random.Generator, label: str, side: int, diameter: int, uptake: Uptake) -> Dye:
    """A round core of a tissue microarray in the middle of a (side, side) field, level-0 pixels."""
    shape = (-(-side // 2), -(-side // 2))
    mask = np.zeros(shape, np.uint8)
    middle = np.array([shape[1] / 2, shape[0] / 2], np.float32)
    fill(mask, blob(rng, diameter / 4.0, 1.0, 0.012) + middle)
    pattern = PATTERNS[label](rng, shape)
    if rng.random() < 0.35:
        kind = COMMON[rng.integers(len(COMMON))]
        pattern = _beside(rng, pattern, kind, rng.uniform(0.05, 0.15))
    return _develop(rng, pattern, _ragged(rng, mask), (side, side), uptake)


def _fragments(rng: np.random.Generator, shape: Shape) -> Field:
    """Coverage of the tissue: one piece, or a few strips of a needle biopsy."""
    mask = np.zeros(shape, np.uint8)
    height, width = shape
    if rng.random() < 0.75:
        radius = 0.42 * np.sqrt(height * width)
        outline = blob(rng, radius, width / height, 0.07, turned=False)
        fill(mask, outline + np.array([width / 2, height / 2], np.float32))
        if rng.random() < 0.5:
            return _ragged(rng, mask)
        notch = blob(rng, 0.3 * radius, 1.5, 0.2)
        turn = rng.uniform(0, 2 * np.pi)
        edge = (width / 2 + 0.95 * radius * np.cos(turn), height / 2 + 0.95 * radius * np.sin(turn))
        fill(mask, notch + np.array(edge), 0)
        return _ragged(rng, mask)
    strips = int(rng.integers(2, 4))
    for index in range(strips):
        y = height * (index + 0.5) / strips
        x = np.linspace(0.06, 0.94, 48) * width
        bend = 0.04 * height * np.sin(np.linspace(0, rng.uniform(2, 5), 48) + rng.uniform(0, 6))
        half = height / strips * 0.36 * np.sqrt(np.clip(1 - np.linspace(-1, 1, 48) ** 8, 0.02, 1))
        top = np.stack([x, y + bend - half], axis=1)
        bottom = np.stack([x, y + bend + half], axis=1)[::-1]
        fill(mask, np.concatenate([top, bottom]).astype(np.float32))
    return _ragged(rng, mask)


def _ragged(rng: np.random.Generator, mask: NDArray[np.uint8]) -> Field:
    shape = (mask.shape[0], mask.shape[1])
    rough = um(5.0) * smooth_noise(rng, shape, um(40.0)) + um(1.6) * smooth_noise(
        rng, shape, um(9.0)
    )
    return step(signed_distance(mask) + rough, um(1.2))


def _beside(rng: np.random.Generator, below: Pattern, draw: Draw, share: float) -> Pattern:
    """Give ``share`` of the area to another pattern, in one or a few smooth patches."""
    shape = (below.eosin.shape[0], below.eosin.shape[1])
    field = smooth_noise(rng, shape, 0.55 * min(shape)) + 0.12 * smooth_noise(rng, shape, um(60.0))
    field -= np.float32(np.quantile(field[::8, ::8], 1.0 - share))
    field *= np.float32(0.6 * min(shape))  # turns it into something like a distance
    cover = step(field, um(14.0))
    x, y, width, height = cv2.boundingRect((cover > 0).astype(np.uint8))
    window = cover[y : y + height, x : x + width]
    return lay(below, draw(rng, (height, width)), window, (x, y))


def _develop(
    rng: np.random.Generator, pattern: Pattern, outline: Field, size: tuple[int, int],
    uptake: Uptake,
) -> Dye:  # fmt: skip
    """Enlarge to level 0, add fine grain and nuclei, and give the dyes this patient's range."""
    full = (outline.shape[0] * 2, outline.shape[1] * 2)
    dyes = [_grainy(rng, field, full) for field in (pattern.haematoxylin, pattern.eosin)]
    for nuclei in gather(pattern.nuclei):
        paint(rng, nuclei.where(at(outline, nuclei.xy_um) > 0.5), dyes[0], dyes[1], MPP)
    cover = enlarge(outline, full)
    haematoxylin, eosin = (_quantise(dye, cover) for dye in dyes)
    haematoxylin, eosin = take_up(haematoxylin, eosin, cover > 0.5, uptake)
    tissue = (slice(0, size[1]), slice(0, size[0]))
    return Dye(haematoxylin=haematoxylin[tissue], eosin=eosin[tissue])


def _grainy(rng: np.random.Generator, field: Field, full: Shape) -> Field:
    """A canvas map at level 0, with grain finer than the canvas."""
    fine = grain(rng, 512, 0.7, 2.0) * np.float32(0.07) + np.float32(1.0)
    offset = (int(rng.integers(512)), int(rng.integers(512)))
    large = enlarge(field, full)
    large *= repeat(fine, full, offset)
    return large


def _quantise(dye: Field, cover: Field) -> DyeMap:
    return np.asarray(cv2.multiply(dye, cover, scale=1.0 / DYE_STEP, dtype=cv2.CV_8U), np.uint8)
