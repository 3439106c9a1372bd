"""The part of reading that all readers share: clipping, white outside, plain errors."""

import math
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slides.mpp import resolve_mpp
from wsi_pipeline.slides.overview import shrink_to
from wsi_pipeline.slides.protocol import SlideInfo
from wsi_pipeline.types import RgbImage

OURS: Final = "wsi_pipeline."
# What TIFF parsing, codecs and file systems are known to raise on what they cannot use.
FAULTS: Final = (
    OSError,
    ValueError,
    ArithmeticError,
    RuntimeError,  # codecs derive theirs from it
    MemoryError,
    ImportError,  # the file system of a URL is not installed
    EOFError,
    SyntaxError,  # of XML in a header
    struct.error,
)
# A damaged value of another type than is always found there makes a library stumble as a bug does.
SLIPS: Final = (AttributeError, AssertionError, LookupError, TypeError, StopIteration)


class DamagedError(ValueError):
    """Stored pixels are not what they should be; whoever knows the file says so of it."""


class UnsuitableError(Exception):
    """A reader does not apply to a file; ``suspicious`` where the file contradicts itself."""

    def __init__(self, text: str, *, suspicious: bool = False) -> None:
        super().__init__(text)
        self.suspicious = suspicious


def library_errors() -> tuple[type[Exception], ...]:
    """What libraries raise on damaged files, fsspec's HTTP client too where a URL brought it in."""
    client = sys.modules.get("aiohttp")
    return (*FAULTS, *SLIPS) if client is None else (*FAULTS, *SLIPS, client.ClientError)


def raise_own_slip(error: Exception, kinds: tuple[type[Exception], ...] = SLIPS) -> None:
    """Raise ``error`` on if it is a bug of ours, which must not read as a damaged file.

    That is an error of these kinds that was not raised in a library, but by our own code.
    """
    if not isinstance(error, kinds) or isinstance(error, DamagedError | OSError | MemoryError):
        return
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(OURS):
        raise error


