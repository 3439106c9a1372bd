"""Patterns that any slide may hold, whatever its label: scars, inflammation, necrosis, fat, blood."""

from typing import Final

import cv2
import numpy as np

from wsi_pipeline.synthetic.noise import Field, Shape, bands, scatter, smooth_noise
from wsi_pipeline.synthetic.nuclei import NucleusKind
from wsi_pipeline.synthetic.pattern import (
    CANVAS_MPP,
    Pattern,
    at,
    cells,
    coarse_shape,
    place,
    red_cells,
    step,
    texture,
    to_canvas,
    um,
)

FIBROBLAST: Final = NucleusKind(
    length_um=12.5, width_um=2.9, variation=0.2, density=1.25, clearing=0.2
)
LYMPHOCYTE: Final = NucleusKind(
    length_um=6.2, width_um=5.8, density=1.65, clearing=0.05, clumping=0.25
)
DEBRIS: Final = NucleusKind(
    length_um=3.2, width_um=2.6, variation=0.4, irregularity=0.2, density=1.3, clearing=0.0
)


def wandering(rng: np.random.Generator, shape: Shape, scale_um: float, turn: float) -> Field:
    """A smooth direction field on the coarse grid, varying by about ``turn`` radians."""
    noise = smooth_noise(rng, coarse_shape(shape), um(scale_um) / 4.0)
    base = np.float32(rng.uniform(0.0, 2.0 * np.pi))
    return base + np.float32(turn) * noise


def fibrous(
    rng: np.random.Generator,
    shape: Shape,
    direction: Field | None = None,
    lymphocytes: float = 0.25,
) -> Pattern:
    """Collagen in wavy bundles with fibroblasts, and lymphocytes in crowds.

    Args:
        rng: Source of randomness.
        shape: Canvas shape.
        direction: Coarse field of the direction along the fibres; random when None.
        lymphocytes: Share of the area in which lymphocytes crowd.
    """
    if direction is None:
        direction = wandering(rng, shape, 220.0, 0.8)
    waves = smooth_noise(rng, direction.shape, um(26.0) / 4.0)
    across = direction + np.float32(0.35) * waves + np.float32(np.pi / 2)
    phase, strength = bands(rng, across, um(9.0) / 4.0, 0.38)
    fibre = to_canvas((np.cos(phase) * np.minimum(strength, 2.0)).astype(np.float32), shape)
    phase, strength = bands(rng, across, um(26.0) / 4.0, 0.45)
    bundle = to_canvas((np.cos(phase) * np.minimum(strength, 2.0)).astype(np.float32), shape)
    eosin = 0.50 + 0.11 * fibre + 0.10 * bundle + 0.05 * texture(rng, shape, 0.4, 1.6)
    slit = step(-1.05 - bundle - 0.35 * fibre, 0.35)
    eosin = np.maximum(eosin * (1.0 - 0.85 * slit), 0.02)
    haematoxylin = 0.05 + 0.05 * np.maximum(eosin, 0.0)
    free = np.ones(shape, np.float32) - slit
    spindle = scatter(rng, free, um(15.0)) * np.float32(CANVAS_MPP)
    along = at(to_canvas_angle(direction, shape), spindle)
    crowd = smooth_noise(rng, shape, um(90.0))
    limit = np.quantile(crowd[::8, ::8], 1.0 - lymphocytes)
    dense = scatter(rng, np.maximum(crowd - limit, 0.0), um(8.2), 3.0) * np.float32(CANVAS_MPP)
    thin = rng.random(len(dense)) < np.clip(at(crowd, dense) - limit, 0.08, 0.75)
    return Pattern(
        eosin=eosin,
        haematoxylin=haematoxylin,
        nuclei=(place(rng, FIBROBLAST, spindle, along), place(rng, LYMPHOCYTE, dense[thin])),
    )


def to_canvas_angle(direction: Field, shape: Shape) -> Field:
    """Enlarge a field of angles by nearest neighbour: angles must not be averaged."""
    size = (direction.shape[1] * 4, direction.shape[0] * 4)
    large = cv2.resize(direction, size, interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(large[: shape[0], : shape[1]])


def necrosis(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Dead tissue: smudged eosin without cell borders, ghosts and nuclear dust."""
    cloud = smooth_noise(rng, shape, um(30.0))
    smear = smooth_noise(rng, shape, um(7.0))
    eosin = 0.62 + 0.10 * cloud + 0.09 * smear + 0.10 * texture(rng, shape, 0.5, 2.2)
    holes = step(smear + 0.5 * cloud - 2.0, 0.4)
    eosin = np.maximum(eosin * (1.0 - holes), 0.0)
    haematoxylin = 0.10 + 0.03 * smear + 0.02 * texture(rng, shape, 0.4, 1.2)
    dust = scatter(rng, np.maximum(cloud + 0.6, 0.0), um(9.0), 1.2) * np.float32(CANVAS_MPP)
    return Pattern(
        eosin=eosin,
        haematoxylin=np.maximum(haematoxylin * (1.0 - holes), 0.0),
        nuclei=(place(rng, DEBRIS, dust),),
    )


def fat(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Adipose tissue: large empty cells with thin walls and flat nuclei in the corners."""
    centres = scatter(rng, np.ones(shape, np.float32), um(38.0)) * np.float32(CANVAS_MPP)
    _, inset = cells(shape, centres)
    inset = cv2.GaussianBlur(inset, (0, 0), um(2.0))
    wall = step(um(2.4) - inset, um(0.8))
    eosin = wall * (0.55 + 0.08 * texture(rng, shape, 0.5, 2.0))
    corners = scatter(rng, np.maximum(wall - 0.9, 0.0), um(30.0)) * np.float32(CANVAS_MPP)
    return Pattern(
        eosin=eosin,
        haematoxylin=0.06 * wall,
        nuclei=(place(rng, FIBROBLAST, corners),),
    )


def blood(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Haemorrhage: packed red cells, fibrin between them, a few leucocytes."""
    haze = smooth_noise(rng, shape, um(50.0))
    eosin = np.maximum(0.18 + 0.10 * haze + 0.05 * texture(rng, shape, 0.5, 2.0), 0.0)
    packed = scatter(rng, np.maximum(haze + 1.6, 0.0), um(5.2), 2.2) * np.float32(CANVAS_MPP)
    red_cells(rng, eosin, packed)
    white = scatter(rng, np.ones(shape, np.float32), um(45.0)) * np.float32(CANVAS_MPP)
    return Pattern(
        eosin=cv2.GaussianBlur(eosin, (0, 0), um(0.4)),
        haematoxylin=np.full(shape, 0.03, np.float32),
        nuclei=(place(rng, LYMPHOCYTE, white),),
    )
