"""The pixels that fine-tuning learns from: where tiles are, in which order, read by threads."""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.splits import Splits, SplitSlide
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.tiles import TileStore, find_store, open_tiles, store_digest
from wsi_pipeline.types import RgbImage, RgbTiles

OPEN_STORES: Final = 64
AHEAD: Final = 4  # batches read before they are asked for: the bound on memory

Places = NDArray[np.int64]  # (n, 2): place of the slide in the source, tile


class TileSource(Protocol):
    """Tiles of labelled slides, read a few at a time; it opens the slides it was given, no other.

    Attributes:
        slides: The slides, in their order.
        counts: How many tiles each has, at least one.
    """

    slides: Splits
    counts: tuple[int, ...]

    def read(self, slide: int, tiles: NDArray[np.int64]) -> RgbTiles:
        """Return tiles (n, H, W, 3) uint8 of the slide at this place in ``slides``."""

    def of(self, slides: Splits) -> "TileSource":
        """Return the source of these slides alone, which are among its own."""

    def tile_count(self, slide_id: str) -> int:
        """Return how many tiles a slide has."""

    def digests(self) -> dict[str, str]:
        """Return the digest of each slide's tiles, by slide."""

    def prepared(self) -> dict[str, dict[str, Any]]:
        """Return how each slide's tiles were cut, as far as a model depends on it, by slide."""


class StoreSource:
    """Tiles of ``<run>/tiles``; at most ``OPEN_STORES`` stores are open at a time."""

    def __init__(self, folder: Path, slides: Iterable[SplitSlide]) -> None:
        self.slides = tuple(slides)
        self._folder = folder
        self._paths = [_store_path(folder, slide.slide_id) for slide in self.slides]
        self._open: OrderedDict[int, TileStore] = OrderedDict()
        self.counts = tuple(len(self._store(index)) for index in range(len(self.slides)))
        self._place = {slide.slide_id: index for index, slide in enumerate(self.slides)}

    def read(self, slide: int, tiles: NDArray[np.int64]) -> RgbTiles:
        return np.asarray(self._store(slide).tiles[tiles], np.uint8)

    def of(self, slides: Splits) -> "StoreSource":
        return self if slides == self.slides else StoreSource(self._folder, slides)

    def tile_count(self, slide_id: str) -> int:
        return self.counts[self._place[slide_id]]

    def digests(self) -> dict[str, str]:
        return self._digests

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: store_digest(self._store(place)) for name, place in self._place.items()}

    def prepared(self) -> dict[str, dict[str, Any]]:
        return {
            name: _tile_settings(self._store(place).attributes)
            for name, place in self._place.items()
        }

    def _store(self, index: int) -> TileStore:
        store = self._open.pop(index, None) or open_tiles(self._paths[index])
        self._open[index] = store  # the latest stands last
        if len(self._open) > OPEN_STORES:
            self._open.popitem(last=False)
        return store


class ImageSource:
    """Flat images, each a slide of one tile, reduced to squares of ``side`` px.

    ``paths`` has each slide's file; ``digest_of`` returns a file's digest.
    """

    def __init__(
        self,
        slides: Iterable[SplitSlide],
        paths: Mapping[str, Path],
        side: int,
        digest_of: Callable[[Path], str] = slide_digest,
    ) -> None:
        self.slides = tuple(slides)
        self.counts = (1,) * len(self.slides)
        self._paths = paths
        self._side, self._digest_of = side, digest_of

    def read(self, slide: int, tiles: NDArray[np.int64]) -> RgbTiles:
        picture, size = (
            read_picture(self._paths[self.slides[slide].slide_id]),
            (self._side, self._side),
        )
        small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        return np.repeat(small[None], len(tiles), axis=0)

    def of(self, slides: Splits) -> "ImageSource":
        if slides == self.slides:
            return self
        return ImageSource(slides, self._paths, self._side, self._digest_of)

    def tile_count(self, slide_id: str) -> int:  # noqa: ARG002  a picture is one tile
        return 1

    def digests(self) -> dict[str, str]:
        return {
            slide.slide_id: self._digest_of(self._paths[slide.slide_id]) for slide in self.slides
        }

    def prepared(self) -> dict[str, dict[str, Any]]:
        return {slide.slide_id: {} for slide in self.slides}


