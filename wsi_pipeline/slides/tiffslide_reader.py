"""Slides through TiffSlide: URLs (fsspec), and TIFF flavours that OpenSlide lacks."""

from pathlib import Path
from threading import Lock

import numpy as np
import tiffslide
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.slides.mpp import find_mpp, number, pixel_size
from wsi_pipeline.slides.protocol import SlideInfo
from wsi_pipeline.slides.reader import (
    SlideReader,
    flatten,
    library_errors,
    raise_own_slip,
    reason,
)
from wsi_pipeline.slides.tile_table import HoleGuard, Jpeg2000Guard, guard_for, hole_guard_for
from wsi_pipeline.types import Region, RgbImage

_TIFF_UNITS = {2: "inch", 3: "centimeter"}
# samples that are handed on as they are stored, and those compressions that do not unpack to RGB
_SHOWN = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR)
_KEEPS_SAMPLES = (
    COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS, COMPRESSION.LERC, COMPRESSION.LZMA, COMPRESSION.ZSTD,
)  # fmt: skip


class TiffSlideReader(SlideReader):
    """A slide opened with TiffSlide; reads take turns, as it gains nothing from threads."""

    def __init__(self, path: str | Path, _threads: int = 1) -> None:
        self._lock = Lock()
        self._guard: Jpeg2000Guard | HoleGuard | None = None
        try:
            self._slide = tiffslide.TiffSlide(str(path))
        except library_errors() as error:
            raise_own_slip(error)
            raise SlideOpenError(
                f"{path}: TiffSlide cannot open it ({reason(error)});"
                " check the address and that it is a tiled TIFF."
            ) from error
        self.decode_errors = library_errors()
        try:
            self.info = _describe(str(path), self._slide)
            sizes = self.info.level_dimensions
            self._guard = guard_for(Path(path), sizes) or hole_guard_for(Path(path), sizes)
            self._refuse_other_pixels()
        except SlideOpenError:
            self.close()
            raise
        except self.decode_errors as error:
            self.close()
            raise_own_slip(error)
            raise SlideOpenError(
                f"{path}: TiffSlide opens it, but cannot use it ({reason(error)});"
                " convert it to a pyramidal RGB TIFF."
            ) from error

    def read_inside(self, level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        if self._guard is not None:
            self._guard.check(level, x, y, width, height)
        with self._lock:
            pixels = self._region(level, (x, y), (width, height))
        if pixels.shape[2] == 1:
            return np.repeat(pixels, 3, axis=2)
        if pixels.shape[2] == 4:
            return flatten(np.ascontiguousarray(pixels))
        return np.ascontiguousarray(pixels)

    def read_associated(self, name: str) -> RgbImage:
        with self._lock:
            return np.array(self._slide.associated_images[name].convert("RGB"))

    def icc_profile(self) -> bytes:
        tag = self._slide.ts_tifffile.pages.first.tags.get("InterColorProfile")
        return bytes(tag.value) if tag is not None else b""

    def close(self) -> None:
        self._slide.close()
        if self._guard is not None:
            self._guard.close()

    def _region(
        self, level: int, corner: tuple[int, int], size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        (x, y), (width, height) = corner, size
        group = self._slide.zarr_group
        array = group[str(level)] if hasattr(group, "keys") else group
        axes = self._slide.properties["tiffslide.series-axes"]
        rows, columns = slice(y, y + height), slice(x, x + width)
        if axes == "CYX":
            return np.moveaxis(np.asarray(array[:, rows, columns]), 0, 2)
        pixels = np.asarray(array[rows, columns])
        return pixels[..., None] if axes == "YX" else pixels

    def _refuse_other_pixels(self) -> None:
        page = self._slide.ts_tifffile.pages.first
        as_packed = page.photometric == PHOTOMETRIC.YCBCR and page.compression in _KEEPS_SAMPLES
        if page.bitspersample != 8 or page.photometric not in _SHOWN or as_packed:
            raise SlideOpenError(
                f"{self.info.path}: its samples are {page.bitspersample}-bit"
                f" {page.photometric.name}, which TiffSlide takes for RGB; convert it to 8-bit RGB"
                " first."
            )
        level = len(self.info.level_dimensions) - 1
        if self._guard is not None:
            self._guard.check(level, 0, 0, 1, 1)
        pixels = self._region(level, (0, 0), (1, 1))
        if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3, 4):
            raise SlideOpenError(
                f"{self.info.path}: its pixels are {pixels.shape[2]} × {pixels.dtype}, not 8-bit"
                " colour; convert it to 8-bit RGB first."
            )


def _describe(path: str, slide: tiffslide.TiffSlide) -> SlideInfo:
    properties = {key: str(value) for key, value in slide.properties.items() if value is not None}
    properties.update(pixel_size(slide.ts_tifffile.ome_metadata))
    vendor = properties.get("tiffslide.vendor", "generic-tiff")
    if vendor == "aperio":
        properties.update(_resolution_tags(slide))
    found = find_mpp(properties)
    width, height = slide.dimensions
    return SlideInfo(
        path=path,
        reader="tiffslide",
        reader_version=tiffslide.__version__,
        vendor=vendor,
        level_dimensions=slide.level_dimensions,
        level_downsamples=slide.level_downsamples,
        mpp_x=found.x if found else None,
        mpp_y=found.y if found else None,
        mpp_source=found.source if found else None,
        objective_power=number(properties.get("tiffslide.objective-power")),
        bounds=Region(x=0, y=0, width=width, height=height),
        properties=properties,
        associated=tuple(sorted(slide.associated_images)),
    )


def _resolution_tags(slide: tiffslide.TiffSlide) -> dict[str, str]:
    """The resolution tags of level 0, which TiffSlide leaves out where it has another source."""
    page = slide.ts_tifffile.pages.first
    unit = _TIFF_UNITS.get(page.resolutionunit)
    x, y = page.resolution
    if unit is None or "XResolution" not in page.tags:
        return {}
    return {"tiff.XResolution": str(x), "tiff.YResolution": str(y), "tiff.ResolutionUnit": unit}
