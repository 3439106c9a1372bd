"""A Ventana BIF: an area of tiles whose joints stand in the XMP of level 0."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from slides_vendor.picture import PICTURE, level_of, padded

from wsi_pipeline.types import RgbImage

SIDE = 256
XMP = 700


@dataclass(frozen=True, kw_only=True)
class Aoi:
    """An area: its first tile in the file, its extent in tiles, and where it belongs.

    ``x`` and ``y`` are pixels; ``y`` is measured from below all areas to its lower edge.
    """

    column: int = 0
    row: int = 0
    columns: int = 3
    rows: int = 2
    x: int = 0
    y: int = 0


def write_ventana(
    path: Path,
    mpp: float = 0.25,
    *,
    areas: Sequence[Aoi] = (Aoi(),),
    overlap: float = 0,
    rgb: RgbImage = PICTURE,
    steps: Sequence[int] = (1, 2),
) -> None:
    """Write a label, then levels of areas of tiles that overlap by so many pixels across."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            level_of(4), photometric="rgb", metadata=None, description="Label_Image",
            rowsperstrip=128, extratags=[_xmp(_scan_xml(mpp))],
        )  # fmt: skip
        for number, step in enumerate(steps):
            tiff.write(
                padded(np.ascontiguousarray(rgb[::step, ::step]), SIDE), tile=(SIDE, SIDE),
                photometric="rgb", compression="jpeg", compressionargs={"level": 95},
                metadata=None, description=f"level={number} mag={40 / step:g} quality=95",
                extratags=[_xmp(_stitch_xml(areas, overlap))] if number == 0 else [],
            )  # fmt: skip


def _xmp(text: str) -> tuple[int, int, int, bytes, bool]:
    data = text.encode()
    return XMP, 1, len(data), data, True


def _scan_xml(mpp: float) -> str:
    return (
        f'<iScan Mode="bright" Magnification="40" ScanRes="{mpp}" UnitNumber="1" Z-layers="1">'
        '<AOI0 Left="0" Top="0" Right="3" Bottom="2"/></iScan>'
    )


def _stitch_xml(areas: Sequence[Aoi], overlap: float) -> str:
    images = "".join(
        f'<ImageInfo AOIScanned="1" AOIIndex="{number}" Width="{SIDE}" Height="{SIDE}" '
        f'NumRows="{area.rows}" NumCols="{area.columns}" Pos-X="{area.x}" Pos-Y="{area.y}">'
        f"{''.join(_joints(area.columns, area.rows, overlap))}</ImageInfo>"
        for number, area in enumerate(areas)
    )
    origins = "".join(
        f'<AOI{number} OriginX="{area.column * SIDE}" OriginY="{area.row * SIDE}"/>'
        for number, area in enumerate(areas)
    )
    return (
        f'<EncodeInfo Ver="2"><SlideInfo/><SlideStitchInfo>{images}</SlideStitchInfo>'
        f"<AoiOrigin>{origins}</AoiOrigin></EncodeInfo>"
    )


def _joints(columns: int, rows: int, overlap: float) -> Iterator[str]:
    """Tiles are numbered from 1, from the bottom up, to and fro along the rows."""

    def number(column: int, row: int) -> int:
        from_bottom = rows - 1 - row
        along = columns - 1 - column if from_bottom % 2 else column
        return from_bottom * columns + along + 1

    for row in range(rows):
        for column in range(columns - 1):
            yield _joint("RIGHT", number(column, row), number(column + 1, row), overlap)
    for row in range(1, rows):
        for column in range(columns):
            yield _joint("UP", number(column, row), number(column, row - 1))


def _joint(direction: str, first: int, second: int, overlap: float = 0) -> str:
    return (
        f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{direction}" '
        f'Tile1="{first}" Tile2="{second}" OverlapX="{overlap:g}" OverlapY="0"/>'
    )
