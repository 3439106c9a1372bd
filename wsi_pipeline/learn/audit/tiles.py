"""Tiles of two parts that are nearly the same, found by their features or by their patterns.

Distances are relative to the usual distance between tiles of two patients, so that they mean the
same for every encoder. No near pair is missed: the search runs in a projection, which only brings
points nearer, and what it finds is measured in full. Memory holds the projection (32 numbers a
tile) and a pair of bags, so 100,000 tiles and more are no matter.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.learn.audit.finding import Audit, Finding, Measured
from wsi_pipeline.learn.splits import SplitSlide

NEAR: Final = (
    0.2  # of the usual distance, for encoders' features; docs/learning.md has what was measured
)
SAMPLE: Final = 2_000  # tiles that the projection and the usual distance are taken from
DIMENSIONS: Final = 32  # of the projection
ROWS: Final = 512  # tiles compared at a time …
COLUMNS: Final = 8192  # … with so many: what bounds memory, and fits a cache
LEAST_TILES: Final = 2  # that two slides must share before it blocks, if they have so many …
LEAST_SHARE: Final = 0.01  # … and of the smaller slide's tiles

Array = NDArray[np.float32]
Hits = dict[tuple[int, int], set[int]]  # (slide, other slide) -> tiles of the first


class TileVectors(Protocol):
    """A vector of each tile, of features or of what it looks like; read one slide at a time."""

    def vectors(self, slide_id: str) -> Array:
        """Return the vectors of a slide's tiles, (N, D) float32."""

    def sample(self, slide_id: str, count: int, rng: np.random.Generator) -> Array:
        """Return at most ``count`` of them, in their order, drawn with ``rng``."""


@dataclass(frozen=True, kw_only=True)
class _Cloud:
    """All tiles, projected: ``points`` (T, d), the slide (T,) and the index within it (T,)."""

    points: Array
    slide: NDArray[np.int64]
    index: NDArray[np.int64]


def find_similar_tiles(
    slides: Sequence[SplitSlide], folder: TileVectors, near: float = NEAR
) -> Audit:
    """Find slides of different parts and patients that share tiles.

    Args:
        slides: Each with the part it is in.
        folder: Their tiles' vectors.
        near: Share of the usual distance that two tiles may be apart.
    """
    sample, owners = _sample(slides, folder)
    usual = _usual_distance(sample, owners)
    if len({slide.split for slide in slides}) < 2 or usual == 0:
        return Audit()
    cloud = _project(slides, folder, sample)
    hits = _near(slides, folder, cloud, near * usual)
    measured = Measured(
        check="similar_tiles",
        name="tiles nearly the same in two parts",
        value=float(sum(len(tiles) for tiles in hits.values())),
        threshold=0.0,
        cases=len(cloud.points),
    )
    counts = Counter(cloud.slide.tolist())
    findings = tuple(
        _finding(slides[a], slides[b], len(tiles), min(counts[a], counts[b]))
        for (a, b), tiles in sorted(hits.items())
    )
    return Audit(findings=findings, measured=(measured,))


