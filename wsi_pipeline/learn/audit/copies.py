"""Which pictures are copies of one another: turned, mirrored, shifted, cropped, stained, repacked.

Candidates are pictures that share local features: an index of all of them gives each feature's
nearest ones in other pictures, and those of its mirror image, and every near one is a vote. A
candidate is confirmed by geometry and by pixels: one similarity, refined to an affine map, brings
many features of one picture onto the other's, and where the two then overlap their light and dark
agree. Both are far apart for copies and others, docs/learning.md has what was measured.

Cost grows a little faster than with the number of pictures, not with that of pairs.

Sources: Lowe, IJCV 60, 2004 (SIFT); Arandjelović and Zisserman, CVPR 2012 (its square root);
Muja and Lowe, VISAPP 2009 (the index); Fischler and Bolles, CACM 24, 1981 (RANSAC).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError

SCALE: Final = 512  # of a feature's numbers, so that a byte holds one
SIDE: Final = 256  # px of the longer side that a picture is brought to
FEATURES: Final = 300  # of a picture at most, for confirming …
INDEXED: Final = 120  # … and the strongest of them, for finding candidates
NEIGHBOURS: Final = 6  # that each feature looks at
VOTE: Final = 0.38  # distance below which a neighbour is a vote
VOTES: Final = 3  # that make a candidate
CANDIDATES: Final = 24  # of a picture at most
DISTINCT: Final = 0.85  # a match is nearer than this share of the second nearest
OFF_PX: Final = 4.0  # that a feature may lie beside its place
FEATURES_PLACED: Final = 9  # that the map must bring to their places …
AGREEMENT: Final = 0.5  # … and the correlation of light and dark where the pictures overlap …
OVERLAP: Final = 0.1  # … on this share of the smaller one at least
ZOOM: Final = 3.0  # or its inverse, at most
THREADS: Final = 2

# Of a feature's 4 x 4 x 8 numbers (across, along, direction) where its mirror image has them.
MIRRORED: Final = np.arange(128).reshape(4, 4, 8)[::-1][:, :, (-np.arange(8)) % 8].ravel()

Array = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """``grey`` (H, W); ``places`` (n, 2) px and ``features`` (n, 128) uint8, strongest first."""

    grey: NDArray[np.uint8]
    places: Array
    features: NDArray[np.uint8]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Describe a picture.

        Raises:
            StoreCorruptError: The file is no readable picture.
        """
        try:
            found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)
        except (OSError, cv2.error):
            found = None
        if found is None:
            raise StoreCorruptError(f"{path}: no readable picture; delete it and make it again")
        return cls.of(np.asarray(found, np.uint8))

    @classmethod
    def of(cls, grey: NDArray[np.uint8]) -> Self:
        """Describe a picture (H, W)."""
        scale = SIDE / max(grey.shape)
        if scale < 1:
            size = tuple(max(1, round(side * scale)) for side in grey.shape[::-1])
            grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        points, found = cv2.SIFT.create(nfeatures=FEATURES).detectAndCompute(grey, None)
        order = np.argsort([-point.response for point in points], kind="stable")
        places = np.array([points[index].pt for index in order], np.float32).reshape(-1, 2)
        features = np.zeros((0, 128), np.float32) if found is None else found[order]
        sums = np.maximum(features.sum(1, keepdims=True), 1)
        rooted = (SCALE * np.sqrt(features / sums)).round().clip(0, 255).astype(np.uint8)
        return cls(grey=grey, places=places, features=rooted)

    def mirror(self) -> "Picture":
        """Return the mirror image, left to right."""
        return Picture(
            grey=np.ascontiguousarray(self.grey[:, ::-1]),
            places=np.array([self.grey.shape[1] - 1, 0], np.float32)
            + np.array([-1, 1], np.float32) * self.places,
            features=np.ascontiguousarray(self.features[:, MIRRORED]),
        )


def read_pictures(paths: Sequence[Path]) -> list[Picture]:
    """Describe pictures.

    Raises:
        StoreCorruptError: A file is no readable picture.
    """
    return list(_threaded(Picture.read, paths))


