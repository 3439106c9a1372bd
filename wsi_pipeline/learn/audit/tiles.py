"""Tiles of two parts that are nearly the same, found by their features or by their patterns.

Distances are relative to the usual distance between tiles of two patients, so that they mean the
same for every encoder. The search runs in a projection, which only brings points nearer, and what
it finds is measured in full.

Where half of a slide's own tiles lie as near to another of that slide as copies would, the vectors
do not tell tiles apart (an encoder with random weights): then only tiles that are all but equal
count, and a remark says so. It is measured within slides, where copies between slides do not
disturb it.

Up to some ten thousand tiles all are compared with all. Beyond, they are dealt into small leaves by
halving them along random directions again and again, and compared within a leaf; near tiles are
parted by few directions, and a dozen such trees part next to none. The cost is that of sorting,
however many tiles there are and however many of them are alike. Memory holds the projection (64
numbers a tile) and the rows that are measured.

Source of the trees: Dasgupta and Freund, STOC 2008; Liu et al., NeurIPS 2004 (several of them).
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
EQUAL: Final = 0.01  # of the usual distance: the same tile but for rounding
CROWD: Final = (20, 200)  # slides, and tiles of each, that tell whether tiles are told apart
PAIRS_TOLD: Final = 5  # remarks on single pairs of slides; more are one remark
SAMPLE: Final = 2_000  # tiles that the projection and the usual distance are taken from
DIMENSIONS: Final = 64  # of the projection
EXHAUSTIVE: Final = 20_000  # tiles up to which all are compared with all
TREES: Final = 12  # docs/learning.md has what they find
LEAF: Final = 128  # tiles at most
LEAVES: Final = 512  # compared at a time
CROWDED: Final = 4  # near pairs a tile in some leaves; then each tile's nearest one alone is taken
MEASURED: Final = 50_000  # pairs at a time that are measured in full …
MOST_MEASURED: Final = 1_000_000  # … and in all, the nearest ones
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
    crowded = _crowded(slides, folder, near * usual)
    cloud = _project(slides, folder, sample)
    hits = _near(slides, folder, cloud, (EQUAL if crowded else near) * usual)
    measured = Measured(
        check="similar_tiles",
        name="tiles nearly the same in two parts",
        value=float(sum(len(tiles) for tiles in hits.values())),
        threshold=0.0,
        cases=len(cloud.points),
    )
    counts = Counter(cloud.slide.tolist())
    found = [
        _finding(slides[a], slides[b], len(tiles), min(counts[a], counts[b]))
        for (a, b), tiles in sorted(hits.items())
    ]
    told = [finding for finding in found if finding.blocking]
    findings = (*told, *_together([f for f in found if not f.blocking]))
    return Audit(findings=(*findings, *((_CROWDED,) if crowded else ())), measured=(measured,))


_CROWDED: Final = Finding(
    kind="similar_tiles",
    text="these features hardly tell tiles apart: half of a slide's tiles lie as near to another "
    "of the same slide as copies do, so that only tiles that are all but equal were looked for",
    remedy="use an encoder with trained weights, and audit anew",
    blocking=False,
)


def _crowded(slides: Sequence[SplitSlide], folder: TileVectors, reach: float) -> bool:
    """Whether half of the tiles lie within ``reach`` of another one of their own slide."""
    rng = np.random.default_rng(0)
    count, tiles = CROWD
    nearest: list[float] = []
    for index in np.unique(np.linspace(0, len(slides) - 1, count).astype(np.int64)):
        own = folder.sample(slides[index].slide_id, tiles, rng)
        if len(own) > 1:
            nearest += _apart(own.astype(np.float64)).min(1).tolist()
    return bool(nearest) and float(np.median(nearest)) < reach


def _apart(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances between rows (n, D), (n, n); infinite from a row to itself."""
    squares = (points**2).sum(1)
    away = squares[:, None] + squares - 2 * points @ points.T
    np.fill_diagonal(away, np.inf)
    return np.asarray(np.sqrt(np.maximum(away, 0)))


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
    points = np.empty((0, axes.shape[1]), np.float32)
    lengths: list[int] = []
    for number, slide in enumerate(slides):
        part = (folder.vectors(slide.slide_id) - centre) @ axes
        used = sum(lengths)
        lengths.append(len(part))
        if used + len(part) > len(points):  # room for as many slides of this size as are left
            room = used + len(part) * (len(slides) - number)
            points.resize((room, axes.shape[1]), refcheck=False)
        points[used : used + len(part)] = part
    points.resize((sum(lengths), axes.shape[1]), refcheck=False)
    return _Cloud(
        points=points,
        slide=np.repeat(np.arange(len(slides)), lengths),
        index=np.concatenate([np.arange(length) for length in lengths]),
    )


