"""Hepatocytes in plates: the cords of normal liver and the trabeculae of hepatocellular carcinoma.

Both are bands that follow a direction field, with blood spaces between them; they differ in how
thick and how regular the plates are and in the cells and nuclei they hold.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from wsi_pipeline.synthetic.glands import duct
from wsi_pipeline.synthetic.noise import Field, Points, Shape, bands, scatter, smooth_noise
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
    red_cells,
    signed_distance,
    step,
    texture,
    to_canvas,
    um,
)
from wsi_pipeline.synthetic.stroma import LYMPHOCYTE, fibrous, to_canvas_angle, wandering

ENDOTHELIUM: Final = NucleusKind(
    length_um=8.5, width_um=2.4, variation=0.18, density=1.45, clearing=0.1
)


@dataclass(frozen=True, kw_only=True)
class PlateStyle:
    """How plates look; lengths in µm.

    Attributes:
        period_um: From one plate to the next.
        gap_um: Mean width of the blood space between two plates.
        gap_variation: How much that width wanders, relative.
        regularity: Relative width of the band filter; more is less regular.
        cell_um: Smallest distance between two cells.
        centring: How strongly cells keep to the middle of their plate.
        nuclei: Kinds of hepatocyte nuclei with their shares.
        lining_um: Distance between endothelial nuclei along a blood space.
        acini: Share of the area with little lumina between the cells.
    """

    period_um: float
    gap_um: float
    gap_variation: float
    regularity: float
    cell_um: float
    centring: float
    nuclei: tuple[tuple[NucleusKind, float], ...]
    lining_um: float
    acini: float = 0.0


CORDS: Final = PlateStyle(
    period_um=27.0,
    gap_um=5.6,
    gap_variation=0.45,
    regularity=0.20,
    cell_um=15.5,
    centring=2.5,
    nuclei=(
        (NucleusKind(length_um=7.6, width_um=7.3, density=1.15, clearing=0.42, nucleolus=0.5), 0.9),
        (NucleusKind(length_um=9.0, width_um=8.8, density=1.1, clearing=0.45, nucleolus=0.6), 0.1),
    ),
    lining_um=15.0,
)
TRABECULAE: Final = PlateStyle(
    period_um=92.0,
    gap_um=11.0,
    gap_variation=0.6,
    regularity=0.36,
    cell_um=13.0,
    centring=0.0,
    nuclei=(
        (
            NucleusKind(
                length_um=9.6, width_um=8.6, variation=0.15, irregularity=0.08, density=1.0,
                clearing=0.5, clumping=0.24, nucleolus=1.0,
            ),
            0.82,
        ),
        (
            NucleusKind(
                length_um=12.5, width_um=10.5, variation=0.2, irregularity=0.14, density=1.15,
                clearing=0.4, clumping=0.3, nucleolus=1.1,
            ),
            0.18,
        ),
    ),
    lining_um=20.0,
    acini=0.25,
)  # fmt: skip


def trabecular(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Hepatocellular carcinoma: plates several cells thick, pleomorphic nuclei, clefts."""
    return plates(rng, shape, wandering(rng, shape, 240.0, 1.1), TRABECULAE)


def lobular(rng: np.random.Generator, shape: Shape) -> Pattern:
    """Normal liver: cords that radiate from central veins, and portal tracts between lobules."""
    veins, tracts = _landmarks(rng, shape)
    pattern = plates(rng, shape, _radial(rng, shape, veins), CORDS)
    pattern = _central_veins(rng, pattern, veins)
    return _portal_tracts(rng, pattern, tracts)


