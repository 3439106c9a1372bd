"""A value per tile as a pyramid in the slide's own frame: OME-TIFF, tiled, with physical sizes.

A viewer that knows µm lays it on the slide; where the picture lies on it, as that of a core does,
stands in its metadata. In colours for people, or as the numbers themselves for programs. It is
painted block by block at every level, so that memory does not grow with the slide.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.reporting.frame import SlideFrame
from wsi_pipeline.reporting.heatmap import Cells, boxes_of, colours_of, lay_boxes
from wsi_pipeline.settings import usable_cores
from wsi_pipeline.types import Coords

PX_PER_TILE: Final = 16  # of a slide's tile at full resolution; its edge is then off by 3 % at most
LONGEST_PX: Final = 16_384  # small tiles on a large slide get fewer pixels instead
BLOCK_PX: Final = 512
UM_PER_CM: Final = 10_000
X_POSITION, Y_POSITION = 286, 287  # TIFF tags, in the unit of the resolution


def write_ome_heatmap(  # noqa: PLR0913  a map, its tiles and where they lie
    path: Path,
    frame: SlideFrame,
    coords: Coords,
    values: ArrayLike,
    tile_px_level0: float,
    limits: tuple[float, float] | None,
    *,
    name: str = "heatmap",
) -> None:
    """Write ``path``, which ends in ``.ome.tif``; what has no tile is white, or NaN.

    Args:
        path: The file; whole or as it was before.
        frame: Where the slide's area lies. The picture covers it and, below and to the right, up
            to a pixel more.
        coords: (N, 2) int64, level-0 (x, y) of each tile's top-left corner.
        values: (N,) finite numbers.
        tile_px_level0: Side of a tile in level-0 pixels.
        limits: Values at the ends of the colours; None writes the values themselves, float32.
        name: Of the image, told in its metadata.
    """
    import tifffile

    numbers = np.asarray(values, np.float64)
    order = np.argsort(numbers, kind="stable")  # where tiles overlap, the larger is painted last
    painted: NDArray[Any] = numbers[order].astype(np.float32)
    if limits is not None:
        painted = colours_of(numbers[order], *limits)
    corners = coords[order] - np.array([frame.area.x, frame.area.y])
    steps = pyramid(frame, tile_px_level0)
    with atomic_file(path) as partial, tifffile.TiffWriter(partial, ome=True) as file:
        for number, step in enumerate(steps):
            width, height = (-(-side // step) for side in (frame.area.width, frame.area.height))
            whole = (-(-width // BLOCK_PX) * BLOCK_PX, -(-height // BLOCK_PX) * BLOCK_PX)
            cells = lay_boxes(boxes_of(corners, tile_px_level0, step), whole)
            file.write(
                _blocks(cells, painted),
                shape=(height, width, *painted.shape[1:]),
                dtype=painted.dtype,
                photometric="rgb" if painted.ndim == 2 else "minisblack",
                tile=(BLOCK_PX, BLOCK_PX),
                compression="adobe_deflate",
                maxworkers=usable_cores(),
                subifds=len(steps) - 1 if number == 0 else None,
                subfiletype=0 if number == 0 else 1,
                metadata=_metadata(frame, step, name, painted.ndim) if number == 0 else None,
                **_resolution(frame, step),
            )


def pyramid(frame: SlideFrame, tile_px_level0: float) -> list[int]:
    """Return level-0 pixels per pixel of each level; the last level fits into one block."""
    longest = max(frame.area.width, frame.area.height)
    step = max(1, int(tile_px_level0 // PX_PER_TILE), -(-longest // LONGEST_PX))
    steps = [step]
    while -(-longest // steps[-1]) > BLOCK_PX:
        steps.append(steps[-1] * 2)
    return steps


def _blocks(cells: Cells, painted: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield a level's blocks, row by row; ``painted`` are (N, 3) uint8 or (N,) float32."""
    empty = np.full_like(painted[:1], 255 if painted.ndim == 2 else np.nan)
    shown = np.concatenate([painted, empty])[cells.seen]  # -1 is the last
    for top in range(0, len(cells.rows), BLOCK_PX):
        band = np.take(shown, cells.rows[top : top + BLOCK_PX], axis=0)
        for left in range(0, len(cells.columns), BLOCK_PX):
            yield np.take(band, cells.columns[left : left + BLOCK_PX], axis=1)


def _metadata(frame: SlideFrame, step: int, name: str, ndim: int) -> dict[str, Any]:
    """Return what the OME-XML says: size of a pixel, and where the picture lies on the slide."""
    x, y = frame.area.x - frame.origin[0], frame.area.y - frame.origin[1]
    place = {"x_level0": x, "y_level0": y, "width_level0": frame.area.width,
             "height_level0": frame.area.height, "level0_px_per_px": step}  # fmt: skip
    metadata: dict[str, Any] = {
        "axes": "YXS" if ndim == 2 else "YX",
        "Name": name,
        "MapAnnotation": {"Namespace": "wsi_pipeline.place"}
        | {key: str(value) for key, value in place.items()},
    }
    if frame.mpp is not None:
        pixel = {f"PhysicalSize{axis}": frame.mpp * step for axis in "XY"}
        metadata |= pixel | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
        corner: dict[str, Any] = {"PositionX": [x * frame.mpp], "PositionY": [y * frame.mpp]}
        metadata["Plane"] = corner | {f"Position{axis}Unit": ["µm"] for axis in "XY"}
    return metadata


def _resolution(frame: SlideFrame, step: int) -> dict[str, Any]:
    """Return the same for programs that read TIFF's own tags; they know no negative place."""
    if frame.mpp is None:
        return {}
    per_cm = UM_PER_CM / (frame.mpp * step)
    tags = []
    for tag, place, origin in (
        (X_POSITION, frame.area.x, frame.origin[0]),
        (Y_POSITION, frame.area.y, frame.origin[1]),
    ):
        hundredths_um = max(0, round((place - origin) * frame.mpp * 100))
        if hundredths_um:
            tags.append((tag, "2I", 1, (hundredths_um, 100 * UM_PER_CM), True))
    return {
        "resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER", "extratags": tags,
    }  # fmt: skip
