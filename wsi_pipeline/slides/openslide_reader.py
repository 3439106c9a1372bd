"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, Philips, DICOM and more."""

from pathlib import Path
from threading import Lock

import numpy as np
import openslide
from numpy.typing import NDArray
from openslide.lowlevel import OpenSlideError

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.slides.dicom import slide_file, ycbcr_to_rgb
from wsi_pipeline.slides.dicom_frames import holds_mislabelled_ycbcr
from wsi_pipeline.slides.mpp import find_mpp, number, pixel_size
from wsi_pipeline.slides.protocol import SlideInfo
from wsi_pipeline.slides.reader import DamagedError, SlideReader, flatten, reason
from wsi_pipeline.slides.tile_table import guard_for
from wsi_pipeline.types import Region, RgbImage

MISLABELLED = "repair.colour"  # the property that says that YCbCr frames were called RGB
CELL_PX = 256  # lattice pitch when the level names no native tile size


class OpenSlideReader(SlideReader):
    """A slide opened with OpenSlide.

    OpenSlide places a read by level-0 coordinates. Where a level's downsample is not a whole
    number, most of its pixels then lie between two of OpenSlide's and are interpolated, with
    a shift that depends on where the read starts. Such levels are read in cells of a fixed
    lattice, so that a pixel has one value whatever rectangle it was asked with.

    Once a read has failed, OpenSlide's handle fails for ever, for all threads. Each failure is
    therefore tried again with a new handle, which takes the place of the old.
    """

    decode_errors = (OpenSlideError, DamagedError)

    def __init__(self, path: str | Path, _threads: int = 1) -> None:
        file = self._file = slide_file(Path(path))
        self._lock = Lock()
        self._ycbcr = holds_mislabelled_ycbcr(file)
        try:
            self._slide = openslide.OpenSlide(file)
        except OpenSlideError as error:
            raise SlideOpenError(
                f"{path}: OpenSlide cannot open it ({reason(error)});"
                " check that it is a whole slide image and was copied completely."
            ) from error
        try:
            self.info = _describe(str(path), self._slide, self._ycbcr)
        except OpenSlideError as error:
            self._slide.close()
            raise SlideOpenError(
                f"{path}: its header cannot be read ({reason(error)}); fetch the file again."
            ) from error
        self._guard = guard_for(file, self.info.level_dimensions)

    def read_inside(self, level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        if self._guard is not None:
            self._guard.check(level, x, y, width, height)
        downsample = self.info.level_downsamples[level]
        if downsample == int(downsample):
            step = int(downsample)
            return self._region(level, (x * step, y * step), (width, height))
        pitch_x, pitch_y = self._pitch(level)
        rgb = np.empty((height, width, 3), np.uint8)
        for top in range(y - y % pitch_y, y + height, pitch_y):
            for left in range(x - x % pitch_x, x + width, pitch_x):
                right, bottom = min(left + pitch_x, x + width), min(top + pitch_y, y + height)
                corner = (round(left * downsample), round(top * downsample))
                cell = self._region(level, corner, (right - left, bottom - top))
                from_x, from_y = max(left, x), max(top, y)
                rgb[from_y - y : bottom - y, from_x - x : right - x] = cell[
                    from_y - top :, from_x - left :
                ]
        return rgb

    def read_associated(self, name: str) -> RgbImage:
        return flatten(np.asarray(self._slide.associated_images[name]))

    def icc_profile(self) -> bytes:
        if "openslide.icc-size" not in self.info.properties:
            return b""
        try:
            profile = self._slide.color_profile
        except (OpenSlideError, OSError):
            return b""
        return b"" if profile is None else bytes(profile.tobytes())

    def close(self) -> None:
        self._slide.close()
        if self._guard is not None:
            self._guard.close()

    def _region(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> RgbImage:
        pixels = self._pixels(corner, level, size)
        return flatten(ycbcr_to_rgb(pixels) if self._ycbcr else pixels)

    def _pixels(
        self, corner: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        slide = self._slide
        try:
            return np.array(slide.read_region(corner, level, size))
        except OpenSlideError:
            fresh = openslide.OpenSlide(self._file)  # nobody else's, or their hole would be ours
            try:
                pixels = np.array(fresh.read_region(corner, level, size))
            except OpenSlideError:
                fresh.close()
                fresh = openslide.OpenSlide(self._file)
                raise
            finally:
                with self._lock:
                    if self._slide is slide:  # closed by whichever thread lets go of it last
                        self._slide = fresh
                    else:
                        fresh.close()
            return pixels

    def _pitch(self, level: int) -> tuple[int, int]:
        sides = (
            number(self.info.properties.get(f"openslide.level[{level}].tile-{side}"))
            for side in ("width", "height")
        )
        pitch_x, pitch_y = (CELL_PX if not s or not 64 <= s <= 1024 else int(s) for s in sides)
        return pitch_x, pitch_y


def _describe(path: str, slide: openslide.OpenSlide, ycbcr: bool) -> SlideInfo:
    held = slide.properties
    # a name that is damaged text is listed, but asking for it raises KeyError
    properties = {name: value for name in held if (value := held.get(name)) is not None}
    properties.update(pixel_size(properties.get("tiff.ImageDescription")))
    if ycbcr:
        properties[MISLABELLED] = "frames are labelled RGB, but their JPEG header says YCbCr"
    found = find_mpp(properties)
    width, height = slide.dimensions
    box = {
        key: int(properties.get(f"openslide.bounds-{key}", default))
        for key, default in (("x", 0), ("y", 0), ("width", width), ("height", height))
    }
    return SlideInfo(
        path=path,
        reader="openslide",
        reader_version=openslide.__library_version__,
        vendor=properties.get("openslide.vendor", "unknown"),
        level_dimensions=slide.level_dimensions,
        level_downsamples=slide.level_downsamples,
        mpp_x=found.x if found else None,
        mpp_y=found.y if found else None,
        mpp_source=found.source if found else None,
        objective_power=number(properties.get("openslide.objective-power")),
        bounds=Region(**box),
        properties=properties,
        associated=tuple(sorted(slide.associated_images)),
    )