def _near(slides: Sequence[SplitSlide], folder: TileVectors, cloud: _Cloud, reach: float) -> Hits:
    """Return for each pair of slides the tiles of the first that lie within ``reach``."""
    part = np.unique([slide.split for slide in slides], return_inverse=True)[1][cloud.slide]
    pairs = near_pairs(cloud.points, part, reach)
    hits: Hits = defaultdict(set)
    for start in range(0, len(pairs), MEASURED):
        chunk = pairs[start : start + MEASURED]
        tiles, at = np.unique(chunk, return_inverse=True)
        rows = _rows(slides, folder, cloud, tiles)
        one, two = at.reshape(chunk.shape).T
        for few in range(0, len(chunk), SAMPLE):
            some = slice(few, few + SAMPLE)
            away = np.linalg.norm(rows[one[some]] - rows[two[some]], axis=1)
            for i, j in chunk[some][away <= reach]:
                hits[int(cloud.slide[i]), int(cloud.slide[j])].add(int(cloud.index[i]))
    return hits


def _rows(
    slides: Sequence[SplitSlide], folder: TileVectors, cloud: _Cloud, tiles: NDArray[np.int64]
) -> Array:
    """Return the vectors of some tiles (n,), in rising order; each slide is read once."""
    owners, rows = cloud.slide[tiles], np.empty((0, 0), np.float32)
    for owner in np.unique(owners):
        own = owners == owner
        vectors = folder.vectors(slides[owner].slide_id)
        if not len(rows):
            rows = np.empty((len(tiles), vectors.shape[1]), np.float32)
        rows[own] = vectors[cloud.index[tiles[own]]]
    return rows


def near_pairs(points: Array, part: NDArray[np.int64], reach: float) -> NDArray[np.int64]:
    """Return pairs i < j of points (T, d) of different parts (T,) within ``reach``; (n, 2) int64.

    All of them up to EXHAUSTIVE points, nearly all beyond, the nearest MOST_MEASURED if they are
    more.
    """
    if len(points) <= EXHAUSTIVE:
        found = [np.stack([i, j], axis=1) for i, j in _near_points(points, reach)]
    else:
        rng = np.random.default_rng(0)
        found = [_pairs_of_tree(points, part, reach, rng) for _ in range(TREES)]
    pairs = np.concatenate(found).astype(np.int64)
    pairs = pairs[part[pairs[:, 0]] != part[pairs[:, 1]]]
    keys = np.unique(pairs[:, 0] * len(points) + pairs[:, 1])
    pairs = np.stack(np.divmod(keys, len(points)), axis=1)
    if len(pairs) > MOST_MEASURED:
        away = np.concatenate(
            [
                np.linalg.norm(points[chunk[:, 0]] - points[chunk[:, 1]], axis=1)
                for chunk in np.array_split(pairs, -(-len(pairs) // MEASURED))
            ]
        )
        pairs = pairs[np.sort(np.argpartition(away, MOST_MEASURED)[:MOST_MEASURED])]
    return pairs


def _pairs_of_tree(
    points: Array, part: NDArray[np.int64], reach: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the near pairs within the leaves of one tree."""
    leaves = _leaves(points, rng)
    half = (points**2).sum(1) / 2
    limit = reach**2 / 2 + 1e-5 * float(half.max())  # above float32 rounding
    found = []
    for start in range(0, len(leaves), LEAVES):
        block = leaves[start : start + LEAVES]
        real = block < len(points)
        block = np.where(real, block, 0)
        members, sizes = points[block], np.where(real, half[block], np.inf).astype(np.float32)
        away = sizes[:, :, None] + sizes[:, None, :] - members @ members.transpose(0, 2, 1)
        away[part[block][:, :, None] == part[block][:, None, :]] = np.inf
        near = away <= limit
        if np.count_nonzero(near) > 2 * CROWDED * block.size:
            leaf, i = np.nonzero(near.any(2))
            j = away[leaf, i].argmin(1)
        else:
            leaf, i, j = np.nonzero(near)
        pairs = np.stack([block[leaf, i], block[leaf, j]], axis=1)
        pairs.sort(axis=1)
        found.append(np.unique(pairs, axis=0))
    return np.concatenate(found)


def _leaves(points: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the points' indices by leaf, (leaves, size); what is missing has index T."""
    count, dimensions = points.shape
    depth = max(0, int(np.ceil(np.log2(count / LEAF))))
    order = np.full(-(-count // 2**depth) * 2**depth, count)
    order[:count] = np.arange(count)
    for level in range(depth):
        along = points @ np.asarray(rng.standard_normal(dimensions), np.float32)
        rows = order.reshape(2**level, -1)
        keys = np.append(along, np.float32(np.inf))[rows]
        middle = rows.shape[1] // 2
        split = np.argpartition(keys, middle - 1, axis=1)
        order = np.take_along_axis(rows, split, axis=1).ravel()
    return order.reshape(2**depth, -1)


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


def _together(remarks: Sequence[Finding]) -> Sequence[Finding]:
    """Return one remark in the place of many."""
    if len(remarks) <= PAIRS_TOLD:
        return remarks
    slides = sorted({name for finding in remarks for name in finding.slides})
    return [
        Finding(
            kind="similar_tiles",
            text=f"{len(remarks)} pairs of slides of two parts share tiles that are nearly the "
            f"same, each too few to be one piece of tissue (the first: {remarks[0].text})",
            remedy="look at some of them",
            blocking=False,
            slides=tuple(slides),
            patients=tuple(sorted({name for finding in remarks for name in finding.patients})),
        )
    ]


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