def find_copies(pictures: Sequence[Picture]) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of pictures that are copies of one another."""
    candidates = _candidates(pictures)

    def confirmed(candidate: tuple[int, int, bool]) -> bool:
        one, other, mirrored = candidate
        moved = pictures[other].mirror() if mirrored else pictures[other]
        return are_copies(pictures[one], moved)

    found = _threaded(confirmed, candidates)
    return sorted({(i, j) for (i, j, _), copies in zip(candidates, found, strict=True) if copies})


def are_copies(one: Picture, other: Picture) -> bool:
    """Whether a map of the plane brings ``other``, not mirrored, onto ``one``."""
    if min(len(one.features), len(other.features)) < FEATURES_PLACED:
        return False
    matches = cv2.BFMatcher(cv2.NORM_L2).knnMatch(
        other.features.astype(np.float32), one.features.astype(np.float32), k=2
    )
    near = [best for best, second in matches if best.distance < DISTINCT * second.distance]
    if len(near) < FEATURES_PLACED:
        return False
    source = other.places[[match.queryIdx for match in near]]
    target = one.places[[match.trainIdx for match in near]]
    similar, _ = cv2.estimateAffinePartial2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=OFF_PX, maxIters=500,
        confidence=0.999,
    )  # fmt: skip
    if similar is None:
        return False
    affine = _refined(similar, source, target)
    placed = _off(affine, source, target) < OFF_PX
    if len(np.unique(target[placed].round(), axis=0)) < FEATURES_PLACED:
        return False
    zooms = np.linalg.svd(affine[:, :2], compute_uv=False)
    if zooms[0] > ZOOM or zooms[1] < 1 / ZOOM:
        return False
    return _agreement(one.grey, other.grey, affine) >= AGREEMENT


def _candidates(pictures: Sequence[Picture]) -> list[tuple[int, int, bool]]:
    """Return (i, j, whether j is mirrored) of pictures that share features, i < j."""
    counts = [min(INDEXED, len(picture.features)) for picture in pictures]
    owner = np.repeat(np.arange(len(pictures)), counts)
    if len(owner) <= NEIGHBOURS:
        return []
    features = np.concatenate([p.features[:INDEXED] for p in pictures]).astype(np.float32)
    cv2.setRNGSeed(0)  # the trees are drawn: the same pictures give the same findings
    index = cv2.flann.Index(features, {"algorithm": 1, "trees": 4})
    votes: dict[tuple[int, int, bool], int] = defaultdict(int)
    for mirrored in (False, True):
        asked = np.ascontiguousarray(features[:, MIRRORED]) if mirrored else features
        near, squares = index.knnSearch(asked, NEIGHBOURS, params={"checks": 32})
        voting = (squares < (SCALE * VOTE) ** 2) & (owner[near] != owner[:, None])
        pairs = np.stack([np.broadcast_to(owner[:, None], near.shape)[voting], owner[near[voting]]])
        pairs.sort(axis=0)
        for (i, j), count in zip(*_counted(pairs.T), strict=True):
            votes[int(i), int(j), mirrored] = int(count)
    taken: dict[int, int] = defaultdict(int)
    kept = []
    for (i, j, mirrored), count in sorted(votes.items(), key=lambda item: (-item[1], item[0])):
        if count >= VOTES and min(taken[i], taken[j]) < CANDIDATES:
            kept.append((i, j, mirrored))
            taken[i], taken[j] = taken[i] + 1, taken[j] + 1
    return kept


def _counted(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return found, counts


def _refined(affine: Array, source: Array, target: Array) -> Array:
    """Fit an affine map to what the similarity placed, and to what that one places."""
    for reach in (1.5 * OFF_PX, OFF_PX):
        placed = _off(affine, source, target) < reach
        if placed.sum() < FEATURES_PLACED:
            break
        columns = np.c_[source[placed], np.ones(placed.sum())]
        affine = np.linalg.lstsq(columns, target[placed], rcond=None)[0].T
    return affine


def _off(affine: Array, source: Array, target: Array) -> Array:
    return np.asarray(np.linalg.norm(source @ affine[:, :2].T + affine[:, 2] - target, axis=1))


def _agreement(one: NDArray[np.uint8], other: NDArray[np.uint8], affine: Array) -> float:
    """Return the correlation of light and dark where the pictures overlap; -1 if they do not."""
    size = one.shape[::-1]
    seen = cv2.warpAffine(np.ones(other.shape, np.uint8), affine, size) > 0
    least = OVERLAP * min(one.size, other.size * abs(np.linalg.det(affine[:, :2])))
    if seen.sum() < least:
        return -1.0
    a = _structure(one)[seen]
    b = cv2.warpAffine(_structure(other), affine, size)[seen]
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt(max((a @ a) * (b @ b), np.finfo(np.float32).tiny)))


def _structure(grey: NDArray[np.uint8]) -> Array:
    """Light and dark at the scale of nuclei and glands, neither grain nor what varies slowly."""
    fine = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 2.5)
    return np.asarray(fine - cv2.GaussianBlur(fine, (0, 0), 14))


def _threaded(function: Callable[[Any], T], items: Sequence[Any]) -> Iterator[T]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(function, items)
