"""Nuclei: their kinds, and painting them at full resolution."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.noise import Field, Points, grain

_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class NucleusKind:
    """How nuclei of one kind of cell look.

    Attributes:
        length_um, width_um: Mean axes of the ellipse.
        variation: Coefficient of variation of the size from nucleus to nucleus.
        irregularity: Depth of dents in the outline, relative to the radius.
        density: Haematoxylin concentration of plain chromatin.
        clearing: How much paler the inside is than the rim, in [0, 1] (vesicular chromatin).
        clumping: Contrast of the chromatin texture.
        nucleolus: Extra haematoxylin in the nucleolus, 0 for none.
    """

    length_um: float
    width_um: float
    variation: float = 0.08
    irregularity: float = 0.04
    density: float = 1.2
    clearing: float = 0.35
    clumping: float = 0.18
    nucleolus: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Nuclei:
    """Nuclei of one kind: ``xy_um`` (N, 2) and ``angle`` (N,) of the long axis in radians."""

    kind: NucleusKind
    xy_um: Points
    angle: Field

    def where(self, keep: NDArray[np.bool_]) -> "Nuclei":
        """The nuclei for which ``keep`` (N,) holds."""
        return Nuclei(kind=self.kind, xy_um=self.xy_um[keep], angle=self.angle[keep])


def paint(
    rng: np.random.Generator,
    nuclei: Nuclei,
    haematoxylin: Field,
    eosin: Field,
    mpp: float,
) -> None:
    """Paint nuclei into full-resolution concentration maps, in place.

    A nucleus that would reach over the border of the map is left out.

    Args:
        rng: Source of randomness.
        nuclei: What to paint.
        haematoxylin: (H, W) concentrations, changed in place.
        eosin: (H, W) concentrations, changed in place.
        mpp: Micrometres per pixel of the maps.
    """
    kind = nuclei.kind
    longest = max(kind.length_um, kind.width_um) * (1.0 + 3.0 * kind.variation)
    half = int(np.ceil(longest * (1.0 + 2.0 * kind.irregularity) / 2.0 / mpp)) + 3
    centre = nuclei.xy_um / np.float32(mpp)
    corner = np.floor(centre).astype(np.int64) - half
    height, width = haematoxylin.shape
    inside = ((corner >= 0) & (corner + 2 * half < (width, height))).all(axis=1)
    centre, corner, angle = centre[inside], corner[inside], nuclei.angle[inside]
    chromatin = grain(rng, 256, 0.9, 3.0)
    for start in range(0, len(centre), _CHUNK):
        part = slice(start, start + _CHUNK)
        offset = centre[part] - corner[part] - 0.5
        cover, stain = _draw(rng, kind, offset, angle[part], (half, mpp), chromatin)
        for (x, y), opaque, dye in zip(corner[part], cover, stain, strict=True):
            window = (slice(y, y + 2 * half), slice(x, x + 2 * half))
            haematoxylin[window] *= 1.0 - opaque
            haematoxylin[window] += dye
            eosin[window] *= 1.0 - np.float32(0.62) * opaque


def _draw(
    rng: np.random.Generator,
    kind: NucleusKind,
    offset: Field,
    angle: Field,
    frame: tuple[int, float],
    chromatin: Field,
) -> tuple[Field, Field]:
    """Opacity and haematoxylin of a chunk of nuclei, both (n, 2 half, 2 half)."""
    half, mpp = frame
    n = len(offset)
    ticks = np.arange(2 * half, dtype=np.float32)
    dx = ticks[None, None, :] - offset[:, 0, None, None]
    dy = ticks[None, :, None] - offset[:, 1, None, None]
    size = np.exp(kind.variation * np.clip(_normal(rng, n), -2.0, 3.0))
    aspect = np.exp(0.5 * kind.variation * np.clip(_normal(rng, n), -2.0, 2.0))
    long_px = _column(size * aspect * (kind.length_um / 2.0 / mpp))
    wide_px = _column(size / aspect * (kind.width_um / 2.0 / mpp))
    cos, sin = _column(np.cos(angle)), _column(np.sin(angle))
    u = (dx * cos + dy * sin) / long_px
    v = (dy * cos - dx * sin) / wide_px
    radius = np.sqrt(u * u + v * v) + np.float32(1e-6)
    radius /= 1.0 + _dents(rng, kind.irregularity, u / radius, v / radius)
    cover = np.clip((1.0 - radius) * np.minimum(long_px, wide_px) / 1.4 + 0.5, 0.0, 1.0)
    rim = np.clip((radius - 0.55) / 0.35, 0.0, 1.0)
    tone = 1.0 - kind.clearing * (1.0 - rim * rim)
    tone = tone + kind.clumping * _texture(rng, chromatin, n, half)
    if kind.nucleolus > 0:
        tone = tone + _nucleolus(rng, kind, u, v)
    depth = _column(kind.density * np.exp(0.14 * _normal(rng, n)))
    return cover, (cover * np.maximum(tone, 0.15) * depth).astype(np.float32)


def _normal(rng: np.random.Generator, n: int) -> Field:
    return rng.standard_normal(n, dtype=np.float32)


def _column(values: NDArray[np.float32]) -> Field:
    return values.astype(np.float32)[:, None, None]


def _dents(rng: np.random.Generator, depth: float, cos: Field, sin: Field) -> Field:
    """Second and third harmonics of the outline, from the cosine and sine of the polar angle."""
    n = len(cos)
    cos2, sin2 = cos * cos - sin * sin, 2.0 * cos * sin
    cos3, sin3 = cos2 * cos - sin2 * sin, sin2 * cos + cos2 * sin
    a, b, c, d = (_column(_normal(rng, n) * np.float32(depth * 0.7)) for _ in range(4))
    total: Field = np.clip(a * cos2 + b * sin2 + c * cos3 + d * sin3, -2.0 * depth, 2.0 * depth)
    return total


def _texture(rng: np.random.Generator, chromatin: Field, n: int, half: int) -> Field:
    last = chromatin.shape[0] - 2 * half
    at = rng.integers(0, last, (n, 2))
    return np.stack([chromatin[y : y + 2 * half, x : x + 2 * half] for x, y in at])


def _nucleolus(rng: np.random.Generator, kind: NucleusKind, u: Field, v: Field) -> Field:
    n = len(u)
    at_u, at_v = (_column(_normal(rng, n) * np.float32(0.22)) for _ in range(2))
    strength = _column(kind.nucleolus * np.exp(0.3 * _normal(rng, n)))
    spot: Field = strength * np.exp(-((u - at_u) ** 2 + (v - at_v) ** 2) / np.float32(0.035))
    return spot
