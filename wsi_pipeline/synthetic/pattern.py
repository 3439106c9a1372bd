"""What every tissue pattern is: two concentration maps and the nuclei to paint over them."""

from dataclasses import dataclass
from typing import Any, Final

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
    slope = distance * np.float32(1.0 / softness)
    slope += np.float32(0.5)
    np.clip(slope, 0.0, 1.0, out=slope)
    return np.asarray(slope, np.float32)


def texture(rng: np.random.Generator, shape: Shape, fine_um: float, coarse_um: float) -> Field:
    """Unit-variance grain between two blur widths, over the whole canvas."""
    side = min(max(shape), 640)
    tile = grain_texture(rng, side, um(fine_um), um(coarse_um))
    return repeat(tile, shape, (int(rng.integers(side)), int(rng.integers(side))))


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


def lay(below: Pattern, above: Pattern, cover: Field, corner: tuple[int, int] = (0, 0)) -> Pattern:
    """Lay a pattern over part of another one, whose maps change in place; nuclei follow.

    Args:
        below: What is there.
        above: (h, w) maps, of any size.
        cover: (h, w) in [0, 1], where ``above`` shows.
        corner: Canvas (x, y) of ``above``'s top-left corner; it may reach over the border.
    """
    x, y = corner
    height, width = below.eosin.shape
    h, w = cover.shape
    part = (slice(max(-y, 0), min(height - y, h)), slice(max(-x, 0), min(width - x, w)))
    if part[0].start >= part[0].stop or part[1].start >= part[1].stop:
        return below
    window = (
        slice(part[0].start + y, part[0].stop + y),
        slice(part[1].start + x, part[1].stop + x),
    )
    for old, new in ((below.eosin, above.eosin), (below.haematoxylin, above.haematoxylin)):
        old[window] += (new[part] - old[window]) * cover[part]
    shift = np.array([x, y], np.float32) * np.float32(CANVAS_MPP)
    kept = [n.where(_covered(cover, n.xy_um - shift) < 0.5) for n in below.nuclei]
    added = [n.where(_covered(cover, n.xy_um) >= 0.5).moved(shift) for n in above.nuclei]
    return Pattern(eosin=below.eosin, haematoxylin=below.haematoxylin, nuclei=(*kept, *added))


def _covered(cover: Field, xy_um: Points) -> Field:
    """Values of a map at points, 0 outside it."""
    pixel = np.floor(xy_um / CANVAS_MPP)
    inside = ((pixel >= 0) & (pixel < (cover.shape[1], cover.shape[0]))).all(axis=1)
    return np.where(inside, at(cover, xy_um), np.float32(0.0)).astype(np.float32)


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
    return np.asarray(inside - outside, np.float32)


def red_cells(rng: np.random.Generator, eosin: Field, xy_um: Points) -> None:
    """Draw red blood cells, about 6.5 µm across, into an eosin map, in place."""
    if len(xy_um) == 0:
        return
    count = len(xy_um)
    size = um(3.1) * rng.uniform(0.8, 1.1, count)
    axes = np.stack([size, size * rng.uniform(0.65, 1.0, count)], axis=1)
    dye = rng.uniform(160, 220, count)
    turn = rng.uniform(0, 180, count)
    drawn = np.zeros(eosin.shape, np.uint8)
    for centre, radii, tone, angle in zip(
        _fixed(xy_um / CANVAS_MPP), _fixed(axes), dye.tolist(), turn.tolist(), strict=True
    ):
        cv2.ellipse(drawn, centre, radii, angle, 0, 360, tone, -1, cv2.LINE_AA, 4)
    np.maximum(eosin, drawn * np.float32(1 / 190), out=eosin)


def _fixed(values: NDArray[np.floating[Any]]) -> list[list[int]]:
    """Coordinates with four fractional bits, as OpenCV draws them."""
    fixed: list[list[int]] = np.rint(values * 16).astype(np.int64).tolist()
    return fixed


def gradient_angle(field: Field, xy_um: Points) -> Field:
    """Direction in which a canvas field rises, at points."""
    gx = cv2.Sobel(field, cv2.CV_32F, 1, 0, ksize=5)
    gy = cv2.Sobel(field, cv2.CV_32F, 0, 1, ksize=5)
    return np.asarray(np.arctan2(at(gy, xy_um), at(gx, xy_um)), np.float32)
