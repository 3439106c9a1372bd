"""What every tissue pattern is: two concentration maps and the nuclei to paint over them."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.noise import Field, Points, Shape, enlarge, repeat
from wsi_pipeline.synthetic.noise import grain as grain_texture
from wsi_pipeline.synthetic.nuclei import Nuclei, NucleusKind

CANVAS_MPP: Final = 0.5  # patterns are drawn at 0.5 µm per pixel, about what optics resolve
COARSE: Final = 4  # direction fields are computed on every fourth canvas pixel


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Tissue before nuclei.

    Attributes:
        eosin, haematoxylin: (H, W) float32 concentrations on the canvas; 0 is empty glass.
        nuclei: What lies in it, positions in µm from the canvas' corner.
    """

    eosin: Field
    haematoxylin: Field
    nuclei: tuple[Nuclei, ...]


def um(length: float) -> float:
    """Micrometres to canvas pixels."""
    return length / CANVAS_MPP


def coarse_shape(shape: Shape) -> Shape:
    """The shape of a coarse field that covers a canvas."""
    return (-(-shape[0] // COARSE) + 1, -(-shape[1] // COARSE) + 1)


def to_canvas(field: Field, shape: Shape) -> Field:
    """Enlarge a coarse field to the canvas."""
    height, width = field.shape
    return np.ascontiguousarray(
        enlarge(field, (height * COARSE, width * COARSE))[: shape[0], : shape[1]]
    )


def step(distance: Field, softness: float) -> Field:
    """Coverage of a shape from the signed distance to its edge, both in canvas pixels."""
    return np.clip(distance / np.float32(softness) + np.float32(0.5), 0.0, 1.0)


def texture(rng: np.random.Generator, shape: Shape, fine_um: float, coarse_um: float) -> Field:
    """Unit-variance grain between two blur widths, over the whole canvas."""
    tile = grain_texture(rng, 1024, um(fine_um), um(coarse_um))
    offset = (int(rng.integers(1024)), int(rng.integers(1024)))
    return repeat(tile, shape, offset)


def at(field: Field, xy_um: Points) -> Field:
    """Values of a canvas field at points."""
    pixel = (xy_um / CANVAS_MPP).astype(np.int64)
    y = np.clip(pixel[:, 1], 0, field.shape[0] - 1)
    x = np.clip(pixel[:, 0], 0, field.shape[1] - 1)
    values: Field = field[y, x]
    return values


def place(
    rng: np.random.Generator, kind: NucleusKind, xy_um: Points, angle: Field | None = None
) -> Nuclei:
    """Nuclei at points, turned at random unless angles are given."""
    if angle is None:
        angle = rng.uniform(0.0, np.pi, len(xy_um)).astype(np.float32)
    return Nuclei(kind=kind, xy_um=xy_um, angle=angle.astype(np.float32))


def cells(shape: Shape, xy_um: Points) -> tuple[NDArray[np.int32], Field]:
    """Voronoi cells of points.

    Returns:
        ``label`` (H, W): which point is nearest, and ``inset`` (H, W): the distance to the
        border between two cells in canvas pixels.
    """
    seeds = np.full(shape, 1, np.uint8)
    pixel = (xy_um / CANVAS_MPP).astype(np.int64)
    seeds[np.clip(pixel[:, 1], 0, shape[0] - 1), np.clip(pixel[:, 0], 0, shape[1] - 1)] = 0
    _, label = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    border = np.ones(shape, np.uint8)
    border[:, 1:][label[:, 1:] != label[:, :-1]] = 0
    border[1:][label[1:] != label[:-1]] = 0
    inset = cv2.distanceTransform(border, cv2.DIST_L2, 3)
    return label.astype(np.int32, copy=False), inset.astype(np.float32, copy=False)


def blend(below: Pattern, above: Pattern, cover: Field) -> Pattern:
    """Lay ``above`` over ``below`` where ``cover`` (H, W) in [0, 1] says so; nuclei follow."""
    kept = [n.where(at(cover, n.xy_um) < 0.5) for n in below.nuclei]
    added = [n.where(at(cover, n.xy_um) >= 0.5) for n in above.nuclei]
    return Pattern(
        eosin=below.eosin + (above.eosin - below.eosin) * cover,
        haematoxylin=below.haematoxylin + (above.haematoxylin - below.haematoxylin) * cover,
        nuclei=(*kept, *added),
    )


def blob(
    rng: np.random.Generator,
    radius: float,
    aspect: float = 1.0,
    dents: float = 0.12,
    turned: bool = True,
) -> NDArray[np.float32]:
    """A closed outline (64, 2) about the origin with random harmonics, turned at random or not."""
    t = np.linspace(0.0, 2.0 * np.pi, 64, endpoint=False)
    r = np.ones_like(t)
    for k in range(2, 6):
        r += dents / k * 1.6 * rng.standard_normal() * np.cos(k * t + rng.uniform(0, 2 * np.pi))
    x = radius * np.sqrt(aspect) * r * np.cos(t)
    y = radius / np.sqrt(aspect) * r * np.sin(t)
    turn = rng.uniform(0.0, np.pi) if turned else 0.0
    outline = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)])
    return np.ascontiguousarray(outline.T.astype(np.float32))


def fill(mask: NDArray[np.uint8], outline: NDArray[np.float32], value: int = 255) -> None:
    """Fill a closed outline, in canvas pixels, in place."""
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], value, shift=4)


def signed_distance(mask: NDArray[np.uint8]) -> Field:
    """Distance to the edge of a mask in pixels, positive inside."""
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(255 - mask, cv2.DIST_L2, 5)
    return (inside - outside).astype(np.float32, copy=False)


def red_cells(rng: np.random.Generator, eosin: Field, xy_um: Points) -> None:
    """Draw red blood cells, about 6.5 µm across, into an eosin map, in place."""
    radius = um(3.1)
    for x, y in xy_um / CANVAS_MPP:
        size = radius * rng.uniform(0.8, 1.1)
        axes = (int(size * 16), int(size * rng.uniform(0.65, 1.0) * 16))
        centre = (round(float(x) * 16), round(float(y) * 16))
        dye = float(rng.uniform(0.85, 1.15))
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(eosin, centre, axes, turn, 0, 360, dye, -1, cv2.LINE_8, 4)
