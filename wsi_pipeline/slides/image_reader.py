"""Flat PNG, JPEG and TIFF pictures as slides of one level."""

from pathlib import Path
from threading import Lock

import numpy as np
import PIL
from PIL import Image, TiffTags, UnidentifiedImageError

from wsi_pipeline.errors import SlideOpenError, SlideReadError
from wsi_pipeline.slides.mpp import find_mpp, pixel_size
from wsi_pipeline.slides.protocol import SlideInfo
from wsi_pipeline.slides.reader import SlideReader, flatten, reason
from wsi_pipeline.types import Region, RgbImage

FORMATS = ("PNG", "JPEG", "TIFF")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_PLAIN_MODES = {"RGB", "L", "1", "P", "YCbCr", "CMYK"}
_ALPHA_MODES = {"RGBA", "LA", "PA"}
_TIFF_UNITS = {2: "inch", 3: "centimeter"}


class ImageReader(SlideReader):
    """A flat picture, decoded whole on the first read and kept."""

    decode_errors = (OSError, SyntaxError, ValueError)

    def __init__(self, path: str | Path, _threads: int = 1) -> None:
        try:
            self._image = Image.open(path, formats=FORMATS)
        except _BOMBS as error:
            raise SlideOpenError(
                f"{path}: a flat picture is held in memory whole, and this one is too large for"
                f" that ({reason(error)}); convert it to a pyramidal TIFF."
            ) from error
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise SlideOpenError(
                f"{path}: it is not a PNG, JPEG or TIFF picture, or it is cut short;"
                " check that it was copied completely."
            ) from error
        if self._image.mode not in _PLAIN_MODES | _ALPHA_MODES:
            mode = self._image.mode
            self._image.close()
            raise SlideOpenError(
                f"{path}: its pixels are of type {mode}, not 8-bit colour;"
                " convert it to 8-bit RGB first."
            )
        self.info = _describe(str(path), self._image)
        self._pixels: RgbImage | None = None
        self._lock = Lock()

    def read_inside(self, _level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        pixels = self._decoded()
        return pixels[y : y + height, x : x + width].copy()

    def read_associated(self, _name: str) -> RgbImage:
        raise SlideReadError(f"{self.info.path}: a flat picture has no associated images.")

    def icc_profile(self) -> bytes:
        profile = self._image.info.get("icc_profile")
        return profile if isinstance(profile, bytes) else b""

    def close(self) -> None:
        self._image.close()
        self._pixels = None

    def _decoded(self) -> RgbImage:
        with self._lock:
            if self._pixels is None:
                clear = self._image.mode in _ALPHA_MODES or "transparency" in self._image.info
                if clear:
                    self._pixels = flatten(np.asarray(self._image.convert("RGBA")))
                else:
                    self._pixels = np.array(self._image.convert("RGB"))
            return self._pixels


def _describe(path: str, image: Image.Image) -> SlideInfo:
    properties = _properties(image)
    found = find_mpp(properties)
    return SlideInfo(
        path=path,
        reader="image",
        reader_version=PIL.__version__,
        vendor=str(image.format).lower(),
        level_dimensions=(image.size,),
        level_downsamples=(1.0,),
        mpp_x=found.x if found else None,
        mpp_y=found.y if found else None,
        mpp_source=found.source if found else None,
        objective_power=None,
        bounds=Region(x=0, y=0, width=image.width, height=image.height),
        properties=properties,
        associated=(),
    )


def _properties(image: Image.Image) -> dict[str, str]:
    properties = {
        f"image.{key}": str(value)
        for key, value in image.info.items()
        if isinstance(key, str) and isinstance(value, str | int | float | tuple)
    }
    tags = getattr(image, "tag_v2", None) or {}
    for number, value in tags.items():
        name = TiffTags.lookup(number).name
        if isinstance(value, str | int | float) or "Resolution" in name:
            properties[f"tiff.{name}"] = str(value)
    if "tiff.ResolutionUnit" in properties:
        properties["tiff.ResolutionUnit"] = _TIFF_UNITS.get(tags[296], "none")
    properties.update(pixel_size(properties.get("tiff.ImageDescription")))
    return properties
