"""Bags of tile features, read from the feature folder one slide at a time."""

import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_pipeline.errors import LearnError
from wsi_pipeline.features import IMPORTED, read_features, recipe_of, stored_weights
from wsi_pipeline.learn.splits import Splits, SplitSlide
from wsi_pipeline.run_folder import store_in
from wsi_pipeline.types import Coords

CACHE_BYTES: Final = 3 << 30  # 1.5 million tiles of 1,024 features, half precision
HALVED_AT_ONCE: Final = 128  # rows, which stay in a processor's cache
TOLERANCE: Final = 0.02  # of numbers that are measured: what counts as the same mpp
FloatT = TypeVar("FloatT", bound=np.floating[Any])
WIDTH: Final = "width"  # of the features, among the settings they were made with
WEIGHTS: Final = "weights"  # of the encoder: the hub's commit, or the file's digest
RECIPE: Final = "recipe"  # of the encoder: what was done to tiles and tokens


@dataclass(frozen=True, kw_only=True)
class Bag:
    """The tiles of one slide: ``features`` (N, D) float32, ``coords`` (N, 2) level-0 px, N ≥ 1."""

    slide_id: str
    features: NDArray[np.float32]
    coords: Coords
    attributes: dict[str, Any]


class FeatureFolder:
    """``features/<encoder>/`` as seen by one purpose: it opens the slides it was given, no other.

    Bags are kept in memory up to ``cache_bytes``, so that a cohort that fits is read once; those
    that half precision holds exactly, as where it is what is on disk, take half of the room.
    """

    def __init__(
        self, folder: Path, slides: Iterable[SplitSlide], cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.folder = folder
        self.slides: Splits = tuple(slides)
        self._allowed = frozenset(slide.slide_id for slide in self.slides)
        self._room = cache_bytes
        self._kept: dict[str, Bag] = {}
        self._halves: dict[str, NDArray[np.float16]] = {}  # features of kept bags that are none
        self._seen: dict[str, _Seen] = {}

    def path(self, slide_id: str) -> Path:
        return store_in(self.folder, slide_id)

    def missing(self) -> list[str]:
        """Return the ids of slides without a feature file."""
        return sorted(name for name in self._allowed if not self.path(name).exists())

    def bag(self, slide_id: str) -> Bag:
        """Read one slide's bag.

        Raises:
            LearnError: The slide is not this folder's business, the bag is empty, or a feature
                is not finite.
            StoreError: There is no readable file.
        """
        if slide_id in self._kept:
            return self._whole(self._kept[slide_id])
        if slide_id not in self._allowed:
            raise LearnError(f"slide {slide_id!r} is not among those this step may read")
        path = self.path(slide_id)
        stored = read_features(path)
        features = np.ascontiguousarray(stored.features, dtype=np.float32)
        if not len(features):
            raise LearnError(f"{path}: the bag is empty; leave the slide out of the cohort table")
        if not np.isfinite(features).all():
            raise LearnError(f"{path}: features are not all finite; extract them anew")
        bag = Bag(
            slide_id=slide_id,
            features=features,
            coords=stored.coords,
            attributes=dict(stored.attributes),
        )
        if slide_id not in self._seen:
            self._seen[slide_id] = _Seen(
                digest=stored.digest,
                tiles=len(features),
                prepared=feature_settings(bag.attributes) | {WIDTH: features.shape[1]},
            )
        self._keep(bag)
        return bag

    def _keep(self, bag: Bag) -> None:
        if bag.features.nbytes // 2 > self._room:
            return
        kept: NDArray[np.floating[Any]] = bag.features
        half = _halved(bag.features)
        if half is not None:
            kept = self._halves[bag.slide_id] = half
            bag = replace(bag, features=np.empty((0, half.shape[1]), np.float32))
        if kept.nbytes <= self._room:
            self._room -= kept.nbytes
            self._kept[bag.slide_id] = bag

    def _whole(self, kept: Bag) -> Bag:
        half = self._halves.get(kept.slide_id)
        return kept if half is None else replace(kept, features=_widened(half))

    def vectors(self, slide_id: str) -> NDArray[np.float32]:
        """Return the features of one slide's bag, (N, D) float32."""
        return self.bag(slide_id).features

    def sample(self, slide_id: str, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return at most ``count`` tiles of a slide, (n, D), in their order, drawn with ``rng``."""
        return _widened(self.sample_kept(slide_id, count, rng))

    def sample_kept(
        self, slide_id: str, count: int, rng: np.random.Generator
    ) -> NDArray[np.floating[Any]]:
        """Return the same in the precision that they are kept in: half where that loses nothing."""
        half = self._halves.get(slide_id)
        if half is None:
            return draw_rows(self.vectors(slide_id), count, rng)
        return draw_rows(half, count, rng)

    def digests(self) -> dict[str, str]:
        """Return the digest of each bag read so far, by slide."""
        return {name: seen.digest for name, seen in sorted(self._seen.items())}

    def tile_count(self, slide_id: str) -> int:
        """Return how many tiles a slide has."""
        return self._look(slide_id).tiles

    def prepared(self) -> dict[str, dict[str, Any]]:
        """Return how each slide's features were made, as far as a model depends on it, by slide."""
        return {slide.slide_id: self._look(slide.slide_id).prepared for slide in self.slides}

    def _look(self, slide_id: str) -> "_Seen":
        if slide_id not in self._seen:
            self.bag(slide_id)
        return self._seen[slide_id]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What is remembered of a bag, kept in memory or not."""

    digest: str
    tiles: int
    prepared: dict[str, Any]


def _halved(features: NDArray[np.float32]) -> NDArray[np.float16] | None:
    """Return half precision if that loses nothing.

    It has memory pages of its own: kept bags between those that come and go would leave holes.
    """
    half = np.frombuffer(mmap.mmap(-1, features.nbytes // 2), np.float16).reshape(features.shape)
    for start in range(0, len(features), HALVED_AT_ONCE):
        part = torch.from_numpy(features[start : start + HALVED_AT_ONCE])
        small = part.half()
        if not torch.equal(small.float(), part):
            return None
        half[start : start + HALVED_AT_ONCE] = small.numpy()
    return half


def _widened(half: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return single precision; torch has the processor's own instruction for it, numpy not."""
    wide: NDArray[np.float32] = torch.from_numpy(half).float().numpy()
    return wide


def draw_rows(rows: NDArray[FloatT], count: int, rng: np.random.Generator) -> NDArray[FloatT]:
    """Return at most ``count`` rows of (n, D), in their order, drawn with ``rng``."""
    if len(rows) <= count:
        return rows
    return rows[np.sort(rng.choice(len(rows), count, replace=False, shuffle=False))]


def feature_settings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return encoder, recipe, weights, tile size, mpp and stain method from a store's attributes.

    What a store does not say (another tool's file) is left out.
    """
    settings = {
        name: attributes[name]
        for name in ("encoder", "tile_px", "mpp", "overlap")
        if attributes.get(name) is not None
    }
    stain = attributes.get("stain")
    method = stain.get("method") if isinstance(stain, Mapping) else stain
    recipe = recipe_of(attributes)
    settings |= {RECIPE: recipe} if recipe is not None else {}
    weights = stored_weights(attributes)
    settings |= {WEIGHTS: weights} if weights else {}
    return settings | ({"stain": method} if method is not None else {})


def shared_settings(of_slides: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that all slides share.

    Args:
        of_slides: How each slide was prepared, by slide_id.

    Raises:
        LearnError: Two slides differ; they are named.
    """
    first, expected = next(iter(of_slides.items()))
    for slide_id, found in of_slides.items():
        for name in sorted(expected.keys() | found.keys()):
            if differs(name, expected.get(name), found.get(name)):
                raise LearnError(
                    f"slides {first!r} and {slide_id!r} were prepared differently: {name} is "
                    f"{expected.get(name)!r} and {found.get(name)!r}; tile and extract them alike"
                )
    return dict(expected)


def differs(name: str, expected: Any, found: Any) -> bool:
    """Say whether a setting departs; what other tools did to tiles is not known, and passes."""
    if name == RECIPE:
        return len({expected, found} - {None, IMPORTED}) > 1
    if name == WEIGHTS:  # older stores and other tools' do not tell them
        return len({expected, found} - {None}) > 1
    return not same_setting(expected, found)


def same_setting(expected: Any, found: Any) -> bool:
    """Compare two settings; measured numbers are the same within 2 %, counted ones exactly."""
    if isinstance(expected, int) and isinstance(found, int):
        return expected == found
    numbers = (int, float)
    if isinstance(expected, numbers) and isinstance(found, numbers):
        return abs(expected - found) <= TOLERANCE * abs(expected)
    return bool(expected == found)
