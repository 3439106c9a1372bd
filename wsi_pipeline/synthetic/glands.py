"""Glands: the adenocarcinoma of bile ducts in its scar, and single ducts of portal tracts."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.noise import Field, Points, Shape, scatter, smooth_noise
from wsi_pipeline.synthetic.nuclei import Nuclei, NucleusKind
from wsi_pipeline.synthetic.pattern import (
    CANVAS_MPP,
    COARSE,
    Pattern,
    at,
    blend,
    blob,
    cells,
    coarse_shape,
    fill,
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
    for x, y in scatter(rng, np.maximum(crowd + 1.8, 0.0), um(72.0), 4.0):
        radius = um(float(np.clip(rng.lognormal(np.log(30.0), 0.32), 14.0, 58.0)))
        fill(mask, blob(rng, radius, rng.uniform(1.0, 2.2), 0.22) + (x, y))
    distance = signed_distance(mask)
    stroma = fibrous(rng, shape, _around(rng, distance), lymphocytes=0.12)
    halo = np.exp(-(((distance + um(2.5)) / np.float32(um(3.0))) ** 2))
    stroma = Pattern(
        eosin=stroma.eosin * (1.0 - 0.5 * halo),
        haematoxylin=stroma.haematoxylin * (1.0 - 0.5 * halo),
        nuclei=stroma.nuclei,
    )
    thickness = um(12.5) * (1.0 + 0.16 * smooth_noise(rng, shape, um(90.0)))
    return blend(
        stroma,
        _epithelium(rng, distance, thickness, CARCINOMA, 7.6),
        step(distance, um(0.9)),
    )


def duct(rng: np.random.Generator, pattern: Pattern, mask: NDArray[np.uint8]) -> Pattern:
    """Lay small bile ducts over a pattern; ``mask`` is their outline."""
    distance = signed_distance(mask)
    thickness = np.full(distance.shape, um(7.0), np.float32)
    epithelium = _epithelium(rng, distance, thickness, CHOLANGIOCYTE, 6.6)
    return blend(pattern, epithelium, step(distance, um(0.9)))


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
    return (0.5 * np.arctan2(y, x)).astype(np.float32)


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
    basal = np.where((depth > 0.28) & (depth < 0.62), 1.5 - np.abs(depth - 0.42), 0.0)
    centres = scatter(rng, basal.astype(np.float32), um(cell_um), 8.0) * np.float32(CANVAS_MPP)
    nuclei, eosin = _lined(rng, shape, distance, centres, kind)
    lumen = step(distance - thickness, um(1.2))
    apex = np.exp(-(((distance - thickness) / np.float32(um(1.0))) ** 2))
    mucin = np.maximum(0.05 + 0.05 * smooth_noise(rng, shape, um(22.0)), 0.0)
    eosin = (eosin + 0.12 * apex) * (1.0 - lumen) + mucin * lumen
    haematoxylin = 0.22 * (1.0 - lumen) + 0.4 * mucin * lumen
    return Pattern(
        eosin=eosin.astype(np.float32), haematoxylin=haematoxylin.astype(np.float32),
        nuclei=(nuclei,),
    )  # fmt: skip


def _lined(
    rng: np.random.Generator, shape: Shape, distance: Field, centres: Points, kind: NucleusKind
) -> tuple[Nuclei, Field]:
    """Nuclei turned across the lining, and the eosin of their cells."""
    gx = cv2.Sobel(distance, cv2.CV_32F, 1, 0, ksize=5)
    gy = cv2.Sobel(distance, cv2.CV_32F, 0, 1, ksize=5)
    angle = np.arctan2(at(gy, centres), at(gx, centres))
    angle = angle + rng.normal(0.0, 0.3, len(centres))
    if len(centres) == 0:
        return place(rng, kind, centres), np.full(shape, 0.5, np.float32)
    label, inset = cells(shape, centres)
    tint = (rng.standard_normal(label.max() + 1) * 0.07).astype(np.float32)[label]
    membrane = np.exp(-((inset / np.float32(um(0.7))) ** 2))
    eosin = 0.50 + tint + 0.14 * membrane + 0.10 * texture(rng, shape, 0.4, 1.5)
    return place(rng, kind, centres, angle.astype(np.float32)), eosin.astype(np.float32)
