"""What fine-tuning can learn from: tile stores, or a folder of images a class; and their audit.

Before there are features, the audit compares tiles by what they look like: light and dark on a
coarse grid, less what varies slowly, of unit length. Two copies of one picture point the same way
whatever their brightness, size and compression; two pictures of like tissue do not. Each is brought
to one of its eight positions first, so that a turned or mirrored copy is found too.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.cohort import CohortSlide, safe_id
from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.audit import Numbers, SlideEvidence, gather, identify
from wsi_pipeline.learn.bags import draw_rows
from wsi_pipeline.learn.finetune.tiles import ImageSource, StoreSource, TileSource, read_picture
from wsi_pipeline.learn.study import Material
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.tiles import find_store
from wsi_pipeline.tissue import focus
from wsi_pipeline.types import RgbTiles

EXTERNAL: Final = "external"
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SIDE: Final = 24  # of the grid: 576 numbers a tile
SMOOTH: Final = 7  # grid points that count as varying slowly
NEAR: Final = 0.4  # of the usual distance; docs/learning.md has what was measured
CHUNK: Final = 256  # tiles held at a time
GLASS: Final = 255.0  # grey level that absorbs nothing

Vectors = NDArray[np.float32]


def from_stores(
    cohort: Iterable[CohortSlide], run: Path, external: str | None
) -> Material[TileSource]:
    """Return the slides of a run folder, whose tiles are in ``tiles/``."""
    folder = RunFolder(run).tiles
    return Material(
        what="tiles",
        cohort=tuple(cohort),
        external=external,
        open=lambda slides: StoreSource(folder, slides),
        missing=lambda slides: [
            slide.slide_id for slide in slides if find_store(folder, slide.slide_id) is None
        ],
        vectors=PatternFolder,
        near=NEAR,
        evidence=lambda inside, outside: (
            gather(run, RunFolder(run).features, inside) | identify(run, outside)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class ImageFolders:
    """Flat images: a folder of images a class in each of ``internal`` and ``external``.

    ``pattern`` finds the patient in a file's name, see :func:`image_cohort`; images are
    held as squares of ``side`` px.
    """

    internal: Path
    external: Path | None = None
    pattern: str | None = None
    side: int = 224


def from_images(folders: ImageFolders) -> Material[TileSource]:
    """Return the images of a folder; those of the external folder are a cohort of their own.

    Raises:
        LearnError: There are none.
    """
    slides, nameless = image_cohort(folders.internal, folders.pattern)
    paths = {slide.slide_id: folders.internal / slide.path for slide in slides}
    notes = []
    if nameless:
        notes.append(
            f"the patients of {nameless} images are not known: each counts as a patient of its "
            "own, so images of one patient may be on both sides of the split, and the test figures "
            "may be too good (--patient-pattern finds patients in the files' names)"
        )
    if folders.external is not None:
        outside, _ = image_cohort(folders.external, folders.pattern, EXTERNAL)
        renamed = [
            CohortSlide(
                slide_id=f"{EXTERNAL}-{slide.slide_id}", path=slide.path, label=slide.label,
                patient_id=slide.patient_id if folders.pattern else f"{EXTERNAL}-{slide.slide_id}",
                cohort=EXTERNAL,
            )
            for slide in outside
        ]  # fmt: skip
        paths |= {slide.slide_id: folders.external / slide.path for slide in renamed}
        slides += renamed
    digest_of = cache(slide_digest)  # of a file; it is asked for more than once
    return Material(
        what="tiles",
        cohort=tuple(slides),
        external=None if folders.external is None else EXTERNAL,
        open=lambda found: ImageSource(found, paths, folders.side, digest_of),
        missing=lambda _: [],
        vectors=PatternFolder,
        near=NEAR,
        evidence=lambda inside, outside: picture_evidence(paths, inside, outside, digest_of),
        notes=tuple(notes),
    )


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


def picture_evidence(
    paths: Mapping[str, Path],
    internal: Iterable[str],
    external: Iterable[str],
    digest_of: Callable[[Path], str] = slide_digest,
) -> dict[str, SlideEvidence]:
    """Return the evidence of internal images; of external ones what identifies them, no more.

    Args:
        paths: The file of each image.
        internal, external: Which images.
        digest_of: Returns a file's digest.

    Raises:
        LearnError: A file is no readable image.
    """
    numbers: dict[str, Mapping[str, Numbers]] = {name: _numbers(paths[name]) for name in internal}
    numbers |= {name: {} for name in external}
    return {
        name: SlideEvidence(
            identity=digest_of(paths[name]), thumbnail=paths[name], what="image", numbers=found
        )
        for name, found in numbers.items()
    }


def _numbers(path: Path) -> dict[str, Numbers]:
    rgb = read_picture(path)
    density = -np.log10((rgb.reshape(-1, 3) + 1.0) / (GLASS + 1.0)).mean(0)
    return {
        "picture size": (float(rgb.shape[1]), float(rgb.shape[0])),
        "focus": (float(np.log1p(focus(rgb[None])[0])),),
        "stain": tuple(float(value) for value in density),
    }


class PatternFolder:
    """Patterns of a source's tiles, read and described one slide at a time, and kept."""

    def __init__(self, source: TileSource) -> None:
        self._source = source
        self._place = {slide.slide_id: index for index, slide in enumerate(source.slides)}
        self._kept: dict[str, NDArray[np.float16]] = {}

    def vectors(self, slide_id: str) -> Vectors:
        """Return the patterns of a slide's tiles, (N, 576) float32.

        Raises:
            LearnError: A picture is unreadable.
            StoreError: A tile store is unreadable.
        """
        if slide_id not in self._kept:
            place = self._place[slide_id]
            count = self._source.counts[place]
            parts = [
                patterns(self._source.read(place, np.arange(start, min(start + CHUNK, count))))
                for start in range(0, count, CHUNK)
            ]
            self._kept[slide_id] = np.concatenate(parts).astype(np.float16)
        return self._kept[slide_id].astype(np.float32)

    def sample(self, slide_id: str, count: int, rng: np.random.Generator) -> Vectors:
        """Return at most ``count`` of them, in their order, drawn with ``rng``."""
        return draw_rows(self.vectors(slide_id), count, rng)


def patterns(tiles: RgbTiles) -> Vectors:
    """Describe tiles.

    Args:
        tiles: (N, H, W, 3) uint8.

    Returns:
        (N, 576) float32 of unit length; zeros for a tile of one colour.
    """
    found = np.empty((len(tiles), SIDE, SIDE), np.float32)
    for index, tile in enumerate(tiles):
        grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        found[index] = small - cv2.blur(small, (SMOOTH, SMOOTH), borderType=cv2.BORDER_REFLECT)
        found[index] = _upright(found[index], small)
    flat = found.reshape(len(tiles), -1)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(flat / lengths, np.float32)


def _upright(pattern: Vectors, small: Vectors) -> Vectors:
    """Turn a pattern so that the tile's dark is to the right and below, more to the right."""
    ramp = np.linspace(-1, 1, SIDE, dtype=np.float32)
    dark = small.mean() - small
    across, down = float((dark @ ramp).sum()), float((ramp @ dark).sum())
    if across < 0:
        pattern = pattern[:, ::-1]
    if down < 0:
        pattern = pattern[::-1]
    return pattern.T if abs(down) > abs(across) else pattern