def _sample(slides: Sequence[SplitSlide], folder: TileVectors) -> tuple[Array, NDArray[np.int64]]:
    """Return a sample of tiles (n, D) spread over the slides, and whose they are (n,)."""
    rng = np.random.default_rng(0)
    count = max(1, SAMPLE // len(slides))
    parts = [folder.sample(slide.slide_id, count, rng) for slide in slides]
    names = sorted({slide.patient_id for slide in slides})
    whose = [names.index(slide.patient_id) for slide in slides]
    return np.concatenate(parts), np.repeat(whose, [len(part) for part in parts])


def _usual_distance(sample: Array, owners: NDArray[np.int64]) -> float:
    """Return the median distance between tiles of two patients; 0 where there is but one."""
    rng = np.random.default_rng(0)
    one, other = rng.integers(len(sample), size=(2, 4 * SAMPLE))
    apart = owners[one] != owners[other]
    if not apart.any():
        return 0.0
    return float(np.median(np.linalg.norm(sample[one[apart]] - sample[other[apart]], axis=1)))


def _project(slides: Sequence[SplitSlide], folder: TileVectors, sample: Array) -> _Cloud:
    """Project every tile on the directions in which the sample spreads most (orthonormal)."""
    centre = sample.mean(0)
    axes = np.linalg.svd(sample - centre, full_matrices=False)[2][:DIMENSIONS].T
    parts = [(folder.vectors(slide.slide_id) - centre) @ axes for slide in slides]
    lengths = [len(part) for part in parts]
    return _Cloud(
        points=np.concatenate(parts),
        slide=np.repeat(np.arange(len(slides)), lengths),
        index=np.concatenate([np.arange(length) for length in lengths]),
    )


def _near(slides: Sequence[SplitSlide], folder: TileVectors, cloud: _Cloud, reach: float) -> Hits:
    """Return for each pair of slides the tiles of the first that lie within ``reach``."""
    hits: Hits = defaultdict(set)
    for first, other, pairs in _candidates(slides, cloud, reach):
        one, two = (folder.vectors(slides[index].slide_id) for index in (first, other))
        for start in range(0, len(pairs), SAMPLE):
            chunk = pairs[start : start + SAMPLE]
            away = np.linalg.norm(one[chunk[:, 0]] - two[chunk[:, 1]], axis=1)
            hits[first, other].update(chunk[away <= reach, 0].tolist())
    return {pair: tiles for pair, tiles in hits.items() if tiles}


def _candidates(
    slides: Sequence[SplitSlide], cloud: _Cloud, reach: float
) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Yield pairs of slides with pairs of tiles, (n, 2), that are near in the projection."""
    part = np.unique([slide.split for slide in slides], return_inverse=True)[1]
    for mine, theirs in _near_points(cloud.points, reach):
        one, two = cloud.slide[mine], cloud.slide[theirs]
        kept = part[one] != part[two]
        pairs = np.stack([cloud.index[mine], cloud.index[theirs]], axis=1)[kept]
        of_slides = np.stack([one, two], axis=1)[kept]
        for first, other in np.unique(of_slides, axis=0):
            yield int(first), int(other), pairs[(of_slides == (first, other)).all(1)]


def _near_points(
    points: Array, reach: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the indices i < j of points (T, d) within ``reach``, block by block.

    Matrix products of all against all: a search tree is slower in so many dimensions.
    """
    # |a - b|² ≤ r²  ⇔  |b|²/2 - a·b ≤ (r² - |a|²)/2; the slack is far above float32 rounding.
    half = (points**2).sum(1) / 2
    limit = reach**2 / 2 - half + 1e-4 * half.max()
    for rows in range(0, len(points), ROWS):
        block = points[rows : rows + ROWS]
        for columns in range(rows, len(points), COLUMNS):
            others = slice(columns, columns + COLUMNS)
            away = half[others] - block @ points[others].T
            i, j = np.nonzero(away <= limit[rows : rows + ROWS, None])
            i, j = i + rows, j + columns
            yield i[i < j], j[i < j]


def _finding(a: SplitSlide, b: SplitSlide, shared: int, smaller: int) -> Finding:
    return Finding(
        kind="similar_tiles",
        text=f"{shared} tile{'s' * (shared > 1)} of slide {a.slide_id} ({a.split}, patient "
        f"{a.patient_id}) {'are' if shared > 1 else 'is'} nearly the same as tiles of slide "
        f"{b.slide_id} ({b.split}, patient {b.patient_id})",
        remedy="see whether they are one piece of tissue and keep one, or keep the two in one part",
        blocking=shared >= max(min(LEAST_TILES, smaller), LEAST_SHARE * smaller),
        slides=(a.slide_id, b.slide_id),
        patients=tuple(sorted({a.patient_id, b.patient_id})),
    )
