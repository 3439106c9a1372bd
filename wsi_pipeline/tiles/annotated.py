"""What people drew on a slide: regions that restrict and name its tiles, and corrected masks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline import tissue  # what reads drawings is imported when there is one
from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides import LowImage, SlideInfo
from wsi_pipeline.tiles.grid import Grid
from wsi_pipeline.tiles.settings import TissueSettings
from wsi_pipeline.tissue import Tissue, background_colour
from wsi_pipeline.types import Mask

NO_CLASS: Final = -1
COLUMN: Final = "annotation_class"


@dataclass(frozen=True, kw_only=True)
class TileClasses:
    """Classes of a slide's tile places.

    Attributes:
        names: Sorted.
        index: (len(grid),) int32, position in ``names``; ``NO_CLASS`` where none covers enough.
    """

    names: tuple[str, ...]
    index: NDArray[np.int32]


def drawn_digest(path: Path | None) -> str | None:
    """Fingerprint of a drawing, all of its bytes; None for None.

    Raises:
        SlideError: It cannot be read.
    """
    if path is None:
        return None
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise SlideError(f"{path}: it cannot be read ({error.strerror})") from error


def read_regions(
    info: SlideInfo, path: Path | None, settings: TissueSettings
) -> "list[tissue.Annotation]":
    """Read the regions drawn on a slide, in level-0 pixels; none without a file.

    Raises:
        SlideError: The file cannot be read, or everything in it lies beside the slide.
    """
    if path is None:
        return []
    regions = _read(info, path, settings)
    boxes = [region.area.bounds for region in regions if not region.area.is_empty]
    width, height = info.dimensions
    if boxes and all(x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0 for x0, y0, x1, y1 in boxes):
        raise SlideError(
            f"{path}: all regions lie beside the slide of {width}×{height} px; are "
            "they another slide's?"
        )
    return regions


def corrected_tissue(
    info: SlideInfo, overview: LowImage, path: Path | None, settings: TissueSettings
) -> Tissue | None:
    """Return the tissue as a person drew it, on the overview; None if nobody did.

    Raises:
        SlideError: The file cannot be read, or draws no area.
    """
    if path is None:
        return None
    regions = _read(info, path, settings)
    if all(region.area.is_empty or not region.include for region in regions):
        raise SlideError(f"{path}: no tissue is drawn in it; remove it to have it computed")
    mask = _raster(regions, overview)
    flags = ("drawn_mask",) if mask.any() else ("drawn_mask", "no_tissue")
    glass = background_colour(overview.rgb)[0]
    return Tissue(
        mask=mask, method="drawn", thresholds=MappingProxyType({}), glass=glass, flags=flags
    )


def allowed(regions: "Sequence[tissue.Annotation]", overview: LowImage, *, only: bool) -> Mask:
    """Return (H, W) bool: where tiles may come from; ``only`` from regions, where there are any."""
    if not regions:
        return np.ones(overview.rgb.shape[:2], bool)
    return _raster(regions, overview, everywhere=not only)


def classify(regions: "Sequence[tissue.Annotation]", grid: Grid, min_overlap: float) -> TileClasses:
    """Name each tile place by the class that covers most of it, ``min_overlap`` at the least."""
    labels = tissue.tile_labels(regions, grid.coords(), grid.tile_px_level0, min_overlap)
    names = sorted({region.label for region in regions if region.include and region.label})
    position = {name: k for k, name in enumerate(names)}
    index = [NO_CLASS if label is None else position[label] for label in labels]
    return TileClasses(names=tuple(names), index=np.array(index, np.int32))


def _read(info: SlideInfo, path: Path, settings: TissueSettings) -> "list[tissue.Annotation]":
    return tissue.read_annotations(
        path, drawing_origin(info, path, settings), settings.exclude_annotations
    )


def drawing_origin(info: SlideInfo, path: Path, settings: TissueSettings) -> tuple[int, int]:
    """Return the level-0 (x, y) from which a drawing counts.

    QuPath counts from the corner of the scanned bounds, ASAP from the slide's; the two differ in
    MIRAX files.
    """
    origin = settings.annotation_origin
    cropped = not tissue.is_asap(path) if origin == "auto" else origin == "bounds"
    return (info.bounds.x, info.bounds.y) if cropped else (0, 0)


def _raster(
    regions: "Sequence[tissue.Annotation]", overview: LowImage, *, everywhere: bool = False
) -> Mask:
    height, width = overview.rgb.shape[:2]
    return tissue.annotated_mask(
        regions, (height, width), overview.downsample, overview.origin, everywhere=everywhere
    )