def read_picture(path: Path) -> RgbImage:
    """Read an image, (H, W, 3) uint8 RGB.

    Raises:
        LearnError: It is not readable.
    """
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise LearnError(f"{path}: not a readable image; take it out of the folder")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def epoch_order(
    source: TileSource, balance: Literal["patient", "none"], most: int | None, seed: int, epoch: int
) -> Places:
    """Draw an epoch's tiles; the same seed and epoch give the same.

    Args:
        source: The training slides.
        balance: ``patient`` shows every class equally often, within it every patient, then every
            slide; ``none`` shows every tile once.
        most: The most tiles of an epoch; None shows as many as there are.
        seed: Of the whole training.
        epoch: From 1.

    Returns:
        (n, 2) int64: place of the slide in ``source.slides``, tile.
    """
    rng = np.random.default_rng([seed, epoch])
    total = sum(source.counts)
    count = total if most is None else min(most, total)
    if balance == "none":
        places = all_tiles(source)
        return places[rng.permutation(len(places))[:count]]
    slides = _balanced(source.slides, count, rng)
    tiles = np.empty(count, np.int64)
    for slide in np.unique(slides):
        at = np.flatnonzero(slides == slide)
        tiles[at] = _dealt(source.counts[slide], len(at), rng)
    return np.stack([slides, tiles], axis=1)


def all_tiles(source: TileSource, most: int | None = None, seed: int = 0) -> Places:
    """Return every tile, or ``most`` of each slide drawn once for all, in order; (n, 2) int64."""
    parts = []
    for slide, count in enumerate(source.counts):
        tiles = np.arange(count)
        if most is not None and count > most:
            rng = np.random.default_rng([seed, slide])
            tiles = np.sort(rng.choice(count, most, replace=False))
        parts.append(np.stack([np.full(len(tiles), slide), tiles], axis=1))
    return np.concatenate(parts).astype(np.int64)


def _balanced(
    slides: Sequence[SplitSlide], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deal ``count`` draws to classes, each class's to its patients, each patient's to slides."""
    tree: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, slide in enumerate(slides):
        tree[slide.label][slide.patient_id].append(index)
    patients = [list(found.values()) for _, found in sorted(tree.items())]
    chosen = np.empty(count, np.int64)
    labels = _dealt(len(patients), count, rng)
    for label, found in enumerate(patients):
        of_label = np.flatnonzero(labels == label)
        who = _dealt(len(found), len(of_label), rng)
        for patient, own in enumerate(found):
            at = of_label[who == patient]
            chosen[at] = np.array(own)[_dealt(len(own), len(at), rng)]
    return chosen


def _dealt(kinds: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``count`` draws from ``range(kinds)``, as evenly as it goes: shuffled packs one by one."""
    packs = [rng.permutation(kinds) for _ in range(-(-count // kinds))]
    return np.concatenate(packs)[:count].astype(np.int64) if packs else np.empty(0, np.int64)


def read_batches(
    source: TileSource, places: Places, batch: int, threads: int = 2
) -> Iterator[tuple[Places, RgbTiles]]:
    """Yield batches in the order of ``places``, the last one shorter.

    Args:
        source: Where tiles come from.
        places: (n, 2) int64.
        batch: Tiles of a batch.
        threads: That read side by side.

    Yields:
        The batch's places and its tiles, (b, H, W, 3) uint8.
    """
    with ThreadPoolExecutor(threads, "tiles") as pool:
        waiting: deque[tuple[Places, Future[RgbTiles]]] = deque()
        try:
            for start in range(0, len(places), batch):
                part = places[start : start + batch]
                waiting.append((part, pool.submit(_read_places, source, part)))
                if len(waiting) > AHEAD:
                    part, tiles = waiting.popleft()
                    yield part, tiles.result()
            while waiting:
                part, tiles = waiting.popleft()
                yield part, tiles.result()
        finally:
            for _, tiles in waiting:
                tiles.cancel()


def _read_places(source: TileSource, places: Places) -> RgbTiles:
    """Read each slide's tiles in one go, and put them back in the batch's order."""
    order = np.lexsort((places[:, 1], places[:, 0]))
    parts = []
    for slide in np.unique(places[:, 0]):
        at = order[places[order, 0] == slide]
        tiles, back = np.unique(places[at, 1], return_inverse=True)
        parts.append(source.read(int(slide), tiles)[back])
    batch = np.concatenate(parts)
    tiles = np.empty_like(batch)
    tiles[order] = batch
    return tiles


def _tile_settings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return tile size, mpp and stain method from a tile store's attributes, as far as it tells."""
    asked, stain = attributes.get("config", {}), attributes.get("stain")
    found = {
        "tile_px": asked.get("tile_px"),
        "mpp": attributes.get("mpp_effective"),
        "stain": stain.get("method") if isinstance(stain, Mapping) else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _store_path(folder: Path, slide_id: str) -> Path:
    path = find_store(folder, slide_id)
    if path is None:
        raise LearnError(f"{folder}: slide {slide_id!r} has no tile store; run the tile stage")
    return path