def plates(rng: np.random.Generator, shape: Shape, along: Field, style: PlateStyle) -> Pattern:
    """Draw plates of hepatocytes.

    Args:
        rng: Source of randomness.
        shape: Canvas shape.
        along: Coarse field, the direction of the plates in radians.
        style: How they look.
    """
    rim = _plate_edges(rng, shape, along, style)
    inside = step(rim, um(0.9))
    middle = np.minimum(rim, um(12.0)) / np.float32(um(12.0))
    weight = np.where(rim > um(3.4), 0.05 + style.centring * middle, 0.0).astype(np.float32)
    centres = scatter(rng, weight, um(style.cell_um)) * np.float32(CANVAS_MPP)
    label, inset = cells(shape, centres)
    tint = (rng.standard_normal(label.max() + 1) * 0.09).astype(np.float32)[label]
    membrane = np.exp(-((inset / np.float32(um(0.8))) ** 2))
    foam = texture(rng, shape, 0.45, 1.7)
    zone = smooth_noise(rng, shape, um(160.0))
    clear = np.clip(0.5 + 0.35 * zone, 0.0, 1.0) * step(inset - um(2.2), um(3.0))
    cytoplasm = 0.60 + tint + 0.16 * foam + 0.22 * membrane - 0.16 * clear - 0.05 * zone
    eosin = np.maximum(cytoplasm, 0.08) * inside
    edge = np.exp(-((rim / np.float32(um(0.9))) ** 2))
    eosin = np.maximum(eosin, 0.5 * edge)
    haematoxylin = inside * np.maximum(0.15 + 0.05 * texture(rng, shape, 0.35, 1.0) + 0.2 * tint, 0)
    if style.acini > 0:
        _open_acini(rng, (eosin, haematoxylin), inset, centres, style)
    _fill_spaces(rng, eosin, rim)
    nuclei = _hepatocytes(rng, centres, style)
    return Pattern(
        eosin=eosin.astype(np.float32),
        haematoxylin=haematoxylin.astype(np.float32),
        nuclei=(*nuclei, _lining(rng, shape, rim, along, style)),
    )


def _plate_edges(
    rng: np.random.Generator, shape: Shape, along: Field, style: PlateStyle
) -> Field:
    """Distance to the edge of the plate in canvas pixels, positive inside it."""
    across = along + np.float32(np.pi / 2)
    phase, _ = bands(rng, across, um(style.period_um) / COARSE, style.regularity)
    wander = smooth_noise(rng, phase.shape, um(0.7 * style.period_um) / COARSE)
    half_gap = style.gap_um * np.maximum(1.0 + style.gap_variation * wander, 0.1) / 2.0
    # Phase runs from 0 in the middle to pi in the gap; cos is smooth there, its inverse is not.
    away = np.arccos(np.clip(to_canvas(np.cos(phase), shape), -1.0, 1.0)) / np.float32(2 * np.pi)
    to_gap = (0.5 - away) * np.float32(um(style.period_um))
    ragged = um(0.5) * texture(rng, shape, 1.2, 4.0)
    distance: Field = (to_gap - to_canvas(half_gap * np.float32(um(1.0)), shape) + ragged).astype(
        np.float32
    )
    return distance


def _open_acini(
    rng: np.random.Generator,
    maps: tuple[Field, Field],
    inset: Field,
    centres: Points,
    style: PlateStyle,
) -> None:
    """Open small lumina where cells meet, in some places (pseudoglands)."""
    shape = inset.shape
    place_noise = smooth_noise(rng, (shape[0], shape[1]), um(150.0))
    limit = np.quantile(place_noise[::8, ::8], 1.0 - style.acini)
    corners = np.where((place_noise > limit) & (inset < 1.5), 1.0, 0.0).astype(np.float32)
    mask = np.zeros(shape, np.uint8)
    for x, y in scatter(rng, corners, um(48.0)):
        fill(mask, blob(rng, um(rng.uniform(3.5, 7.5)), 1.2) + (x, y))
    hole = cv2.GaussianBlur(mask, (0, 0), um(0.5)).astype(np.float32) / 255.0
    for each in maps:
        each *= 1.0 - 0.92 * hole


def _fill_spaces(rng: np.random.Generator, eosin: Field, rim: Field) -> None:
    """Plasma and red cells in the blood spaces."""
    haze = smooth_noise(rng, (rim.shape[0], rim.shape[1]), um(60.0))
    space = step(-rim, um(1.0))
    eosin += space * np.maximum(0.05 + 0.03 * haze, 0.0)
    roomy = np.where((rim < -um(1.8)) & (haze > 0.3), 1.0, 0.0).astype(np.float32)
    red_cells(rng, eosin, scatter(rng, roomy, um(6.4), 2.0) * np.float32(CANVAS_MPP))


def _hepatocytes(
    rng: np.random.Generator, centres: Points, style: PlateStyle
) -> list[Nuclei]:
    jitter = rng.normal(0.0, 1.0, centres.shape).astype(np.float32)
    shown = rng.random(len(centres)) < 0.93  # the section misses some nuclei
    kind = rng.choice(len(style.nuclei), len(centres), p=[share for _, share in style.nuclei])
    return [
        place(rng, one, (centres + jitter)[shown & (kind == index)])
        for index, (one, _) in enumerate(style.nuclei)
    ]


