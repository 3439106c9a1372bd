"""Glands: the adenocarcinoma of bile ducts in its scar, and single ducts of portal tracts."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.noise import Field, Points, Shape, scatter, smooth_noise
from wsi_pipeline.synthetic.nuclei import NucleusKind
from wsi_pipeline.synthetic.pattern import (
    CANVAS_MPP,
    Pattern,
    blob,
    cells,
    coarse_shape,
    fill,
    gradient_angle,
    lay,
    place,
    signed_distance,
    step,
    texture,
    um,
)
from wsi_pipeline.synthetic.stroma import fibrous, wandering

CHOLANGIOCYTE: Final = NucleusKind(
    length_um=7.0, width_um=5.8, density=1.2, clearing=0.3, clumping=0.2
)
CARCINOMA: Final = NucleusKind(
    length_um=9.4, width_um=7.0, variation=0.15, irregularity=0.08, density=1.1,
    clearing=0.45, clumping=0.24, nucleolus=0.8,
)  # fmt: skip


def glandular(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Cholangiocarcinoma: irregular glands lined by cuboidal cells in abundant fibrous stroma."""
    mask = np.zeros(shape, np.uint8)
    crowd = smooth_noise(rng, shape, um(200.0))
    weight = np.maximum(crowd + np.float32(1.8), np.float32(0.0))
    for centre in scatter(rng, weight, um(56.0), 4.0):
        radius = um(float(np.clip(rng.lognormal(np.log(24.0), 0.32), 13.0, 46.0)))
        fill(mask, blob(rng, radius, rng.uniform(1.0, 2.4), 0.22) + centre)
    distance = signed_distance(mask)
    stroma = fibrous(rng, shape, _around(rng, distance), lymphocytes=0.12)
    retraction = np.square((distance + np.float32(um(2.5))) * np.float32(1 / um(3.0)))
    halo = np.float32(1.0) - np.float32(0.5) * np.exp(-retraction)
    for dye in (stroma.eosin, stroma.haematoxylin):
        dye *= halo
    thickness = np.float32(um(12.5)) + np.float32(um(2.0)) * smooth_noise(rng, shape, um(90.0))
    epithelium = _epithelium(rng, distance, thickness, CARCINOMA, 7.4)
    return lay(stroma, epithelium, step(distance, um(0.9)))


def duct(rng: np.random.Generator, pattern: Pattern, mask: NDArray[np.uint8]) -> Pattern:
    """Lay small bile ducts over a pattern; ``mask`` is their outline."""
    distance = signed_distance(mask)
    thickness = np.full(distance.shape, um(7.0), np.float32)
    epithelium = _epithelium(rng, distance, thickness, CHOLANGIOCYTE, 6.2)
    return lay(pattern, epithelium, step(distance, um(0.9)))


def _around(rng: np.random.Generator, distance: Field) -> Field:
    """Fibre directions on the coarse grid: random far from glands, around them near by."""
    height, width = coarse_shape((distance.shape[0], distance.shape[1]))
    small = cv2.resize(distance, (width, height), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 3.0)
    gx = cv2.Sobel(small, cv2.CV_32F, 1, 0, ksize=3)
    gy = cv2.Sobel(small, cv2.CV_32F, 0, 1, ksize=3)
    free = wandering(rng, (distance.shape[0], distance.shape[1]), 200.0, 0.7)[:height, :width]
    near = np.exp(small / np.float32(um(22.0)))
    # Directions are axes: add them as doubled angles.
    around = 2.0 * (np.arctan2(gy, gx) + np.pi / 2)
    x = np.cos(2.0 * free) + 2.5 * near * np.cos(around)
    y = np.sin(2.0 * free) + 2.5 * near * np.sin(around)
    return np.asarray(np.float32(0.5) * np.arctan2(y, x), np.float32)


def _epithelium(
    rng: np.random.Generator,
    distance: Field,
    thickness: Field,
    kind: NucleusKind,
    cell_um: float,
) -> Pattern:
    """Cells along the inside of an outline, and the lumen within; lengths in canvas pixels."""
    shape = (distance.shape[0], distance.shape[1])
    depth = distance / thickness
    basal = np.where((depth > 0.26) & (depth < 0.62), 1.5 - np.abs(depth - 0.42), np.float32(0.0))
    centres = scatter(rng, basal, um(cell_um), 14.0) * np.float32(CANVAS_MPP)
    # Nuclei stand across the lining.
    angle = gradient_angle(distance, centres)
    angle += np.float32(0.3) * rng.standard_normal(len(centres), dtype=np.float32)
    lumen = step(distance - thickness, um(1.2))
    apex = np.exp(-np.square((distance - thickness) * np.float32(1 / um(1.0))))
    eosin = _lining(rng, shape, centres) + np.float32(0.12) * apex
    mucin = np.maximum(0.05 + 0.05 * smooth_noise(rng, shape, um(22.0)), np.float32(0.0))
    eosin += (mucin - eosin) * lumen
    haematoxylin = np.float32(0.22) + (np.float32(0.4) * mucin - np.float32(0.22)) * lumen
    return Pattern(
        eosin=np.asarray(eosin, np.float32),
        haematoxylin=np.asarray(haematoxylin, np.float32),
        nuclei=(place(rng, kind, centres, angle),),
    )


def _lining(rng: np.random.Generator, shape: Shape, centres: Points) -> Field:
    """Eosin of a lining of cells."""
    if len(centres) == 0:
        return np.full(shape, 0.5, np.float32)
    label, inset = cells(shape, centres)
    tints = rng.standard_normal(int(label.max()) + 1, dtype=np.float32) * np.float32(0.07)
    eosin = np.exp(-np.square(inset * np.float32(1 / um(0.7))))
    eosin *= np.float32(0.14)
    eosin += tints[label]
    eosin += np.float32(0.60) + np.float32(0.12) * texture(rng, shape, 0.4, 1.5)
    return np.asarray(eosin, np.float32)
