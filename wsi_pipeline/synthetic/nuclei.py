"""Nuclei: their kinds, and painting them at full resolution."""

from collections.abc import Iterable
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

    def moved(self, shift_um: Points) -> "Nuclei":
        """The same nuclei, ``shift_um`` (2,) further on."""
        return Nuclei(kind=self.kind, xy_um=self.xy_um + shift_um, angle=self.angle)


def gather(batches: Iterable[Nuclei]) -> list[Nuclei]:
    """One batch for each kind, kinds in the order in which they first appear."""
    kinds: dict[NucleusKind, list[Nuclei]] = {}
    for batch in batches:
        kinds.setdefault(batch.kind, []).append(batch)
    return [
        Nuclei(
            kind=kind,
            xy_um=np.concatenate([one.xy_um for one in same]),
            angle=np.concatenate([one.angle for one in same]),
        )
        for kind, same in kinds.items()
    ]


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
    half = int(np.ceil(_longest_um(kind) / 2.0 / mpp)) + 2
    centre = nuclei.xy_um / np.float32(mpp)
    corner = np.floor(centre).astype(np.int64) - half
    height, width = haematoxylin.shape
    inside = ((corner >= 0) & (corner + 2 * half < (width, height))).all(axis=1)
    centre, corner, angle = centre[inside], corner[inside], nuclei.angle[inside]
    chromatin = grain(rng, 256, 0.9, 3.0)
    for start in range(0, len(centre), _CHUNK):
        part = slice(start, start + _CHUNK)
        offset = (centre[part] - corner[part]).astype(np.float32) - np.float32(0.5)
        cover, stain = _draw(rng, nuclei.kind, (offset, angle[part]), (half, mpp), chromatin)
        keep = np.float32(1.0) - cover
        fade = np.float32(1.0) - np.float32(0.62) * cover
        for index, (x, y) in enumerate(corner[part].tolist()):
            window = (slice(y, y + 2 * half), slice(x, x + 2 * half))
            haematoxylin[window] *= keep[index]
            haematoxylin[window] += stain[index]
            eosin[window] *= fade[index]


def _longest_um(kind: NucleusKind) -> float:
    """No nucleus of a kind is longer: sizes are cut at two sigma, aspects too."""
    longest = max(kind.length_um, kind.width_um) * np.exp(3.0 * kind.variation)
    return float(longest * (1.0 + 2.0 * kind.irregularity))


def _draw(
    rng: np.random.Generator,
    kind: NucleusKind,
    pose: tuple[Field, Field],
    frame: tuple[int, float],
    chromatin: Field,
) -> tuple[Field, Field]:
    """Opacity and haematoxylin of a chunk of nuclei, both (n, 2 half, 2 half)."""
    (offset, angle), (half, mpp) = pose, frame
    n = len(offset)
    ticks = np.arange(2 * half, dtype=np.float32)
    dx = ticks[None, None, :] - offset[:, 0, None, None]
    dy = ticks[None, :, None] - offset[:, 1, None, None]
    size = np.exp(np.float32(kind.variation) * np.clip(_normal(rng, n), -2.0, 2.0))
    aspect = np.exp(np.float32(0.5 * kind.variation) * np.clip(_normal(rng, n), -2.0, 2.0))
    long_px = _column(size * aspect * np.float32(kind.length_um / 2.0 / mpp))
    wide_px = _column(size / aspect * np.float32(kind.width_um / 2.0 / mpp))
    cos, sin = _column(np.cos(angle)), _column(np.sin(angle))
    u = dx * (cos / long_px) + dy * (sin / long_px)
    v = dy * (cos / wide_px) - dx * (sin / wide_px)
    radius = np.sqrt(u * u + v * v)
    radius += np.float32(1e-6)
    dents = _dents(rng, kind.irregularity, u / radius, v / radius)
    radius /= dents
    cover = np.clip((1.0 - radius) * (np.minimum(long_px, wide_px) / np.float32(1.4)) + 0.5, 0, 1)
    rim = np.clip((radius - np.float32(0.55)) * np.float32(1 / 0.35), 0.0, 1.0)
    tone = rim * rim
    tone *= np.float32(kind.clearing)
    tone += np.float32(1.0 - kind.clearing)
    tone += np.float32(kind.clumping) * _texture(rng, chromatin, n, half)
    if kind.nucleolus > 0:
        tone += _nucleolus(rng, kind, u, v)
    depth = _column(np.float32(kind.density) * np.exp(np.float32(0.14) * _normal(rng, n)))
    np.maximum(tone, np.float32(0.15), out=tone)
    tone *= cover
    tone *= depth
    return np.asarray(cover, np.float32), np.asarray(tone, np.float32)


def _normal(rng: np.random.Generator, n: int) -> Field:
    return rng.standard_normal(n, dtype=np.float32)


def _column(values: NDArray[np.float32]) -> Field:
    return values.astype(np.float32)[:, None, None]


def _dents(rng: np.random.Generator, depth: float, cos: Field, sin: Field) -> Field:
    """The outline's radius relative to an ellipse: 1 and harmonics of the polar angle.

    ``cos`` and ``sin`` are of the polar angle, (n, h, w).
    """
    a, b, c, d = (_column(_normal(rng, len(cos)) * np.float32(depth * 0.7)) for _ in range(4))
    # cos 2t, sin 2t, cos 3t, sin 3t written as polynomials of cos and sin.
    cos2 = np.float32(2.0) * cos * cos - np.float32(1.0)
    sin2 = np.float32(2.0) * sin * cos
    total = a * cos2 + b * sin2
    total += c * (cos2 * cos - sin2 * sin)
    total += d * (sin2 * cos + cos2 * sin)
    np.clip(total, -2.0 * depth, 2.0 * depth, out=total)
    total += np.float32(1.0)
    return np.asarray(total, np.float32)


def _texture(rng: np.random.Generator, chromatin: Field, n: int, half: int) -> Field:
    last = chromatin.shape[0] - 2 * half
    at = rng.integers(0, last, (n, 2))
    return np.stack([chromatin[y : y + 2 * half, x : x + 2 * half] for x, y in at])


def _nucleolus(rng: np.random.Generator, kind: NucleusKind, u: Field, v: Field) -> Field:
    n = len(u)
    at_u, at_v = (_column(_normal(rng, n) * np.float32(0.22)) for _ in range(2))
    strength = _column(np.float32(kind.nucleolus) * np.exp(np.float32(0.3) * _normal(rng, n)))
    away = (u - at_u) ** 2 + (v - at_v) ** 2
    return np.asarray(strength * np.exp(away * np.float32(-1 / 0.035)), np.float32)