def _lining(
    rng: np.random.Generator, shape: Shape, rim: Field, along: Field, style: PlateStyle
) -> Nuclei:
    wall = np.where(np.abs(rim + um(0.6)) < um(0.8), 1.0, 0.0).astype(np.float32)
    points = scatter(rng, wall, um(style.lining_um), 12.0) * np.float32(CANVAS_MPP)
    gx = cv2.Sobel(rim, cv2.CV_32F, 1, 0, ksize=5)
    gy = cv2.Sobel(rim, cv2.CV_32F, 0, 1, ksize=5)
    angle = np.arctan2(at(gy, points), at(gx, points)) + np.pi / 2
    return place(rng, ENDOTHELIUM, points, angle.astype(np.float32))


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
    grid = COARSE * CANVAS_MPP
    y, x = np.mgrid[:height, :width].astype(np.float32) * np.float32(grid)
    best = np.full((height, width), np.inf, np.float32)
    angle = np.zeros((height, width), np.float32)
    for vx, vy in veins:
        dx, dy = x - vx, y - vy
        distance = dx * dx + dy * dy
        nearer = distance < best
        best = np.where(nearer, distance, best)
        angle = np.where(nearer, np.arctan2(dy, dx), angle)
    return angle + np.float32(0.25) * smooth_noise(rng, (height, width), um(70.0) / COARSE)


def _central_veins(rng: np.random.Generator, pattern: Pattern, veins: Points) -> Pattern:
    mask = np.zeros(pattern.eosin.shape, np.uint8)
    for vein in veins:
        fill(mask, blob(rng, um(rng.uniform(20.0, 36.0)), 1.25, 0.1) + vein / CANVAS_MPP)
    return _vessel(rng, pattern, mask, 2.2)


def _vessel(
    rng: np.random.Generator, pattern: Pattern, mask: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    wall_um: float,
) -> Pattern:
    """Lay an open vessel with a wall over a pattern; ``mask`` is its lumen."""
    distance = signed_distance(mask)
    wall = np.exp(-(((distance + um(wall_um / 2)) / np.float32(um(wall_um / 2))) ** 2))
    eosin = 0.06 * step(distance, um(1.0)) + 0.55 * wall
    blood = smooth_noise(rng, (mask.shape[0], mask.shape[1]), um(40.0))
    roomy = np.where((distance > um(4.0)) & (blood > 0.6), 1.0, 0.0).astype(np.float32)
    red_cells(rng, eosin, scatter(rng, roomy, um(6.2), 2.0) * np.float32(CANVAS_MPP))
    ring = np.where(np.abs(distance + um(wall_um / 2)) < um(0.8), 1.0, 0.0).astype(np.float32)
    points = scatter(rng, ring, um(19.0), 12.0) * np.float32(CANVAS_MPP)
    gx = cv2.Sobel(distance, cv2.CV_32F, 1, 0, ksize=5)
    gy = cv2.Sobel(distance, cv2.CV_32F, 0, 1, ksize=5)
    angle = (np.arctan2(at(gy, points), at(gx, points)) + np.pi / 2).astype(np.float32)
    vessel = Pattern(
        eosin=eosin.astype(np.float32),
        haematoxylin=(0.08 * wall).astype(np.float32),
        nuclei=(place(rng, ENDOTHELIUM, points, angle),),
    )
    return blend(pattern, vessel, step(distance + um(wall_um), um(1.2)))


def _portal_tracts(rng: np.random.Generator, pattern: Pattern, tracts: Points) -> Pattern:
    """Islands of stroma with a bile duct, an artery and a portal vein each."""
    shape = (pattern.eosin.shape[0], pattern.eosin.shape[1])
    island = np.zeros(shape, np.uint8)
    veins, ducts = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    arteries = np.zeros(shape, np.uint8)
    for tract in tracts / CANVAS_MPP:
        radius = um(rng.uniform(36.0, 58.0))
        fill(island, blob(rng, radius, 1.2, 0.25) + tract)
        turn = rng.uniform(0, 2 * np.pi)
        for mask, share, at_angle in ((veins, 0.36, 0.0), (ducts, 0.2, 2.2), (arteries, 0.1, 4.0)):
            away = 0.42 * radius * np.array([np.cos(turn + at_angle), np.sin(turn + at_angle)])
            fill(mask, blob(rng, share * radius, 1.2, 0.08) + tract + away)
    stroma = fibrous(rng, shape, lymphocytes=0.45)
    pattern = blend(pattern, stroma, step(signed_distance(island), um(2.5)))
    pattern = _vessel(rng, pattern, veins, 2.5)
    pattern = _vessel(rng, pattern, arteries, 6.0)
    return duct(rng, pattern, ducts)
