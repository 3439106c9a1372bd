"""Where the files of a DICOM slide keep their JPEG or JPEG 2000 frames.

Headers are read by pydicom; the frames' places and offsets, of which there are as many as frames,
are looked for in the bytes themselves.
"""

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.slides.dicom import dicom_files, header_errors, is_dicom, slide_file
from wsi_pipeline.slides.protocol import SlideInfo
from wsi_pipeline.slides.reader import DamagedError, UnsuitableError, raise_own_slip
from wsi_pipeline.slides.tile_codec import jpeg_preamble
from wsi_pipeline.slides.tile_table import TileTable

if TYPE_CHECKING:
    import pydicom

JPEG: Final = "1.2.840.10008.1.2.4.50"  # transfer syntaxes: baseline
JPEG2000: Final = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_TAGS: Final = (
    "SeriesInstanceUID", "SOPInstanceUID", "ImageType", "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows", "Columns", "Rows", "NumberOfFrames", "PhotometricInterpretation",
    "DimensionOrganizationType", "ConcatenationFrameOffsetNumber", "ExtendedOffsetTable",
)  # fmt: skip
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_PIXELS = b"\xe0\x7f\x10\x00"  # (7FE0,0010)
# (0048,021E) and (0048,021F), where a frame lies, as every explicit little-endian header has them
_COLUMN: Final = re.compile(rb"\x48\x00\x1e\x02SL\x04\x00(....)", re.DOTALL)
_ROW: Final = re.compile(rb"\x48\x00\x1f\x02SL\x04\x00(....)", re.DOTALL)
_MOST_PIXELS: Final = 1 << 25  # of a frame
_MOST_FRAMES: Final = 1 << 24  # of a level


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameTable(TileTable):
    """One level's frames; ``offsets`` and ``byte_counts`` are those of their fragments' items.

    Attributes:
        files: (N,) int64, which of the slide's files holds a frame.
    """

    files: NDArray[np.int64]

    def stored(self, files: Sequence[int], number: int) -> bytes:
        file = files[self.files.item(number)]
        return joined(os.pread(file, self.byte_counts.item(number), self.offsets.item(number)))


class Frame(NamedTuple):
    """One that is there: its tile in row-major order, its file, where its items begin and end."""

    tile: int
    file: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One DICOM file: its header, and where its pixel data, or offsets before them, begin."""

    path: Path
    header: "pydicom.Dataset"
    syntax: str
    pixels_at: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of its level."""
        return self.number("TotalPixelMatrixColumns"), self.number("TotalPixelMatrixRows")

    @property
    def colours(self) -> str:
        return str(self.header.get("PhotometricInterpretation"))

    @property
    def frames(self) -> int:
        return self.number("NumberOfFrames", 1, least=1)

    def number(self, name: str, default: int | None = None, least: int = 0) -> int:
        """Return a header's whole number.

        Raises:
            UnsuitableError: It is none, or too small.
        """
        value = self.header.get(name, default)
        if not isinstance(value, int) or value < least:
            raise UnsuitableError(f"its {name} is {value!r}")
        return int(value)

    def is_level(self) -> bool:
        """Whether it is of the pyramid, not a label or an overview."""
        kind = self.header.get("ImageType")
        return isinstance(kind, Sequence) and list(kind[2:3]) == ["VOLUME"]


def read_frame_tables(
    first: Path, level_dimensions: Sequence[tuple[int, int]], *, ycbcr: bool
) -> tuple[list[FrameTable], list[Path]]:
    """Find each level's frames in the series that a file belongs to.

    Args:
        first: One of its files; the others lie beside it.
        level_dimensions: (width, height) of the levels, as OpenSlide found them there.
        ycbcr: Whether frames that are called RGB are YCbCr, see ``holds_mislabelled_ycbcr``.

    Returns:
        The tables, and the files that they number.

    Raises:
        UnsuitableError: A level is not made of 8-bit JPEG or JPEG 2000 frames on a grid, one a
            place, or what the files tell of these cannot be true.
    """
    every = [found for path in dicom_files(first.parent) if (found := read_instance(path))]
    series = next((each.header.get("SeriesInstanceUID") for each in every if each.path == first), 0)
    known = {
        str(each.header.get("SOPInstanceUID")): each  # a file that lies there twice counts once
        for each in every
        if each.header.get("SeriesInstanceUID") == series and each.is_level()
    }
    tables: list[FrameTable] = []
    files: list[Path] = []
    for size in level_dimensions:
        parts = [each for each in known.values() if each.size == size]
        tables.append(_level_table(parts, len(files), ycbcr=ycbcr))
        files += [each.path for each in parts]
    return tables, files


