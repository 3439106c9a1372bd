"""A value per tile as a pyramid in the slide's own frame: OME-TIFF, tiled, with physical sizes.

A viewer that knows µm lays it on the slide. It is painted block by block at every level, so that
memory does not grow with the slide.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.reporting.frame import SlideFrame
from wsi_pipeline.reporting.heatmap import colours_of
from wsi_pipeline.types import Coords, RgbImage

PX_PER_TILE: Final = 16  # of a slide's tile at full resolution; its edge is then off by 3 % at most
LONGEST_PX: Final = 16_384  # small tiles on a large slide get fewer pixels instead
BLOCK_PX: Final = 512
UM_PER_CM: Final = 10_000


def write_ome_heatmap(  # noqa: PLR0913  a map, its tiles and where they lie
    path: Path,
    frame: SlideFrame,
    coords: Coords,
    values: ArrayLike,
    tile_px_level0: float,
    limits: tuple[float, float],
    *,
    name: str = "heatmap",
) -> None:
    """Write ``path``, which ends in ``.ome.tif``; what has no tile is white.

    Args:
        path: The file; whole or as it was before.
        frame: Where the slide's area lies. The picture covers it and, below and to the right, up
            to a pixel more.
        coords: (N, 2) int64, level-0 (x, y) of each tile's top-left corner.
        values: (N,) finite numbers.
        tile_px_level0: Side of a tile in level-0 pixels.
        limits: Values at the ends of the colours.
        name: Of the image, told in its metadata.
    """
    import tifffile

    numbers = np.asarray(values, np.float64)
    order = np.argsort(numbers, kind="stable")  # where tiles overlap, the larger is painted last
    colours = colours_of(numbers[order], *limits)
    corners = coords[order] - np.array([frame.area.x, frame.area.y])
    steps = pyramid(frame, tile_px_level0)
    with atomic_file(path) as partial, tifffile.TiffWriter(partial, ome=True) as file:
        for number, step in enumerate(steps):
            width, height = (-(-side // step) for side in (frame.area.width, frame.area.height))
            file.write(
                _blocks(corners, colours, tile_px_level0, step, (width, height)),
                shape=(height, width, 3),
                dtype=np.uint8,
                photometric="rgb",
                tile=(BLOCK_PX, BLOCK_PX),
                compression="adobe_deflate",
                subifds=len(steps) - 1 if number == 0 else None,
                subfiletype=0 if number == 0 else 1,
                metadata=_metadata(frame, step, name) if number == 0 else None,
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


def _blocks(
    corners: NDArray[np.int64],
    colours: NDArray[np.uint8],
    side: float,
    step: int,
    size: tuple[int, int],
) -> Iterator[RgbImage]:
    """Yield a level's blocks, row by row."""
    starts = np.rint(corners / step).astype(np.int64)
    ends = np.maximum(np.rint((corners + side) / step).astype(np.int64), starts + 1)
    for top in range(0, size[1], BLOCK_PX):
        in_row = np.flatnonzero((starts[:, 1] < top + BLOCK_PX) & (ends[:, 1] > top))
        for left in range(0, size[0], BLOCK_PX):
            here = in_row[(starts[in_row, 0] < left + BLOCK_PX) & (ends[in_row, 0] > left)]
            block = np.full((BLOCK_PX, BLOCK_PX, 3), 255, np.uint8)
            boxes = np.hstack([starts[here], ends[here]]) - (left, top, left, top)
            for (x0, y0, x1, y1), colour in zip(boxes.clip(0).tolist(), colours[here], strict=True):
                block[y0:y1, x0:x1] = colour
            yield block


def _metadata(frame: SlideFrame, step: int, name: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": "YXS", "Name": name}
    if frame.mpp is not None:
        pixel = {f"PhysicalSize{axis}": frame.mpp * step for axis in "XY"}
        metadata |= pixel | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    return metadata


def _resolution(frame: SlideFrame, step: int) -> dict[str, Any]:
    if frame.mpp is None:
        return {}
    per_cm = UM_PER_CM / (frame.mpp * step)
    return {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
