"""Levels that an XML lays out: the regions of a Leica slide, the areas of a Ventana slide.

Both follow OpenSlide's arithmetic, for its pixels are to be met.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self
from xml.etree import ElementTree  # nosec B405 # judged where it parses

import numpy as np
import tifffile

from wsi_pipeline.slides.protocol import SlideInfo
from wsi_pipeline.slides.reader import UnsuitableError
from wsi_pipeline.slides.tile_table import Area, TileTable, check_areas, table_of, tiff_pages

MAX_XML: Final = 1 << 26  # characters; a joint of two Ventana tiles takes 150
_XMP = 700  # TIFF tag


def leica(path: Path, info: SlideInfo) -> tuple[tuple[Area, ...], ...]:
    """Find the tiles of a Leica SCN: regions on a glass, each with a directory a level.

    Args:
        path: The file.
        info: What OpenSlide says of it.

    Raises:
        UnsuitableError: The XML, or a directory, is of another kind.
    """
    with tiff_pages(path) as pages:
        collection = _found(_parse(pages[0].description), "collection")
        glass = _number(collection, "sizeX"), _number(collection, "sizeY")
        regions = [_Region.of(each) for each in _all(collection, "image")]
        shown = [region for region in regions if region.bright and not region.covers(glass)]
        count = len(info.level_dimensions)
        if not shown or any(len(region.levels) != count for region in shown):
            raise UnsuitableError("its regions have other levels than the slide")
        return tuple(_leica_level(pages, shown, n, info) for n in range(count))


def _leica_level(
    pages: Sequence[tifffile.TiffPage], regions: Sequence["_Region"], number: int, info: SlideInfo
) -> tuple[Area, ...]:
    scale = min(region.width / region.levels[number][0] for region in regions)  # nm per pixel
    size = info.level_dimensions[number]
    areas = []
    for region in regions:
        left, top = int(region.left / scale), int(region.top / scale)
        directory = region.levels[number][1]
        if not 0 <= directory < len(pages):
            raise UnsuitableError(f"it names directory {directory} of {len(pages)}")
        page = pages[directory]
        box = left, top, min(left + page.imagewidth, size[0]), min(top + page.imagelength, size[1])
        table = table_of(page, (page.imagewidth, page.imagelength))
        areas.append(Area(table=table, left=left, top=top, box=box))
    return check_areas(areas, size)


@dataclass(frozen=True, kw_only=True)
class _Region:
    """An image of a Leica slide; lengths in nm on the glass.

    Attributes:
        levels: (width in pixels, directory) of each, the largest first.
        bright: It was taken in bright field.
    """

    left: float
    top: float
    width: float
    height: float
    levels: tuple[tuple[int, int], ...]
    bright: bool

    @classmethod
    def of(cls, image: ElementTree.Element) -> Self:
        view = _found(image, "view")
        found = [
            (int(_number(each, "sizeX")), int(_number(each, "ifd")))
            for each in _all(image, "dimension")
            if each.get("z", "0") == "0"
        ]
        light = next(_all(image, "illuminationSource"), None)
        return cls(
            left=_number(view, "offsetX"), top=_number(view, "offsetY"),
            width=_number(view, "sizeX"), height=_number(view, "sizeY"),
            levels=tuple(sorted(found, key=lambda level: -level[0])),
            bright=light is not None and light.text == "brightfield",
        )  # fmt: skip

    def covers(self, glass: tuple[float, float]) -> bool:
        """Whether it is the picture of the whole glass, which is no part of the scan."""
        return (self.left, self.top, self.width, self.height) == (0, 0, *glass)


def ventana(path: Path, info: SlideInfo) -> tuple[tuple[Area, ...], ...]:
    """Find the tiles of a Ventana BIF or TIFF, areas of tiles on a glass.

    Most scanners overlap the tiles by a mean that is no whole number, where OpenSlide blends two
    pixels to one: those are left to it.

    Args:
        path: The file.
        info: What OpenSlide says of it.

    Raises:
        UnsuitableError: Tiles overlap, or the XML or a directory is of another kind.
    """
    with tiff_pages(path) as pages:
        levels = [page for page in pages if "level=" in page.description]
        if len(levels) != len(info.level_dimensions):
            raise UnsuitableError(f"{len(levels)} directories are levels, not all that there are")
        packet = levels[0].tags.valueof(_XMP)
        if packet is None:
            return tuple(
                (Area.whole(table_of(page, (page.imagewidth, page.imagelength))),)
                for page in levels
            )
        tile = levels[0].tilewidth, levels[0].tilelength
        text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
        placed = _placed(_parse(text.rstrip("\0")), tile)
        downsamples = [_downsample(levels[0], page) for page in levels]
        return tuple(
            _ventana_level(page, placed, each, info.level_dimensions[number])
            for number, (page, each) in enumerate(zip(levels, downsamples, strict=True))
        )


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """An area of a Ventana slide, level-0 pixels: where its tiles are, and where they belong."""

    stored_left: int
    stored_top: int
    left: int
    top: int
    width: int
    height: int


def _placed(root: ElementTree.Element, tile: tuple[int, int]) -> tuple[_Placed, ...]:
    areas = list(_all(root, "ImageInfo"))
    origins = list(_found(root, "AoiOrigin"))
    if len(areas) != len(origins):
        raise UnsuitableError("its areas and their origins are not as many")
    scanned = [pair for pair in zip(areas, origins, strict=True) if _number(pair[0], "AOIScanned")]
    for direction, overlap in (("RIGHT", "OverlapX"), ("UP", "OverlapY")):
        joints = [each for area, _ in scanned for each in _all(area, "TileJointInfo")
                  if each.get("Direction") == direction]  # fmt: skip
        if sum(_number(joint, "Confidence") for joint in joints) == 0:
            raise UnsuitableError("nothing says how its tiles join")
        if sum(_number(joint, "Confidence") * _number(joint, overlap) for joint in joints):
            raise UnsuitableError("its tiles overlap")
    heights = [int(_number(area, "NumRows")) * tile[1] for area, _ in scanned]
    bottoms = [int(_number(area, "Pos-Y")) for area, _ in scanned]  # from below all areas
    top = max((b + h for b, h in zip(bottoms, heights, strict=True)), default=0)
    return tuple(
        _Placed(
            stored_left=int(_number(origin, "OriginX")), stored_top=int(_number(origin, "OriginY")),
            left=int(_number(area, "Pos-X")), top=top - bottom - height,
            width=int(_number(area, "NumCols")) * tile[0], height=height,
        )
        for (area, origin), height, bottom in zip(scanned, heights, bottoms, strict=True)
    )  # fmt: skip


def _downsample(first: tifffile.TiffPage, page: tifffile.TiffPage) -> int:
    magnifications = []
    for each in (first, page):
        fields = dict(pair.split("=", 1) for pair in each.description.split() if "=" in pair)
        try:
            magnifications.append(float(fields.get("mag", "")))
        except ValueError:
            raise UnsuitableError("a level has no magnification") from None
    downsample = magnifications[0] / magnifications[1] if magnifications[1] > 0 else math.nan
    if downsample < 1 or not downsample.is_integer():
        raise UnsuitableError("a level is smaller by no whole number")
    return int(downsample)


def _ventana_level(
    page: tifffile.TiffPage, placed: Iterable[_Placed], downsample: int, size: tuple[int, int]
) -> tuple[Area, ...]:
    table = table_of(page, (page.imagewidth, page.imagelength))
    if table.tile_width % downsample or table.tile_height % downsample:
        raise UnsuitableError("what a tile shows of another level begins or ends within a pixel")
    areas = []
    for each in placed:
        places = each.stored_left, each.stored_top, each.left, each.top, each.width, each.height
        if any(place % downsample for place in places):
            raise UnsuitableError("an area begins or ends within a pixel")
        stored_left, stored_top, left, top, width, height = (
            place // downsample for place in places
        )
        box = left, top, left + width, top + height
        within = stored_left, stored_top, stored_left + width, stored_top + height
        areas.append(
            Area(table=_only(table, within), left=left - stored_left, top=top - stored_top, box=box)
        )
    return check_areas(areas, size)


def _only(table: TileTable, box: tuple[int, int, int, int]) -> TileTable:
    """Leave out the tiles that lie outside a box, for they are another area's."""
    rows, columns = np.divmod(np.arange(len(table.offsets)), table.columns)
    x, y = columns * table.tile_width, rows * table.tile_height
    left, top, right, bottom = box
    inside = (x < right) & (x + table.tile_width > left) & (y < bottom)
    inside &= y + table.tile_height > top
    return replace(table, byte_counts=np.where(inside, table.byte_counts, 0))


def _parse(text: str) -> ElementTree.Element:
    """Parse XML that declares nothing of its own.

    Raises:
        UnsuitableError: It is none, too long, or not plain.
    """
    if len(text) > MAX_XML or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UnsuitableError("its XML is not plain", suspicious=True)
    try:
        return ElementTree.fromstring(text)  # noqa: S314 # nosec B314 # it has no entities
    except (ElementTree.ParseError, ValueError) as error:
        raise UnsuitableError(f"its XML cannot be read ({error})", suspicious=True) from error


def _all(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """What is called so below an element, in any namespace."""
    return (each for each in element.iter() if each.tag.rpartition("}")[2] == name)


def _found(element: ElementTree.Element, name: str) -> ElementTree.Element:
    found = next(_all(element, name), None)
    if found is None:
        raise UnsuitableError(f"its XML has no {name}")
    return found


def _number(element: ElementTree.Element, name: str) -> float:
    try:
        value = float(element.get(name, ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UnsuitableError(f"{name} is no number in its XML")
    return value