def has_native_frames(path: str | Path, info: SlideInfo) -> bool:
    """Whether a slide is DICOM whose frames are decoded natively; no probe is made."""
    if info.vendor != "dicom":
        return False
    try:
        read_frame_tables(slide_file(Path(path)), info.level_dimensions, ycbcr=False)
    except UnsuitableError:
        return False
    return True


def read_instance(path: Path) -> Instance | None:
    """Read a file's header; None where pydicom cannot."""
    import pydicom

    try:
        with path.open("rb") as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
            pixels_at = file.tell()
        for name in _TAGS:  # converted, and found damaged, only now
            header.get(name)
        syntax = str(header.file_meta.get("TransferSyntaxUID"))
    except header_errors() as error:
        raise_own_slip(error)
        return None
    return Instance(path=path, header=header, syntax=syntax, pixels_at=pixels_at)


def holds_mislabelled_ycbcr(path: Path) -> bool:
    """Whether frames that the DICOM header calls RGB are YCbCr by their own JPEG header.

    Some writers label every frame RGB. A JFIF marker promises YCbCr, and a decoder that
    believes the DICOM header instead shows a red slide.
    """
    instance = read_instance(path) if is_dicom(path) else None
    if instance is None or instance.syntax != JPEG or instance.colours != "RGB":
        return False
    try:
        with path.open("rb") as file:
            start, end = _frame_offsets(file.fileno(), instance)[:2]
            frame = joined(os.pread(file.fileno(), end - start, start))
    except (UnsuitableError, DamagedError, OSError):
        return False
    return frame[6:10] == b"JFIF" and b"Adobe" not in frame[:1024]


