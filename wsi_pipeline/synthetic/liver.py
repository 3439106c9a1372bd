"""Liver tissue: normal lobules, and hepatocellular carcinoma."""

import numpy as np

from wsi_pipeline.synthetic.glands import duct
from wsi_pipeline.synthetic.noise import Field, Points, Shape, smooth_noise
from wsi_pipeline.synthetic.pattern import (
    CANVAS_MPP,
    COARSE,
    Pattern,
    blob,
    coarse_shape,
    fill,
    lay,
    signed_distance,
    step,
    um,
)
from wsi_pipeline.synthetic.plates import CORDS, TRABECULAE, plates
from wsi_pipeline.synthetic.stroma import fibrous, wandering
from wsi_pipeline.synthetic.vessels import vessel


def trabecular(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Hepatocellular carcinoma: plates several cells thick, pleomorphic nuclei, clefts."""
    return plates(rng, shape, wandering(rng, shape, 190.0, 1.2), TRABECULAE)


def lobular(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Normal liver: cords that radiate from central veins, and portal tracts between lobules."""
    veins, tracts = _landmarks(rng, shape)
    pattern = plates(rng, shape, _radial(rng, shape, veins), CORDS)
    for vein in veins:
        pattern = _central_vein(rng, pattern, vein)
    for tract in tracts:
        pattern = _portal_tract(rng, pattern, tract)
    return pattern


def _landmarks(rng: np.random.Generator, shape: Shape) -> tuple[Points, Points]:
    """Central veins on a jittered triangular lattice, portal tracts between three of them (µm)."""
    pitch = rng.uniform(430.0, 520.0)
    height, width = shape[0] * CANVAS_MPP, shape[1] * CANVAS_MPP
    start = rng.uniform(-0.5, 0.5, 2) * pitch
    veins, tracts = [], []
    for row in range(-1, int(height / (0.866 * pitch)) + 2):
        for column in range(-1, int(width / pitch) + 2):
            x = start[0] + (column + 0.5 * (row % 2)) * pitch
            y = start[1] + row * 0.866 * pitch
            veins.append((x, y))
            tracts += [(x, y + 0.577 * pitch), (x + 0.5 * pitch, y + 0.289 * pitch)]
    jitter = 0.07 * pitch
    return (
        (np.array(veins) + rng.normal(0, jitter, (len(veins), 2))).astype(np.float32),
        (np.array(tracts) + rng.normal(0, jitter, (len(tracts), 2))).astype(np.float32),
    )


def _radial(rng: np.random.Generator, shape: Shape, veins: Points) -> Field:
    """Direction away from the nearest central vein, on the coarse grid, a little disturbed."""
    height, width = coarse_shape(shape)
    y, x = np.mgrid[:height, :width].astype(np.float32) * np.float32(COARSE * CANVAS_MPP)
    best = np.full((height, width), np.inf, np.float32)
    angle = np.zeros((height, width), np.float32)
    for vein_x, vein_y in veins:
        dx, dy = x - vein_x, y - vein_y
        distance = dx * dx + dy * dy
        nearer = distance < best
        best = np.where(nearer, distance, best)
        angle = np.where(nearer, np.arctan2(dy, dx), angle)
    return angle + np.float32(0.32) * smooth_noise(rng, (height, width), um(55.0) / COARSE)


def _central_vein(rng: np.random.Generator, pattern: Pattern, centre_um: Points) -> Pattern:
    side = 2 * int(um(70.0))
    corner = _corner(pattern, centre_um, side)
    if corner is None:
        return pattern
    lumen = np.zeros((side, side), np.uint8)
    fill(lumen, blob(rng, um(rng.uniform(17.0, 32.0)), 1.25, 0.1) + np.float32(side / 2))
    return vessel(rng, pattern, lumen, 2.4, corner)


def _portal_tract(rng: np.random.Generator, pattern: Pattern, centre_um: Points) -> Pattern:
    """An island of stroma with a bile duct, an artery and a portal vein."""
    side = 2 * int(um(105.0))
    corner = _corner(pattern, centre_um, side)
    if corner is None:
        return pattern
    shape = (side, side)
    island, vein, ducts, artery = (np.zeros(shape, np.uint8) for _ in range(4))
    radius = um(rng.uniform(34.0, 56.0))
    fill(island, blob(rng, radius, 1.25, 0.28) + np.float32(side / 2))
    turn = rng.uniform(0, 2 * np.pi)
    for mask, share, place_at in ((vein, 0.34, 0.0), (ducts, 0.24, 2.2), (artery, 0.1, 4.0)):
        away = 0.44 * radius * np.array([np.cos(turn + place_at), np.sin(turn + place_at)])
        outline = blob(rng, share * radius, 1.25, 0.08) + np.float32(side / 2)
        fill(mask, outline + away.astype(np.float32))
    local = fibrous(rng, shape, lymphocytes=0.45)
    local = duct(rng, vessel(rng, vessel(rng, local, vein, 2.5), artery, 6.0), ducts)
    return lay(pattern, local, step(signed_distance(island), um(2.5)), corner)


def _corner(pattern: Pattern, centre_um: Points, side: int) -> tuple[int, int] | None:
    """Corner of a square window about a point, None when it lies off the canvas."""
    x, y = (round(float(value) / CANVAS_MPP) - side // 2 for value in centre_um)
    height, width = pattern.eosin.shape
    off = x >= width or y >= height or x + side <= 0 or y + side <= 0
    return None if off else (x, y)
