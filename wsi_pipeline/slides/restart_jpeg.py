"""Hamamatsu's NDPI: a level is one JPEG, of which any run of restart intervals decodes alone.

An interval is a strip one MCU high (8 px) and up to some thousands of pixels wide; a level has
columns of them. Some intervals of a column, one above the other, make a tile here: the JPEG's
own header with another size, and the intervals with their markers numbered anew. Levels between
those that are stored are the same JPEGs decoded to a half, a quarter or an eighth, as OpenSlide
has them.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.slides.protocol import SlideInfo
from wsi_pipeline.slides.reader import DamagedError, UnsuitableError
from wsi_pipeline.slides.tile_table import Area, Decode, TileTable, tiff_pages
from wsi_pipeline.types import RgbImage

STACK_PX: Final = 64  # height of a tile: a header for each costs little, and little is cut in vain
MAX_WHOLE_PX: Final = 1 << 24  # of a JPEG without restart markers, which is decoded whole
MAX_JPEG_PX: Final = 65_500  # a side, in libjpeg
_HEADER_BYTES: Final = 1 << 17
_LENS, _FOCAL_PLANE, _STARTS, _STARTS_HIGH = 65421, 65424, 65426, 65432  # private TIFF tags
_OFFSETS, _BYTE_COUNTS, _JPEG = 273, 279, 7
_SOI, _EOI, _SOS, _DRI = 0xD8, 0xD9, 0xDA, 0xDD
_SEQUENTIAL: Final = (0xC0, 0xC1)  # frames in one scan of Huffman codes
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_RESTARTS: Final = range(0xD0, 0xD8)


def ndpi(path: Path, info: SlideInfo) -> tuple[tuple[Area, ...], ...]:
    """Find the levels of an NDPI.

    Args:
        path: The file.
        info: What OpenSlide says of it.

    Raises:
        UnsuitableError: Its JPEGs or their tables are of another kind, or OpenSlide's levels are
            others.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        with tiff_pages(path, ndpi=True) as pages:
            levels = [page for page in pages if _is_level(page)]
            stored = [_Source.of(page, file) for page in levels]
    finally:
        os.close(file)
    by_width = {}
    for source in stored:  # as OpenSlide does: what comes later takes the place of its like
        for factor in (1, 2, 4, 8):
            if source.tile_width % factor == source.mcu_height % factor == 0:
                by_width[source.width // factor] = (source, factor)
    found = [by_width[width] for width in sorted(by_width, reverse=True)]
    sizes = tuple((source.width // by, source.height // by) for source, by in found)
    if sizes != info.level_dimensions:
        raise UnsuitableError("its levels are not those that OpenSlide has", suspicious=True)
    return tuple((source.area(factor),) for source, factor in found)


def _is_level(page: tifffile.TiffPage) -> bool:
    """Whether a directory is in focus, and neither the macro image nor a map of the scan."""
    return bool(_value(page, _LENS) > 0 and _value(page, _FOCAL_PLANE) == 0)


def _value(page: tifffile.TiffPage, tag: int) -> Any:
    """The number that a tag is.

    Raises:
        UnsuitableError: It is none, or more.
    """
    values = np.atleast_1d(page.tags.valueof(tag, default=()))
    if len(values) != 1 or values.dtype.kind not in "iuf":
        raise UnsuitableError(f"tag {tag} of a directory is not one number")
    return values.item()


@dataclass(frozen=True, kw_only=True, eq=False)
class RestartTable(TileTable):
    """Tiles of restart intervals.

    Attributes:
        header: The JPEG's, up to its samples, for an image of a tile's width.
        size_at: Where in it the height stands, two bytes.
        mcu_height: Of an interval, pixels of the JPEG.
        stack: Intervals in a tile, one above the other; the last row of tiles may have less.
        starts: (N + 1,) int64, where the intervals are in the file, row by row, and their end.
    """

    header: bytes
    size_at: int
    mcu_height: int
    stack: int
    starts: NDArray[np.int64]

    @property
    def worth_keeping(self) -> int:
        """All that there is room for: a read of a grid is as high as many tiles."""
        return len(self.offsets)

    def stored(self, files: Sequence[int], number: int) -> bytes:
        """Put a tile's intervals together to a JPEG.

        Raises:
            DamagedError: An interval does not end where its table says.
        """
        row, column = divmod(number, self.columns)
        first = row * self.stack * self.columns + column
        intervals = range(first, len(self.starts) - 1, self.columns)[: self.stack]
        jpeg = bytearray(self.header)
        for count, interval in enumerate(intervals):
            begin, end = self.starts.item(interval), self.starts.item(interval + 1)
            samples = os.pread(files[0], end - begin, begin)
            last = interval == len(self.starts) - 2
            if len(samples) < max(end - begin, 2) or samples[-2] != 0xFF:
                raise DamagedError(f"no JPEG marker ends interval {interval}")
            if not last and samples[-1] not in _RESTARTS:
                raise DamagedError(f"no restart marker ends interval {interval}")
            jpeg += samples
            jpeg[-1] = _RESTARTS[count % 8]
        jpeg[-1] = _EOI
        struct.pack_into(">H", jpeg, self.size_at, len(intervals) * self.mcu_height)
        return bytes(jpeg)

    def decoder(self) -> Decode:
        """Make what decodes its tiles; several threads may use it."""

        def decode(stored: bytes, out: RgbImage) -> None:
            height = struct.unpack_from(">H", stored, self.size_at)[0] // self.factor
            filled = out[:height]
            limits: dict[str, float] = {}
            if self.factor > 1:
                limits = {"min_height": height, "min_width": out.shape[1],
                          "min_factor": self.factor}  # fmt: skip
            try:
                rgb = simplejpeg.decode_jpeg(stored, "RGB", strict=True, buffer=filled, **limits)
            except ValueError as error:
                raise DamagedError(str(error)) from error
            if rgb.shape != filled.shape:
                raise DamagedError(f"the image is {rgb.shape}, not {filled.shape}")

        return decode

    def reduced(self, factor: int) -> Self | None:
        """The same tiles at a fraction of their size, down to an eighth of what is stored."""
        return None if self.factor * factor > 8 else super().reduced(factor)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Source:
    """A level that is stored: its size, and that of an interval, in pixels of the JPEG."""

    width: int
    height: int
    tile_width: int
    mcu_height: int
    stack: int
    header: bytes
    size_at: int
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, page: tifffile.TiffPage, file: int) -> Self:
        """Read a directory.

        Raises:
            UnsuitableError: Its JPEG is of another kind, or its table cannot be true.
        """
        if int(page.compression) != _JPEG:
            raise UnsuitableError(f"its compression is {page.compression!r}, not JPEG")
        start, length = _value(page, _OFFSETS), _value(page, _BYTE_COUNTS)
        head = _Head.read(os.pread(file, min(length, _HEADER_BYTES), start))
        size = int(page.imagewidth), int(page.imagelength)
        if not head.interval:
            return cls._whole(head, start, length)
        if head.mcu_height > 8:  # rows of MCUs lend each other colours, so none decodes alone
            raise UnsuitableError("its colours are halved downwards, across restart intervals")
        if max(size) <= MAX_JPEG_PX and (head.width, head.height) != size:
            raise UnsuitableError("a directory and its JPEG differ in size")
        tile_width = head.mcu_width * head.interval
        across, down = size[0] // tile_width, size[1] // head.mcu_height
        if (across * tile_width, down * head.mcu_height) != size or tile_width > MAX_JPEG_PX:
            raise UnsuitableError(
                f"restart intervals of {tile_width} × {head.mcu_height} px do not fill a level of"
                f" {size[0]} × {size[1]}"
            )
        starts = _starts(page, across * down)
        starts[0] = len(head.stored)
        starts = np.append(starts, length) + start
        if (np.diff(starts) < 2).any():
            raise UnsuitableError("its restart markers are not in order", suspicious=True)
        return cls(
            width=size[0], height=size[1], tile_width=tile_width, mcu_height=head.mcu_height,
            stack=STACK_PX // head.mcu_height, header=head.resized(tile_width),
            size_at=head.size_at, starts=starts,
        )  # fmt: skip

    @classmethod
    def _whole(cls, head: "_Head", start: int, length: int) -> Self:
        """A JPEG without restart markers is one interval; its own size is what counts."""
        width, height = head.width, head.height
        if not 0 < width * height <= MAX_WHOLE_PX or max(width, height) > MAX_JPEG_PX:
            raise UnsuitableError(
                f"a level of {width} × {height} px has no restart markers, and would be decoded"
                " whole"
            )
        return cls(
            width=width, height=height, tile_width=width, mcu_height=height, stack=1,
            header=head.resized(width), size_at=head.size_at,
            starts=np.array([start + len(head.stored), start + length]),
        )  # fmt: skip

    def area(self, factor: int) -> Area:
        """Its tiles, decoded to a fraction of their size."""
        columns = self.width // self.tile_width
        rows = self.height // self.mcu_height
        sizes = np.diff(self.starts).reshape(rows, columns)
        tops = np.arange(0, rows, self.stack)
        table = RestartTable(
            width=self.width, height=self.height, tile_width=self.tile_width,
            tile_height=self.mcu_height * self.stack, columns=columns,
            offsets=self.starts[:-1].reshape(rows, columns)[tops].ravel(),
            byte_counts=np.add.reduceat(sizes, tops, axis=0).ravel(),
            preamble=b"", header=self.header, size_at=self.size_at,
            mcu_height=self.mcu_height, stack=self.stack, starts=self.starts,
        )  # fmt: skip
        smaller = table if factor == 1 else table.reduced(factor)
        if smaller is None:
            raise UnsuitableError(f"its tiles do not decode to a {factor}th")
        return Area.whole(smaller)


def _starts(page: tifffile.TiffPage, count: int) -> NDArray[np.int64]:
    """Where the intervals begin, from the start of the JPEG.

    Raises:
        UnsuitableError: No table says so; OpenSlide searches for the markers then.
    """
    low = np.atleast_1d(page.tags.valueof(_STARTS, default=())).astype(np.int64)
    high = np.atleast_1d(page.tags.valueof(_STARTS_HIGH, default=())).astype(np.int64)
    if len(low) != count or len(high) not in (0, count):
        raise UnsuitableError(
            f"{count} restart intervals need a table, and it has {len(low)} entries"
        )
    return low + (high << 32) if len(high) else low


@dataclass(frozen=True, kw_only=True)
class _Head:
    """A JPEG's header, up to its samples; ``interval`` is in MCUs, 0 without restart markers."""

    stored: bytes
    size_at: int
    width: int
    height: int
    mcu_width: int
    mcu_height: int
    interval: int

    @classmethod
    def read(cls, stream: bytes) -> Self:
        """Read the segments before the samples.

        Raises:
            UnsuitableError: It is no JPEG, or neither in colour nor in one scan of Huffman codes.
        """
        at, frame_at, interval = 2, 0, 0
        if stream[:2] != bytes((0xFF, _SOI)):
            raise UnsuitableError("a level does not begin with a JPEG", suspicious=True)
        while at + 4 <= len(stream) and stream[at] == 0xFF:
            marker, end = stream[at + 1], at + 2 + int.from_bytes(stream[at + 2 : at + 4])
            if end > len(stream):
                break
            if marker in _FRAMES:
                frame_at = at if marker in _SEQUENTIAL and end - at >= 19 else -1
            elif marker == _DRI:
                interval = int.from_bytes(stream[at + 4 : at + 6])
            elif marker == _SOS:
                if frame_at <= 0 or stream[frame_at + 9] != 3 or stream[at + 4] != 3:
                    raise UnsuitableError("a level is no JPEG of three colours in one scan")
                return cls._of(stream[:end], frame_at, interval)
            at = end
        raise UnsuitableError("the header of a level's JPEG has no end", suspicious=True)

    @classmethod
    def _of(cls, header: bytes, frame_at: int, interval: int) -> Self:
        height, width = struct.unpack_from(">HH", header, frame_at + 5)
        samplings = header[frame_at + 11 : frame_at + 19 : 3]
        return cls(
            stored=header,
            size_at=frame_at + 5,
            width=width,
            height=height,
            mcu_width=8 * max(each >> 4 for each in samplings),
            mcu_height=8 * max(each & 15 for each in samplings),
            interval=interval,
        )

    def resized(self, width: int) -> bytes:
        """The header of an image of that width; the height is set for each."""
        header = bytearray(self.stored)
        struct.pack_into(">H", header, self.size_at + 2, width)
        return bytes(header)