class SlideReader(ABC):
    """Base of the readers; a subclass delivers rectangles that lie inside a level.

    ``decode_errors`` names what the library raises when pixels cannot be decoded; ``recolour``
    changes the colours of all levels. ``file_s`` are the seconds spent on the file itself, where
    they can be told from decoding. ``decodes_once``: see ``Slide``. ``beat`` is called before each
    ``read``, as a sign of life, and may raise to end the work.
    """

    info: SlideInfo
    decode_errors: tuple[type[Exception], ...] = ()
    recolour: Callable[[RgbImage], RgbImage] | None = None
    file_s: float = 0.0
    decodes_once: bool = False
    beat: Callable[[], object] = staticmethod(lambda: None)

    @abstractmethod
    def read_inside(self, level: int, x: int, y: int, width: int, height: int, /) -> RgbImage:
        """Like ``read`` for a non-empty rectangle inside the level."""

    @abstractmethod
    def read_associated(self, name: str, /) -> RgbImage:
        """Like ``associated_image`` for a name in ``info.associated``."""

    @abstractmethod
    def close(self) -> None: ...

    def read(self, level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        """Pixels of one level, see ``Slide.read``."""
        self.beat()
        if not 0 <= level < len(self.info.level_dimensions):
            raise SlideReadError(
                f"{self.info.path}: level {level} was asked for, but the slide has levels"
                f" 0 to {len(self.info.level_dimensions) - 1}."
            )
        level_width, level_height = self.info.level_dimensions[level]
        left, right = max(x, 0), min(x + width, level_width)
        top, bottom = max(y, 0), min(y + height, level_height)
        if left >= right or top >= bottom:
            return np.full((max(height, 0), max(width, 0), 3), 255, np.uint8)
        try:
            inside = self.read_inside(level, left, top, right - left, bottom - top)
        except self.decode_errors as error:
            raise_own_slip(error, (Exception,))
            raise SlideReadError(
                f"{self.info.path}: level {level} cannot be decoded near x={left}, y={top}"
                f" ({reason(error)}); the file is damaged, so fetch it again or leave it out."
            ) from error
        if self.recolour is not None:
            inside = self.recolour(inside)
        if inside.shape[:2] == (height, width):
            return inside
        canvas = np.full((height, width, 3), 255, np.uint8)
        canvas[top - y : bottom - y, left - x : right - x] = inside
        return canvas

    @property
    def dimensions(self) -> tuple[int, int]:
        """Level-0 (width, height), see ``Slide``."""
        return self.info.dimensions

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level."""
        return self.info.level_dimensions

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level."""
        return self.info.level_downsamples

    @property
    def mpp(self) -> float | None:
        """Level-0 µm/px, see ``Slide.mpp``."""
        if self.info.mpp_x is None and self.info.mpp_y is None:
            return None
        return resolve_mpp(self.info).mpp

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> RgbImage:
        """A rectangle as OpenSlide names it, see ``Slide.read_region``."""
        if not 0 <= level < len(self.info.level_dimensions):
            return self.read(level, 0, 0, 1, 1)  # which says what is wrong
        downsample = self.info.level_downsamples[level]
        x, y = (math.floor(each / downsample + 0.5) for each in location)
        return self.read(level, x, y, *size)

    def __repr__(self) -> str:
        info = self.info
        width, height = info.dimensions
        scale = "mpp unknown" if info.mpp is None else f"{info.mpp:.4g} µm/px"
        levels = len(info.level_dimensions)
        return (
            f"<Slide {info.path!r}: {width}×{height} px, {scale}, {levels} "
            f"level{'s' if levels > 1 else ''}, {info.vendor}, read by {info.reader}>"
        )

    def read_into(self, level: int, x: int, y: int, out: RgbImage) -> None:
        """Like ``read``, into memory that is there already, see ``Slide.read_into``."""
        out[...] = self.read(level, x, y, out.shape[1], out.shape[0])

    def reduced(self, level: int, factor: int) -> "ReducedLevel | None":
        """A level decoded straight to a half, a quarter or an eighth of its size, factor 2, 4, 8.

        Returns:
            None where the file or its reader has no such way.
        """
        del level, factor
        return None

    def averaged(self, level: int, factor: int) -> "ReducedLevel | None":
        """A level of which each ``factor`` × ``factor`` pixels are averaged as they are decoded.

        Returns:
            None where the reader has no way of doing so that spares a copy of the level's pixels.
        """
        del level, factor
        return None

    def associated_image(self, name: str) -> RgbImage:
        """An extra image, see ``Slide.associated_image``."""
        if name not in self.info.associated:
            held = ", ".join(self.info.associated) or "none"
            raise SlideReadError(
                f"{self.info.path}: there is no associated image {name!r} (it has: {held})."
            )
        try:
            return self.read_associated(name)
        except self.decode_errors as error:
            raise_own_slip(error, (Exception,))
            raise SlideReadError(
                f"{self.info.path}: the {name} image cannot be decoded ({reason(error)});"
                " the file is damaged, so fetch it again or leave it out."
            ) from error

    def icc_profile(self) -> bytes:
        """The ICC profile of level 0; empty if there is none."""
        return b""

    def thumbnail(self, max_px: int) -> RgbImage:
        """A small picture of the scanned part, see ``Slide.thumbnail``."""
        return shrink_to(self, max_px)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ReducedLevel:
    """A level of a slide at a whole fraction of its size, read as a level of its own."""

    decodes_once = True

    def __init__(self, reader: SlideReader, fill: Callable[[int, int, RgbImage], None]) -> None:
        self._reader, self._fill = reader, fill

    @property
    def file_s(self) -> float:
        """Seconds spent on the file, see :class:`SlideReader`."""
        return self._reader.file_s

    def read_into(self, _: int, x: int, y: int, out: RgbImage) -> None:
        """Fill ``out``, (height, width, 3) uint8, from (x, y), px of the reduced level, inside it.

        Raises:
            SlideReadError: The pixels cannot be decoded.
        """
        self._reader.beat()
        self._fill(x, y, out)


def is_url(path: str | Path) -> bool:
    """Whether a path names a remote file, such as ``s3://bucket/slide.svs``."""
    return "://" in str(path)


def reason(error: Exception) -> str:
    """A library's message on one line, without its final stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def flatten(pixels: NDArray[Any]) -> RgbImage:
    """Composite (h, w, 4) uint8 RGBA, alpha not premultiplied, on white → (h, w, 3)."""
    rgb: RgbImage = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
    alpha = pixels[..., 3]
    if alpha.min() == 255:
        return rgb
    weight = alpha[..., None].astype(np.uint16)
    blended = (rgb * weight + 255 * (255 - weight) + 127) // 255
    return blended.astype(np.uint8)
