"""Write a pyramidal SVS file as Aperio scanners lay it out.

Directory 0 is level 0 in JPEG tiles, directory 1 the thumbnail in strips, then the reduced levels
in tiles, then label (subfile type 1) and macro (9). Nothing in the file depends on the clock, the
machine or the path, so equal pixels give equal bytes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import tifffile

from wsi_pipeline.types import RgbImage

TILE_PX: Final = 256
LIBRARY: Final = "Aperio Image Library v12.0.15"  # readers know the format by this opening
_REDUCTIONS: Final = (4, 16)
_THUMBNAIL_PX: Final = 1024
_REDUCED: Final = 0
_LABEL: Final = 1
_MACRO: Final = 9


@dataclass(frozen=True, kw_only=True)
class SvsHeader:
    """What the file says about itself.

    Attributes:
        width, height: Level-0 pixels.
        mpp: Micrometres per pixel at level 0.
        objective_power: Nominal magnification.
        quality: JPEG quality of all levels.
        properties: Further ``key = value`` pairs of the description; no ``|`` in them.
    """

    width: int
    height: int
    mpp: float
    objective_power: int
    quality: int
    properties: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in level-0 pixels."""
        return (self.width, self.height)

    @property
    def fields(self) -> str:
        """The ``key = value`` part of the description."""
        pairs = (
            ("AppMag", str(self.objective_power)),
            ("MPP", f"{self.mpp:.4f}"),
            *self.properties,
        )
        return "|".join(f"{key} = {value}" for key, value in pairs)


def write_svs(
    path: Path,
    header: SvsHeader,
    bands: Iterable[RgbImage],
    associated: Callable[[RgbImage], tuple[RgbImage, RgbImage]],
) -> None:
    """Write a slide from bands of rows; memory holds a band and the levels from ÷4 down.

    Args:
        path: The file to write.
        header: Size, resolution and description.
        bands: (h, width, 3) uint8 RGB from the top; every ``h`` but the last a multiple of
            TILE_PX, their sum ``header.height``.
        associated: Makes the label and the macro image from the thumbnail.
    """
    first = _REDUCTIONS[0]
    reduced = np.full((header.height // first, header.width // first, 3), 255, np.uint8)
    with tifffile.TiffWriter(path, bigtiff=False) as tiff:
        _write_level(tiff, _tiles(_shrinking(bands, reduced)), header, header.size)
        scale = min(1.0, _THUMBNAIL_PX / max(reduced.shape[:2]))
        size = (max(round(reduced.shape[1] * scale), 1), max(round(reduced.shape[0] * scale), 1))
        thumbnail = cv2.resize(reduced, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        text = f"{header.width}x{header.height} -> {size[0]}x{size[1]} - "
        _write_plain(tiff, thumbnail, header, f"{text}|{header.fields}", _REDUCED)
        for reduction in _REDUCTIONS:
            level = _reduce(reduced, reduction // first)
            if min(level.shape[:2]) > 0:
                _write_level(tiff, _tiles([level]), header, (level.shape[1], level.shape[0]))
        label, macro = associated(thumbnail)
        _write_plain(tiff, label, header, f"label {label.shape[1]}x{label.shape[0]}", _LABEL)
        _write_plain(tiff, macro, header, f"macro {macro.shape[1]}x{macro.shape[0]}", _MACRO)


def _shrinking(bands: Iterable[RgbImage], reduced: RgbImage) -> Iterator[RgbImage]:
    """Pass bands through, adding each to the first reduced level."""
    first = _REDUCTIONS[0]
    top = 0
    for band in bands:
        rows = min(band.shape[0] // first, reduced.shape[0] - top)
        if rows:
            part = np.ascontiguousarray(band[: rows * first, : reduced.shape[1] * first])
            reduced[top : top + rows] = _reduce(part, first)
        top += rows
        yield band


def _reduce(image: RgbImage, factor: int) -> RgbImage:
    if factor == 1:
        return image
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if min(height, width) == 0:
        return image[:0]
    cropped = image[: height * factor, : width * factor]
    small = cv2.resize(cropped, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _tiles(bands: Iterable[RgbImage]) -> Iterator[RgbImage]:
    """Cut bands into tiles; those on the edge go on with their last pixel, as JPEG likes it."""
    for band in bands:
        down, right = -band.shape[0] % TILE_PX, -band.shape[1] % TILE_PX
        padded = np.pad(band, ((0, down), (0, right), (0, 0)), mode="edge")
        for y in range(0, padded.shape[0], TILE_PX):
            for x in range(0, padded.shape[1], TILE_PX):
                yield np.ascontiguousarray(padded[y : y + TILE_PX, x : x + TILE_PX])


def _write_level(
    tiff: tifffile.TiffWriter,
    tiles: Iterator[RgbImage],
    header: SvsHeader,
    size: tuple[int, int],
) -> None:
    whole = f"{header.width}x{header.height} [0,0 {header.width}x{header.height}]"
    if size != header.size:
        whole += f" ({TILE_PX}x{TILE_PX}) -> {size[0]}x{size[1]}"
    else:
        whole += f" ({TILE_PX}x{TILE_PX})"
    text = f"{whole} JPEG/YCC Q={header.quality}|{header.fields}"
    tiff.write(
        tiles,
        shape=(size[1], size[0], 3),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        resolution=(dots := 1e4 * size[0] / header.width / header.mpp, dots),
        resolutionunit="CENTIMETER",
        **_options(header, text, _REDUCED),
    )


def _write_plain(
    tiff: tifffile.TiffWriter, image: RgbImage, header: SvsHeader, text: str, subfile: int
) -> None:
    # A whole number of MCU rows (16) per strip, several strips an image.
    tiff.write(image, rowsperstrip=16, **_options(header, text, subfile))


def _options(header: SvsHeader, text: str, subfile: int) -> dict[str, Any]:
    return {
        "photometric": "rgb",  # of what we pass; the file holds YCbCr
        "compression": "jpeg",
        "compressionargs": {"level": header.quality},
        "subsampling": (2, 2),
        "subfiletype": subfile,
        "description": f"{LIBRARY} \r\n{text}",
        "metadata": None,
        "software": False,
        "maxworkers": 1,
    }