def joined(items: bytes) -> bytes:
    """A frame from the items of its fragments, most often a single one.

    Raises:
        DamagedError: They are no items.
    """
    parts, at = [], 0
    while at < len(items) and items[at : at + 4] != _DELIMITER:
        end = at + 8 + int.from_bytes(items[at + 4 : at + 8], "little")
        if items[at : at + 4] != _ITEM or end > len(items):
            raise DamagedError("a DICOM frame is not made of whole items")
        parts.append(items[at + 8 : end])
        at = end
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _level_table(parts: Sequence[Instance], number: int, *, ycbcr: bool) -> FrameTable:
    """Put a level together from its file, or from those of a concatenation, numbered on."""
    kinds = {(p.syntax, p.colours, p.number("Columns"), p.number("Rows")) for p in parts}
    if len(kinds) != 1:
        raise UnsuitableError(f"a level is of {len(kinds)} kinds of frames, not of one")
    syntax, photometric, width, height = kinds.pop()
    if syntax not in (JPEG, *JPEG2000):
        raise UnsuitableError("its frames are neither baseline JPEG nor JPEG 2000")
    if not 0 < width * height <= _MOST_PIXELS:
        raise UnsuitableError(f"its frames are of {width} × {height} pixels")
    whole_width, whole_height = parts[0].size
    columns, rows = -(-whole_width // width), -(-whole_height // height)
    if columns * rows > _MOST_FRAMES:
        raise UnsuitableError(f"it has {columns} × {rows} places for frames")
    frames = [f for i, p in enumerate(parts) for f in _frames_of(p, number + i, columns, rows)]
    tiles = [frame.tile for frame in frames]
    if len(set(tiles)) < len(tiles):
        raise UnsuitableError("there are several frames for one place")
    offsets, byte_counts, files = np.zeros((3, columns * rows), np.int64)
    for frame in frames:
        offsets[frame.tile], byte_counts[frame.tile] = frame.start, frame.end - frame.start
        files[frame.tile] = frame.file
    rgb = photometric == "RGB" and not ycbcr
    return FrameTable(
        width=whole_width, height=whole_height, tile_width=width, tile_height=height,
        columns=columns, offsets=offsets, byte_counts=byte_counts, files=files,
        preamble=jpeg_preamble(b"", rgb=rgb) if syntax == JPEG else None,
    )  # fmt: skip


def _frames_of(instance: Instance, file: int, columns: int, rows: int) -> list[Frame]:
    """Return the frames of one file, numbered ``file``, on the level's grid."""
    with instance.path.open("rb") as opened:
        bounds = _frame_offsets(opened.fileno(), instance)
        head = opened.read(instance.pixels_at)
    x, y = (np.array([_INT.unpack(at)[0] for at in each.findall(head)]) for each in (_COLUMN, _ROW))
    if not len(x) == len(y) in (0, instance.frames):
        raise UnsuitableError(f"of {instance.frames} frames {len(x)} tell where they lie")
    if len(x):
        (column, off_x), (row, off_y) = (
            np.divmod(at - 1, side)
            for at, side in ((x, instance.number("Columns")), (y, instance.number("Rows")))
        )
        off = off_x.any() or off_y.any() or min(column.min(), row.min()) < 0
        if off or column.max() >= columns or row.max() >= rows:
            raise UnsuitableError("its frames do not lie on a grid")
        tiles = row * columns + column
    elif instance.header.get("DimensionOrganizationType") == "TILED_FULL":
        tiles = np.arange(instance.frames) + instance.number("ConcatenationFrameOffsetNumber", 0)
        if tiles[-1] >= columns * rows:
            raise UnsuitableError("it has more frames than places")
    else:
        raise UnsuitableError("it does not tell where its frames lie")
    places = zip(tiles.tolist(), bounds[:-1], bounds[1:], strict=True)
    return [Frame(tile, file, start, end) for tile, start, end in places]


def _frame_offsets(file: int, instance: Instance) -> list[int]:
    """Return where each frame's first item begins, and where the last frame's last one ends.

    They stand in the extended or the basic offset table; where there is none, each frame is one
    fragment, and these are walked through.

    Source: DICOM PS3.5 A.4, PS3.3 C.7.6.3.1.8.
    """
    at, extended = instance.pixels_at, instance.header.get("ExtendedOffsetTable") or b""
    if _read(file, at, 12)[:4] != _PIXELS:
        raise UnsuitableError("it has no pixel data")
    length = _item_length(_read(file, at + 12, 8))
    first = at + 20 + length
    if extended and isinstance(extended, bytes):
        starts = first + _numbers(extended, "<u8", instance.frames)
    elif length:
        _within(length, 4 * instance.frames)
        starts = first + _numbers(_read(file, at + 20, length), "<u4", instance.frames)
    else:
        starts = np.array([first] if instance.frames == 1 else _walk(file, first)[:-1], np.int64)
    if len(starts) != instance.frames or starts[0] != first or (np.diff(starts) <= 0).any():
        raise UnsuitableError("the offsets of its frames cannot be true", suspicious=True)
    return [*starts.tolist(), _walk(file, int(starts[-1]))[-1]]


def _within(length: int, expected: int) -> None:
    if length != expected:
        raise UnsuitableError(
            f"a table of its frames' offsets has {length} bytes, not {expected}", suspicious=True
        )


def _numbers(table: bytes, kind: str, count: int) -> NDArray[np.int64]:
    _within(len(table), np.dtype(kind).itemsize * count)
    return np.frombuffer(table, kind).astype(np.int64)


def _walk(file: int, at: int) -> list[int]:
    """Return where items begin from one on, and where the last one ends."""
    found = [at]
    while (head := _read(file, at, 8))[:4] != _DELIMITER:
        at += 8 + _item_length(head)
        found.append(at)
    return found


def _item_length(head: bytes) -> int:
    if head[:4] != _ITEM:
        raise UnsuitableError("its pixel data are not made of items", suspicious=True)
    return int.from_bytes(head[4:], "little")


def _read(file: int, at: int, size: int) -> bytes:
    found = os.pread(file, size, at)
    if len(found) < size:
        raise UnsuitableError("some frames lie beyond the end of the file", suspicious=True)
    return found


_INT: Final = struct.Struct("<i")
