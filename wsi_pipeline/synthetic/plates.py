"""Hepatocytes in plates: the cords of normal liver and the trabeculae of hepatocellular carcinoma.

Both are bands that follow a direction field, with blood spaces between them; they differ in how
thick and how regular the plates are and in the cells and nuclei they hold.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from wsi_pipeline.synthetic.noise import Field, Points, Shape, bands, scatter, smooth_noise
from wsi_pipeline.synthetic.nuclei import Nuclei, NucleusKind
from wsi_pipeline.synthetic.pattern import (
    CANVAS_MPP,
    COARSE,
    Pattern,
    blob,
    cells,
    fill,
    gradient_angle,
    place,
    red_cells,
    step,
    texture,
    to_canvas,
    um,
)
from wsi_pipeline.synthetic.vessels import ENDOTHELIUM


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
        binucleate: Share of cells with two nuclei.
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
    binucleate: float = 0.06


CORDS: Final = PlateStyle(
    period_um=26.0, gap_um=4.8, gap_variation=0.45, regularity=0.24, cell_um=14.4, centring=2.5,
    nuclei=(
        (NucleusKind(length_um=7.9, width_um=7.6, density=1.3, clearing=0.36, nucleolus=0.45), 0.9),
        (NucleusKind(length_um=9.0, width_um=8.8, density=1.25, clearing=0.4, nucleolus=0.5), 0.1),
    ),
    lining_um=11.0,
    binucleate=0.18,
)  # fmt: skip
TRABECULAE: Final = PlateStyle(
    period_um=66.0, gap_um=8.0, gap_variation=0.55, regularity=0.30, cell_um=13.8, centring=0.0,
    nuclei=(
        (
            NucleusKind(
                length_um=9.6, width_um=8.6, variation=0.14, irregularity=0.08, density=1.1,
                clearing=0.45, clumping=0.24, nucleolus=0.9,
            ),
            0.84,
        ),
        (
            NucleusKind(
                length_um=12.5, width_um=10.5, variation=0.18, irregularity=0.13, density=1.25,
                clearing=0.36, clumping=0.28, nucleolus=1.0,
            ),
            0.16,
        ),
    ),
    lining_um=17.0,
    acini=0.25,
)  # fmt: skip


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
    middle = np.minimum(rim, np.float32(um(12.0))) * np.float32(style.centring / um(12.0))
    weight = np.where(rim > um(3.4), middle + np.float32(0.05), np.float32(0.0))
    centres = scatter(rng, weight, um(style.cell_um)) * np.float32(CANVAS_MPP)
    eosin, haematoxylin, inset = _cytoplasm(rng, shape, centres)
    edge = np.exp(np.square(rim * np.float32(1 / um(0.9))) * np.float32(-1.0))
    edge *= np.float32(0.5)
    eosin *= inside
    np.maximum(eosin, edge, out=eosin)
    haematoxylin *= inside
    if style.acini > 0:
        _open_acini(rng, (eosin, haematoxylin), inset, style)
    _fill_spaces(rng, eosin, rim)
    nuclei = _hepatocytes(rng, centres, style)
    return Pattern(
        eosin=eosin, haematoxylin=haematoxylin, nuclei=(*nuclei, _lining(rng, rim, style))
    )


def _plate_edges(rng: np.random.Generator, shape: Shape, along: Field, style: PlateStyle) -> Field:
    """Distance to the edge of the plate in canvas pixels, positive inside it."""
    across = along + np.float32(np.pi / 2)
    phase, _ = bands(rng, across, um(style.period_um) / COARSE, style.regularity)
    wander = smooth_noise(rng, (phase.shape[0], phase.shape[1]), um(0.7 * style.period_um) / COARSE)
    spread = np.maximum(1.0 + np.float32(style.gap_variation) * wander, np.float32(0.1))
    half_gap = spread * np.float32(um(style.gap_um) / 2.0)
    # The phase jumps from pi to -pi in the gap; its cosine does not and can be interpolated.
    away = np.arccos(np.clip(to_canvas(np.cos(phase), shape), -1.0, 1.0))
    to_gap = (np.float32(np.pi) - away) * np.float32(um(style.period_um) / (2.0 * np.pi))
    to_gap -= to_canvas(half_gap, shape)
    to_gap += np.float32(um(0.5)) * texture(rng, shape, 1.2, 4.0)
    return np.asarray(to_gap, np.float32)


def _cytoplasm(
    rng: np.random.Generator, shape: Shape, centres: Points
) -> tuple[Field, Field, Field]:
    """Eosin, haematoxylin and the distance to the next cell border, all over the canvas."""
    label, inset = cells(shape, centres)
    tints = rng.standard_normal(int(label.max()) + 1, dtype=np.float32) * np.float32(0.09)
    tint = tints[label]
    zone = smooth_noise(rng, shape, um(160.0))
    clear = np.clip(np.float32(0.5) + np.float32(0.35) * zone, 0.0, 1.0)
    clear *= step(inset - np.float32(um(2.2)), um(3.0))
    eosin = np.exp(np.square(inset * np.float32(1 / um(0.8))) * np.float32(-1.0))
    eosin *= np.float32(0.22)
    eosin += tint
    eosin += np.float32(0.16) * texture(rng, shape, 0.45, 1.7)
    eosin -= np.float32(0.16) * clear
    eosin += np.float32(0.60)
    np.maximum(eosin, np.float32(0.08), out=eosin)
    haematoxylin = np.float32(0.05) * texture(rng, shape, 0.35, 1.0)
    haematoxylin += np.float32(0.2) * tint
    haematoxylin += np.float32(0.15)
    np.maximum(haematoxylin, np.float32(0.0), out=haematoxylin)
    return np.asarray(eosin, np.float32), np.asarray(haematoxylin, np.float32), inset


def _open_acini(
    rng: np.random.Generator, maps: tuple[Field, Field], inset: Field, style: PlateStyle
) -> None:
    """Open small lumina where cells meet, in some places (pseudoglands)."""
    shape = (inset.shape[0], inset.shape[1])
    patchy = smooth_noise(rng, shape, um(150.0))
    limit = float(np.quantile(patchy[::8, ::8], 1.0 - style.acini))
    corners = np.where((patchy > limit) & (inset < 1.5), np.float32(1.0), np.float32(0.0))
    mask = np.zeros(shape, np.uint8)
    for centre in scatter(rng, corners, um(48.0), 40.0):
        fill(mask, blob(rng, um(rng.uniform(3.5, 7.5)), 1.2) + centre)
    hole = cv2.GaussianBlur(mask, (0, 0), um(0.5)).astype(np.float32)
    hole *= np.float32(-0.92 / 255.0)
    hole += np.float32(1.0)
    for each in maps:
        each *= hole


def _fill_spaces(rng: np.random.Generator, eosin: Field, rim: Field) -> None:
    """Plasma and red cells in the blood spaces."""
    haze = smooth_noise(rng, (rim.shape[0], rim.shape[1]), um(60.0))
    plasma = np.maximum(np.float32(0.05) + np.float32(0.03) * haze, np.float32(0.0))
    eosin += step(-rim, um(1.0)) * plasma
    roomy = np.where((rim < -um(1.8)) & (haze > 0.3), np.float32(1.0), np.float32(0.0))
    red_cells(rng, eosin, scatter(rng, roomy, um(6.4), 8.0) * np.float32(CANVAS_MPP))


def _hepatocytes(rng: np.random.Generator, centres: Points, style: PlateStyle) -> list[Nuclei]:
    spots = centres + rng.standard_normal(centres.shape, dtype=np.float32)
    spots = spots[rng.random(len(spots)) < 0.93]  # the section misses some nuclei
    apart = np.where(rng.random(len(spots)) < style.binucleate, np.float32(4.4), np.float32(0.0))
    turn = rng.uniform(0.0, 2.0 * np.pi, len(spots)).astype(np.float32)
    shift = apart[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    spots = np.concatenate([spots + shift, (spots - shift)[apart > 0]])
    kind = rng.choice(len(style.nuclei), len(spots), p=[share for _, share in style.nuclei])
    return [place(rng, one, spots[kind == index]) for index, (one, _) in enumerate(style.nuclei)]


def _lining(rng: np.random.Generator, rim: Field, style: PlateStyle) -> Nuclei:
    """Endothelial nuclei, flat on the edge of the blood spaces."""
    wall = np.where(np.abs(rim + um(0.6)) < um(0.8), np.float32(1.0), np.float32(0.0))
    points = scatter(rng, wall, um(style.lining_um), 40.0) * np.float32(CANVAS_MPP)
    return place(rng, ENDOTHELIUM, points, gradient_angle(rim, points) + np.float32(np.pi / 2))
