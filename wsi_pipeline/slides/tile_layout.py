"""How each maker's TIFF lays its native tiles on the levels that OpenSlide shows."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wsi_pipeline.slides.openslide_reader import OpenSlideReader
from wsi_pipeline.slides.protocol import SlideInfo
from wsi_pipeline.slides.reader import SlideReader, UnsuitableError, is_url
from wsi_pipeline.slides.restart_jpeg import ndpi
from wsi_pipeline.slides.tiff_header import hides_levels
from wsi_pipeline.slides.tile_table import Area, read_tile_tables, table_of, tiff_pages
from wsi_pipeline.slides.xml_layout import leica, ventana
from wsi_pipeline.types import RgbImage

WHOLE_PIXELS: Final = ("leica",)  # vendors whose levels OpenSlide never interpolates

Levels = tuple[tuple[Area, ...], ...]


def find_areas(path: Path, info: SlideInfo) -> Levels:
    """Find the native tiles of each level, and where they lie on it.

    Args:
        path: A TIFF file.
        info: What its judge says of it.

    Raises:
        UnsuitableError: Its tiles are no JPEGs, or they are laid out in a way that is not known.
    """
    find = LAYOUTS.get(info.vendor)
    if find is None:
        raise UnsuitableError(f"the format is {info.vendor}")
    return find(path, info)


def has_native_tiles(path: str | Path, info: SlideInfo) -> bool:
    """Whether the native decoder knows how a slide's tiles lie; its probes are not made."""
    if is_url(path):
        return False
    try:
        return bool(find_areas(Path(path), info))
    except UnsuitableError:
        return False


def open_judge(path: Path) -> SlideReader:
    """Open a TIFF with the reader whose pixels are to be met.

    Raises:
        SlideOpenError: It cannot open it.
    """
    if path.is_file() and hides_levels(path):
        from wsi_pipeline.slides.tiffslide_reader import TiffSlideReader  # half a second to import

        return TiffSlideReader(path)
    return _Judge(path)


class _Judge(OpenSlideReader):
    """OpenSlide, asked so that within one region of a Leica slide it gives the stored pixels.

    Of a place between two pixels it takes the left one, counted from the region's edge.
    """

    def read_inside(self, level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        downsample = self.info.level_downsamples[level]
        if self.info.vendor not in WHOLE_PIXELS or downsample == int(downsample):
            return super().read_inside(level, x, y, width, height)
        corner = _right_of(x, downsample), _right_of(y, downsample)
        return self._region(level, corner, (width, height))


def _right_of(pixel: int, downsample: float) -> int:
    """The first level-0 place that is not left of a pixel."""
    place = math.ceil(pixel * downsample)
    return place if place / downsample >= pixel else place + 1


def exact_levels(info: SlideInfo) -> tuple[bool, ...]:
    """Whether the judge delivers the pixels that are stored, by level, or some between them."""
    exact = info.reader != "openslide" or info.vendor in WHOLE_PIXELS
    return tuple(exact or downsample == int(downsample) for downsample in info.level_downsamples)


def _plain(path: Path, info: SlideInfo) -> Levels:
    """A directory is a level."""
    tables = read_tile_tables(path, info.level_dimensions)
    return tuple((Area.whole(table),) for table in tables)


def _philips(path: Path, info: SlideInfo) -> Levels:
    """Directories are padded to whole tiles, some levels by more, and tiles of glass are left out.

    How large a level is, is told by its spacing alone, so levels are known by their order.
    """
    with tiff_pages(path) as pages:
        tiled = [page for page in pages if page.is_tiled]
        if len(tiled) != len(info.level_dimensions):
            raise UnsuitableError(
                f"{len(tiled)} directories are tiled, of {len(info.level_dimensions)} levels"
            )
        return tuple(
            (Area.whole(table_of(page, size, empty_is_glass=True)),)
            for page, size in zip(tiled, info.level_dimensions, strict=True)
        )


LAYOUTS: Final[dict[str, Callable[[Path, SlideInfo], Levels]]] = {
    "aperio": _plain,
    "generic-tiff": _plain,
    "hamamatsu": ndpi,
    "leica": leica,
    "philips": _philips,
    "ventana": ventana,
}
"""By vendor, as OpenSlide calls it; others overlap their tiles, or are no TIFF."""
