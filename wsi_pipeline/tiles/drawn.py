"""What people drew on a slide: regions that restrict and name its tiles, and corrected masks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides import LowImage, SlideInfo
from wsi_pipeline.tiles.grid import Grid
from wsi_pipeline.tissue import Annotation, Tissue, annotated_mask, read_annotations, tile_labels
from wsi_pipeline.tissue.annotations import EXCLUDE
from wsi_pipeline.tissue.methods import background_colour
from wsi_pipeline.types import Mask

NO_CLASS: Final = -1
COLUMN: Final = "annotation_class"

Origin = Literal["auto", "slide", "bounds"]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn on a slide, and how it is to be understood.

    Attributes:
        annotations: QuPath's GeoJSON or ASAP's XML; None if there is none.
        mask: GeoJSON of the tissue, corrected by a person, in the place of the computed mask.
        exclude: Classes, in any case, whose regions give no tiles.
        only: Where regions to include are drawn, tiles come from them alone.
        min_overlap: Share of a tile that a class must cover to name it.
        origin: Where the files' coordinates start: at the ``slide``'s corner, or at that of the
            scanned ``bounds``, which differ in MIRAX files. ``auto``: QuPath crops to the bounds,
            ASAP does not.
    """

    annotations: Path | None = None
    mask: Path | None = None
    exclude: tuple[str, ...] = EXCLUDE
    only: bool = True
    min_overlap: float = 0.5
    origin: Origin = "auto"


@dataclass(frozen=True, kw_only=True)
class TileClasses:
    """Classes of a slide's tile places.

    Attributes:
        names: Sorted.
        index: (len(grid),) float32, position in ``names``; ``NO_CLASS`` where none covers enough.
    """

    names: tuple[str, ...]
    index: NDArray[np.float32]


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


def read_regions(info: SlideInfo, drawn: Drawn | None) -> list[Annotation]:
    """Read the regions drawn on a slide, in level-0 pixels; none without a file.

    Raises:
        SlideError: The file cannot be read, or everything in it lies beside the slide.
    """
    if drawn is None or drawn.annotations is None:
        return []
    regions = _read(info, drawn.annotations, drawn)
    boxes = [region.area.bounds for region in regions if not region.area.is_empty]
    width, height = info.dimensions
    if boxes and all(x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0 for x0, y0, x1, y1 in boxes):
        raise SlideError(
            f"{drawn.annotations}: all regions lie beside the slide of {width}×{height} px; are "
            "they another slide's?"
        )
    return regions


def corrected_tissue(info: SlideInfo, overview: LowImage, drawn: Drawn | None) -> Tissue | None:
    """Return the tissue as a person drew it, on the overview; None if nobody did.

    Raises:
        SlideError: The file cannot be read, or draws no area.
    """
    if drawn is None or drawn.mask is None:
        return None
    regions = _read(info, drawn.mask, drawn)
    if all(region.area.is_empty or not region.include for region in regions):
        raise SlideError(f"{drawn.mask}: no tissue is drawn in it; remove it to have it computed")
    mask = _raster(regions, overview)
    flags = ("drawn_mask",) if mask.any() else ("drawn_mask", "no_tissue")
    glass = background_colour(overview.rgb)[0]
    return Tissue(
        mask=mask, method="drawn", thresholds=MappingProxyType({}), glass=glass, flags=flags
    )


def allowed(regions: Sequence[Annotation], overview: LowImage, drawn: Drawn | None) -> Mask:
    """Return (H, W) bool: where tiles may come from, by the regions."""
    if drawn is not None and not drawn.only:
        regions = [region for region in regions if not region.include]
    return _raster(regions, overview)


def classify(regions: Sequence[Annotation], grid: Grid, drawn: Drawn) -> TileClasses:
    """Name each tile place by the class that covers most of it."""
    labels = tile_labels(regions, grid.coords(), grid.tile_px_level0, drawn.min_overlap)
    names = sorted({region.label for region in regions if region.include and region.label})
    position = {name: k for k, name in enumerate(names)}
    index = [NO_CLASS if label is None else position[label] for label in labels]
    return TileClasses(names=tuple(names), index=np.array(index, np.float32))


def _read(info: SlideInfo, path: Path, drawn: Drawn) -> list[Annotation]:
    cropped = path.suffix.lower() != ".xml" if drawn.origin == "auto" else drawn.origin == "bounds"
    origin = (info.bounds.x, info.bounds.y) if cropped else (0, 0)
    return read_annotations(path, origin, drawn.exclude)


def _raster(regions: Sequence[Annotation], overview: LowImage) -> Mask:
    height, width = overview.rgb.shape[:2]
    return annotated_mask(regions, (height, width), overview.downsample, overview.origin)
