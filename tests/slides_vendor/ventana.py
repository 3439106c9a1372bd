"""A Ventana BIF: an area of tiles whose joints stand in the XMP of level 0."""

from collections.abc import Iterator
from pathlib import Path

import tifffile
from slides_vendor.picture import level_of, padded

SIDE = 256
XMP = 700


def write_ventana(path: Path, mpp: float = 0.25) -> None:
    """Write a label, then two levels of one area of 3 × 2 tiles that meet without overlap."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            level_of(4), photometric="rgb", metadata=None, description="Label_Image",
            rowsperstrip=128, extratags=[_xmp(_scan_xml(mpp))],
        )  # fmt: skip
        for number in range(2):
            tiff.write(
                padded(level_of(2**number), SIDE), tile=(SIDE, SIDE), photometric="rgb",
                compression="jpeg", compressionargs={"level": 95}, metadata=None,
                description=f"level={number} mag={40 / 2**number:g} quality=95",
                extratags=[_xmp(_stitch_xml())] if number == 0 else [],
            )  # fmt: skip


def _xmp(text: str) -> tuple[int, int, int, bytes, bool]:
    data = text.encode()
    return XMP, 1, len(data), data, True


def _scan_xml(mpp: float) -> str:
    return (
        f'<iScan Mode="bright" Magnification="40" ScanRes="{mpp}" UnitNumber="1" Z-layers="1">'
        '<AOI0 Left="0" Top="0" Right="3" Bottom="2"/></iScan>'
    )


def _stitch_xml(columns: int = 3, rows: int = 2) -> str:
    return (
        '<EncodeInfo Ver="2"><SlideInfo/><SlideStitchInfo>'
        f'<ImageInfo AOIScanned="1" AOIIndex="0" Width="{SIDE}" Height="{SIDE}" '
        f'NumRows="{rows}" NumCols="{columns}" Pos-X="0" Pos-Y="0">'
        f"{''.join(_joints(columns, rows))}</ImageInfo></SlideStitchInfo>"
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )


def _joints(columns: int, rows: int) -> Iterator[str]:
    """Tiles are numbered from 1, from the bottom up, to and fro along the rows."""

    def number(column: int, row: int) -> int:
        from_bottom = rows - 1 - row
        along = columns - 1 - column if from_bottom % 2 else column
        return from_bottom * columns + along + 1

    for row in range(rows):
        for column in range(columns - 1):
            yield _joint("RIGHT", number(column, row), number(column + 1, row))
    for row in range(1, rows):
        for column in range(columns):
            yield _joint("UP", number(column, row), number(column, row - 1))


def _joint(direction: str, first: int, second: int) -> str:
    return (
        f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{direction}" '
        f'Tile1="{first}" Tile2="{second}" OverlapX="0" OverlapY="0"/>'
    )
