"""Where fine-tuning takes its pixels from: tile stores, or a folder of images a class."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.cohort import CohortSlide, safe_id
from wsi_pipeline.config import digest
from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.splits import SplitSlide
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.tiles import TileStore, find_store, open_tiles, store_digest
from wsi_pipeline.types import RgbImage, RgbTiles

OPEN_STORES: Final = 64
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


class TileSource(Protocol):
    """Tiles of labelled slides, read a few at a time; it opens the slides it was given, no other.

    Attributes:
        slides: The slides, in their order.
        counts: How many tiles each has, at least one.
    """

    slides: tuple[SplitSlide, ...]
    counts: tuple[int, ...]

    def read(self, slide: int, tiles: NDArray[np.int64]) -> RgbTiles:
        """Return tiles (n, H, W, 3) uint8 of the slide at this place in ``slides``."""

    def digests(self) -> dict[str, str]:
        """Return the digest of each slide's tiles, by slide."""


class StoreSource:
    """Tiles of ``<run>/tiles``; at most ``OPEN_STORES`` stores are open at a time."""

    def __init__(self, folder: Path, slides: Iterable[SplitSlide]) -> None:
        self.slides = tuple(slides)
        self._paths = [_store_path(folder, slide.slide_id) for slide in self.slides]
        self._open: OrderedDict[int, TileStore] = OrderedDict()
        self.counts = tuple(len(self._store(index)) for index in range(len(self.slides)))

    def read(self, slide: int, tiles: NDArray[np.int64]) -> RgbTiles:
        return np.asarray(self._store(slide).tiles[tiles], np.uint8)

    def digests(self) -> dict[str, str]:
        return {
            each.slide_id: store_digest(self._store(index))
            for index, each in enumerate(self.slides)
        }

    def _store(self, index: int) -> TileStore:
        store = self._open.pop(index, None) or open_tiles(self._paths[index])
        self._open[index] = store  # the latest stands last
        if len(self._open) > OPEN_STORES:
            self._open.popitem(last=False)
        return store


class ImageSource:
    """Flat images, each a slide of one tile, reduced to squares of ``side`` px.

    ``paths`` has each slide's file.
    """

    def __init__(self, slides: Iterable[SplitSlide], paths: Mapping[str, Path], side: int) -> None:
        self.slides = tuple(slides)
        self.counts = (1,) * len(self.slides)
        self._paths = [paths[slide.slide_id] for slide in self.slides]
        self._side = side

    def read(self, slide: int, tiles: NDArray[np.int64]) -> RgbTiles:
        picture, size = read_picture(self._paths[slide]), (self._side, self._side)
        small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        return np.repeat(small[None], len(tiles), axis=0)

    def digests(self) -> dict[str, str]:
        return {
            slide.slide_id: slide_digest(path)
            for slide, path in zip(self.slides, self._paths, strict=True)
        }


def read_picture(path: Path) -> RgbImage:
    """Read an image, (H, W, 3) uint8 RGB.

    Raises:
        LearnError: It is not readable.
    """
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise LearnError(f"{path}: not a readable image; take it out of the folder")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def image_cohort(
    root: Path, pattern: str | None, cohort: str | None = None
) -> tuple[list[CohortSlide], int]:
    """Read a folder with a folder of images a class as a cohort of one-tile slides.

    Args:
        root: Its folders' names are the labels.
        pattern: Regular expression whose first group, found in a file's name, is the patient;
            None makes every image a patient of its own.
        cohort: Name of the cohort.

    Returns:
        The slides by path, and how many have no patient but themselves.

    Raises:
        LearnError: There are no images, or a name has no patient although there is a pattern.
    """
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    slides, nameless = [], 0
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in SUFFIXES:
                continue
            relative = path.relative_to(root)
            name = safe_id(str(relative.with_suffix("")).replace("/", "-"))
            found = re.search(pattern, path.name) if pattern else None
            if pattern and found is None:
                raise LearnError(f"{path}: no patient in its name by --patient-pattern {pattern!r}")
            patient = found[1] if found else name
            nameless += found is None
            slides.append(
                CohortSlide(
                    slide_id=name,
                    path=str(relative),
                    patient_id=patient,
                    label=folder.name,
                    cohort=cohort,
                )
            )
    if not slides:
        raise LearnError(
            f"{root}: no images ({', '.join(SUFFIXES)}) in folders named after the classes"
        )
    return slides, nameless


def with_tiles(folder: Path, slides: Sequence[SplitSlide]) -> tuple[SplitSlide, ...]:
    """Return the slides that have a tile store in ``folder``."""
    return tuple(slide for slide in slides if find_store(folder, slide.slide_id) is not None)


def source_digest(source: TileSource) -> str:
    """Return one digest of all of a source's tiles."""
    return digest(source.digests())


def _store_path(folder: Path, slide_id: str) -> Path:
    path = find_store(folder, slide_id)
    if path is None:
        raise LearnError(f"{folder}: slide {slide_id!r} has no tile store; run the tile stage")
    return path
