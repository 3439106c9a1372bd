"""Patterns that any slide may hold, whatever its label: scars, necrosis, fat, blood."""

from typing import Final

import cv2
import numpy as np

from wsi_pipeline.synthetic.noise import Field, Points, Shape, bands, scatter, smooth_noise
from wsi_pipeline.synthetic.nuclei import NucleusKind
from wsi_pipeline.synthetic.pattern import (
    CANVAS_MPP,
    COARSE,
    Pattern,
    at,
    cells,
    coarse_shape,
    place,
    red_cells,
    signed_distance,
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
    noise = smooth_noise(rng, coarse_shape(shape), um(scale_um) / COARSE)
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
    waves = smooth_noise(rng, (direction.shape[0], direction.shape[1]), um(26.0) / COARSE)
    across = direction + np.float32(0.35) * waves + np.float32(np.pi / 2)
    fibre = _streaks(rng, across, shape, (9.0, 0.38))
    bundle = _streaks(rng, across, shape, (26.0, 0.45))
    eosin = np.float32(0.05) * texture(rng, shape, 0.4, 1.6)
    eosin += np.float32(0.56) + np.float32(0.14) * fibre
    eosin += np.float32(0.13) * bundle
    free = np.float32(1.0) - step(np.float32(-1.05) - bundle - np.float32(0.35) * fibre, 0.35)
    eosin *= np.float32(0.15) + np.float32(0.85) * free
    np.maximum(eosin, np.float32(0.02), out=eosin)
    spindle = scatter(rng, free, um(14.0)) * np.float32(CANVAS_MPP)
    along = direction[tuple((spindle[:, ::-1] / (CANVAS_MPP * COARSE)).astype(np.int64).T)]
    return Pattern(
        eosin=eosin,
        haematoxylin=np.float32(0.02) + np.float32(0.14) * eosin,
        nuclei=(
            place(rng, FIBROBLAST, spindle, along),
            place(rng, LYMPHOCYTE, _crowds(rng, shape, lymphocytes)),
        ),
    )


def _streaks(
    rng: np.random.Generator, across: Field, shape: Shape, look: tuple[float, float]
) -> Field:
    """Bands of a wavelength (µm) and spread, with their natural ups and downs of contrast."""
    phase, strength = bands(rng, across, um(look[0]) / COARSE, look[1])
    return to_canvas(np.cos(phase) * np.minimum(strength, np.float32(2.0)), shape)


def _crowds(rng: np.random.Generator, shape: Shape, share: float) -> Points:
    """Points that crowd in ``share`` of the area, densest in the middle of each crowd (µm)."""
    crowd = smooth_noise(rng, shape, um(90.0))
    crowd -= np.float32(np.quantile(crowd[::8, ::8], 1.0 - share))
    points = scatter(rng, np.maximum(crowd, np.float32(0.0)), um(8.2), 3.0) * np.float32(CANVAS_MPP)
    return points[rng.random(len(points)) < np.clip(at(crowd, points), 0.08, 0.75)]


def necrosis(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Dead tissue: smudged eosin without cell borders, ghosts and nuclear dust."""
    cloud = smooth_noise(rng, shape, um(30.0))
    smear = smooth_noise(rng, shape, um(7.0))
    eosin = 0.62 + 0.10 * cloud + 0.09 * smear + 0.10 * texture(rng, shape, 0.5, 2.2)
    solid = np.float32(1.0) - step(smear + np.float32(0.5) * cloud - np.float32(2.0), 0.4)
    haematoxylin = 0.10 + 0.03 * smear + 0.02 * texture(rng, shape, 0.4, 1.2)
    dust = scatter(rng, np.maximum(cloud + 0.6, 0.0), um(9.0), 1.2) * np.float32(CANVAS_MPP)
    return Pattern(
        eosin=np.maximum(eosin * solid, np.float32(0.0)),
        haematoxylin=np.maximum(haematoxylin * solid, np.float32(0.0)),
        nuclei=(place(rng, DEBRIS, dust),),
    )


def fat(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Adipose tissue: large empty cells with thin walls and flat nuclei in the corners."""
    centres = scatter(rng, np.ones(shape, np.float32), um(38.0)) * np.float32(CANVAS_MPP)
    _, inset = cells(shape, centres)
    # Rounding the corners: the cells are what an opening leaves of their insides.
    ball = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * int(um(9.0)) + 1,) * 2)
    droplet = cv2.morphologyEx((inset > um(0.9)).astype(np.uint8) * 255, cv2.MORPH_OPEN, ball)
    wall = step(-signed_distance(droplet), um(0.9))
    eosin = wall * (0.50 + 0.08 * texture(rng, shape, 0.5, 2.0))
    corners = scatter(rng, np.maximum(wall - 0.9, 0.0), um(30.0), 12.0) * np.float32(CANVAS_MPP)
    return Pattern(
        eosin=np.asarray(eosin, np.float32),
        haematoxylin=np.float32(0.06) * wall,
        nuclei=(place(rng, FIBROBLAST, corners),),
    )


def blood(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Haemorrhage: packed red cells, fibrin between them, a few leucocytes."""
    haze = smooth_noise(rng, shape, um(50.0))
    eosin = np.maximum(0.18 + 0.10 * haze + 0.05 * texture(rng, shape, 0.5, 2.0), np.float32(0))
    packed = scatter(rng, np.maximum(haze + 1.6, 0.0), um(5.2), 2.2) * np.float32(CANVAS_MPP)
    red_cells(rng, eosin, packed)
    white = scatter(rng, np.ones(shape, np.float32), um(45.0)) * np.float32(CANVAS_MPP)
    return Pattern(
        eosin=np.asarray(cv2.GaussianBlur(eosin, (0, 0), um(0.4)), np.float32),
        haematoxylin=np.full(shape, 0.03, np.float32),
        nuclei=(place(rng, LYMPHOCYTE, white),),
    )
