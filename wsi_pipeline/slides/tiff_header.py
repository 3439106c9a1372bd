"""The directories of a TIFF, read without trusting them, before a decoder does.

The libraries beneath allocate what a header asks for; some end the process when they cannot. So a
header that no slide can have is found here first, in a few small reads.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.slides.mpp import is_ome

MAX_SIDE_PX: Final = 4_000_000  # 200 mm at 0.05 µm/px
MIN_TILE_PX: Final = 8  # OpenSlide divides by the size of a tile in whole JPEG blocks
MAX_TILE_PX: Final = 1 << 26  # 256 MB as RGBA
MAX_STRIP_PX: Final = 1 << 28  # of an image in strips; the flat-picture reader has less
MAX_PX_PER_BYTE: Final = 2_000  # empty tiles packed by Deflate have 344
SURELY_SMALL_PX: Final = 1 << 27  # less than this is no bomb, however well it is packed
MAX_SHAPE_DIFFERENCE: Final = 0.1  # of two levels' width to height, beyond rounding
MAX_OVERHEAD_BYTES: Final = 1 << 16  # of a stored tile, above the pixels it holds
MAX_SAMPLES: Final = 4
MAX_DIRECTORIES: Final = 4096
COMPRESSIONS: Final = {
    1: "none",
    5: "LZW",
    6: "old JPEG",
    7: "JPEG",
    8: "Deflate",
    22610: "JPEG XR",
    32773: "PackBits",
    32946: "Deflate",
    33003: "JPEG 2000 (33003)",
    33005: "JPEG 2000 (33005)",
    34712: "JPEG 2000",
    34887: "LERC",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
_ALPHA: Final = ((1,), (2,))  # of ExtraSamples: associated, unassociated
_COLOURS: Final = (2, 6)  # of Photometric: RGB, YCbCr
_LAB: Final = (8, 9, 10)
_UNSIGNED: Final = (1, 4)  # of SampleFormat; 4 is "not said"
_MASK: Final = 4  # the bit of NewSubfileType
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION = 254, 256, 257, 258, 259
_PHOTOMETRIC, _DESCRIPTION, _EXTRA, _FORMAT = 262, 270, 338, 339
_SAMPLES, _STRIP_BYTES, _TILE_BYTES = 277, 279, 325
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT, _SUBIFDS, _ICC = 278, 322, 323, 330, 34675
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1, 13: 4, 16: 8, 18: 8}  # bytes of a value, by field type
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_TILES = 1 << 20  # whose sizes are looked at
_MAX_TEXT = 1 << 22  # bytes read of a description or profile


@dataclass(frozen=True, kw_only=True)
class TiffDirectory:
    """What one directory says.

    Attributes:
        width, height: Pixels.
        tiled: It is in tiles, not in strips.
        tile_width, tile_height: Of a native tile; 0 when the image is in strips.
        rows_per_strip: 0 when it is in tiles.
        compression: TIFF number, see ``COMPRESSIONS``.
        samples: Per pixel.
        bits: Of a sample.
        sample_format: TIFF number; 1 are unsigned integers.
        photometric: TIFF number of what samples mean; 2 is RGB.
        extra: TIFF numbers of what those samples mean that are no colour.
        mask: It is a mask of another.
        tiles: How many tiles or strips are listed.
        largest_bytes: Stored bytes of the largest tile or strip.
        description: The start of ImageDescription.
        icc: The ICC profile, empty if there is none.
        reduced: It hangs below another directory (SubIFDs), as OME-TIFF keeps its pyramids.
    """

    width: int
    height: int
    tiled: bool
    tile_width: int
    tile_height: int
    rows_per_strip: int
    compression: int
    samples: int
    bits: int
    sample_format: int
    photometric: int
    extra: tuple[int, ...]
    mask: bool
    tiles: int
    largest_bytes: int
    description: str
    icc: bytes
    reduced: bool


class _Layout:
    """Byte order and widths of classic TIFF, BigTIFF and NDPI (classic with long offsets)."""

    def __init__(self, head: bytes, size: int, *, long_offsets: bool) -> None:
        self.size = size
        self.order = "<" if head[:2] == b"II" else ">"
        self.big = struct.unpack(self.order + "H", head[2:4])[0] == 43
        self.count, self.entry = ("Q", 20) if self.big else ("H", 12)
        self.offset = "Q" if self.big or long_offsets else "I"
        self.first_at = 8 if self.big else 4

    def number(self, code: str, data: bytes) -> int:
        return int(struct.unpack(self.order + code, data)[0])


class _CircleError(Exception):
    """A directory is its own successor."""


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins so is a TIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_directories(path: Path) -> tuple[TiffDirectory, ...]:
    """Read the directories of a TIFF as far as they can be followed; none if it is no TIFF.

    Raises:
        SlideOpenError: They go round in a circle.
        OSError: The file cannot be read.
    """
    status = path.stat()
    return _directories(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)  # opening a slide asks for them from several sides
def _directories(path: Path, size: int, _modified_ns: int) -> tuple[TiffDirectory, ...]:
    with path.open("rb") as file:
        head = file.read(16)
        if len(head) < 8 or not is_tiff(head):
            return ()
        layout = _Layout(head, size, long_offsets=path.suffix.lower() == ".ndpi")
        try:
            return tuple(_walk(file, layout, head))
        except _CircleError:
            raise SlideOpenError(
                f"{path}: its header is damaged or hostile, for its directories go round in a"
                " circle; fetch the file again."
            ) from None


def hides_levels(path: Path) -> bool:
    """Whether it is an OME-TIFF with its pyramid in SubIFDs, of which OpenSlide sees level 0."""
    directories = read_directories(path)
    return any(d.reduced for d in directories) and is_ome(directories[0].description)


def check_tiff(path: Path) -> None:
    """Refuse a TIFF whose header asks for more than a slide can have.

    Raises:
        SlideOpenError: Sizes that no scanner makes, or far more pixels than the bytes can hold;
            or pixels that are no colours, whatever the libraries show for them.
    """
    size = path.stat().st_size
    directories = read_directories(path)
    if directories:
        foreign = _foreign(_largest(directories))
        if foreign:
            raise SlideOpenError(f"{path}: {foreign}; convert it to 8-bit RGB first.")
    for directory in directories:
        problem = _impossible(directory, size)
        if problem:
            raise SlideOpenError(
                f"{path}: its header is damaged or hostile, for {problem}; fetch the file again."
            )
        if directory.samples > MAX_SAMPLES:
            raise SlideOpenError(
                f"{path}: it has {directory.samples} channels, and slides in colour have 3;"
                " convert it to 8-bit RGB first."
            )
        strip = directory.width * min(directory.rows_per_strip, directory.height)
        if strip > MAX_STRIP_PX and path.suffix.lower() != ".ndpi":  # those decode in parts
            raise SlideOpenError(
                f"{path}: it is stored in strips of {strip // 1_000_000} megapixels, which must be"
                " decoded whole; convert it to a pyramidal TIFF."
            )


def check_planes(path: Path) -> None:
    """Refuse a TIFF with several pictures of full size, of which a library would show the first.

    Raises:
        SlideOpenError: It has channels, focal planes or points in time that lie apart.
    """
    directories = read_directories(path)
    if not directories:
        return
    main = _largest(directories)
    planes = sum(_kind(each) == _kind(main) for each in directories if not each.mask)
    if planes > 1:
        raise SlideOpenError(
            f"{path}: it holds {planes} pictures of {main.width} × {main.height} px (channels that"
            " lie apart, focal planes or points in time); write the one that is meant, in RGB, to a"
            " file of its own (raw2ometiff does with --rgb), or name the tiffslide reader, which"
            " takes three planes for red, green and blue."
        )


def _kind(directory: TiffDirectory) -> tuple[int, ...]:
    """What two planes of one picture have in common."""
    size = directory.width, directory.height
    return (*size, directory.samples, directory.bits, directory.photometric)


def _largest(directories: Sequence[TiffDirectory]) -> TiffDirectory:
    return max(directories, key=lambda each: each.width * each.height)


def _foreign(directory: TiffDirectory) -> str:
    """Say why pixels are no colours; empty where they may be."""
    if directory.sample_format not in _UNSIGNED:
        return "its pixels are signed or floating-point numbers, not colours"
    if directory.bits > 8 and directory.samples == 1:
        return f"its pixels are {directory.bits}-bit grey, not 8-bit colours"
    if directory.photometric in _LAB:
        return "its pixels are in CIE L*a*b*, not in RGB"
    fourth = directory.photometric in _COLOURS and directory.samples == MAX_SAMPLES
    if fourth and directory.extra[:1] not in _ALPHA:
        return "it has a fourth channel that is not said to be alpha"
    return ""


def check_levels(path: str | Path, level_dimensions: tuple[tuple[int, int], ...]) -> None:
    """Refuse a slide larger than any glass, and levels that do not show the same.

    Raises:
        SlideOpenError: As said.
    """
    width, height = level_dimensions[0]
    if not 0 < width <= MAX_SIDE_PX or not 0 < height <= MAX_SIDE_PX:
        raise SlideOpenError(
            f"{path}: its header says {width} × {height} px, which no slide has"
            f" (at most {MAX_SIDE_PX} a side); fetch the file again."
        )
    for across, down in level_dimensions[1:]:
        if min(across, down) < 1 or not _same_shape((width, height), (across, down)):
            raise SlideOpenError(
                f"{path}: its levels are of different shapes ({width} × {height} and"
                f" {across} × {down} px), so they are not one picture; fetch the file again."
            )


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    ratio = one[0] * other[1] / (one[1] * other[0])
    return abs(ratio - 1) <= MAX_SHAPE_DIFFERENCE + 2 / min(other)  # some round to whole tiles


def _impossible(directory: TiffDirectory, size: int) -> str:
    width, height = directory.width, directory.height
    if not 0 < min(width, height) <= max(width, height) <= MAX_SIDE_PX:
        return f"it says {width} × {height} px, which no slide has"
    if directory.tiled and min(directory.tile_width, directory.tile_height) < MIN_TILE_PX:
        return f"it says tiles of {directory.tile_width} × {directory.tile_height} px"
    if directory.tile_width * directory.tile_height > MAX_TILE_PX:
        return f"it says tiles of {directory.tile_width} × {directory.tile_height} px"
    if directory.tiled:
        needed = -(-width // directory.tile_width) * -(-height // directory.tile_height)
        if directory.tiles < needed:
            return f"of the {needed} tiles of {width} × {height} px it lists {directory.tiles}"
        if directory.tiles not in (needed, needed * directory.samples):  # colours may lie apart
            return f"it lists {directory.tiles} tiles, and {width} × {height} px have {needed}"
    rows = min(directory.rows_per_strip, height)
    unpacked = directory.tile_width * directory.tile_height or width * rows
    unpacked *= 4 * 2  # samples of 16 bit, at most
    if directory.largest_bytes > unpacked * 1.25 + MAX_OVERHEAD_BYTES:
        return f"a tile takes {directory.largest_bytes} bytes, more than its pixels do"
    if width * height > SURELY_SMALL_PX and width * height > size * MAX_PX_PER_BYTE:
        return f"{size} bytes cannot hold the {width} × {height} px it says"
    return ""


def _walk(file: BinaryIO, layout: _Layout, head: bytes) -> Iterator[TiffDirectory]:
    width = struct.calcsize(layout.offset)
    first = layout.number(layout.offset, head.ljust(16)[layout.first_at : layout.first_at + width])
    waiting = [(first, False)]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_DIRECTORIES:
        offset, reduced = waiting.pop()
        if offset in seen and not reduced:
            raise _CircleError
        if offset in seen or not 0 < offset < layout.size - 8:
            continue
        seen.add(offset)
        entries, following = _entries(file, layout, offset)
        if not reduced:
            waiting.append((following, False))
        waiting += [(at, True) for at in _values(file, layout, entries.get(_SUBIFDS), 64)]
        yield _directory(file, layout, entries, reduced)


def _entries(
    file: BinaryIO, layout: _Layout, offset: int
) -> tuple[dict[int, tuple[int, int, bytes]], int]:
    """A directory's entries, tag → (type, count, value or its offset), and the next's offset."""
    file.seek(offset)
    number = layout.number(layout.count, file.read(struct.calcsize(layout.count)))
    number = min(number, 4096)
    data = file.read(number * layout.entry)
    entries = {}
    for at in range(0, len(data) - layout.entry + 1, layout.entry):
        tag, kind = struct.unpack(layout.order + "HH", data[at : at + 4])
        middle = at + 4 + (8 if layout.big else 4)
        count = layout.number("Q" if layout.big else "I", data[at + 4 : middle])
        entries[tag] = (kind, count, data[middle : at + layout.entry])
    following = file.read(struct.calcsize(layout.offset))
    if len(following) < struct.calcsize(layout.offset):
        return entries, 0
    return entries, layout.number(layout.offset, following)


def _bytes(
    file: BinaryIO, layout: _Layout, entry: tuple[int, int, bytes] | None, most: int
) -> bytes:
    if entry is None or entry[0] not in _SIZES:
        return b""
    kind, count, value = entry
    length = min(count * _SIZES[kind], most)
    if count * _SIZES[kind] <= len(value):
        return value[:length]
    offset = layout.number("Q" if layout.big else "I", value)
    if offset >= layout.size:
        return b""
    file.seek(offset)
    return file.read(length)


def _values(
    file: BinaryIO, layout: _Layout, entry: tuple[int, int, bytes] | None, most: int = 1
) -> tuple[int, ...]:
    """The first whole numbers of an entry; none if it is absent or of another type."""
    if entry is None or entry[0] not in _FORMATS:
        return ()
    width = _SIZES[entry[0]]
    data = _bytes(file, layout, entry, most * width)
    count = len(data) // width
    return struct.unpack(f"{layout.order}{count}{_FORMATS[entry[0]]}", data[: count * width])


def _directory(
    file: BinaryIO, layout: _Layout, entries: dict[int, tuple[int, int, bytes]], reduced: bool
) -> TiffDirectory:
    def one(tag: int, default: int = 0) -> int:
        return next(iter(_values(file, layout, entries.get(tag))), default)

    tiled = _TILE_WIDTH in entries or _TILE_HEIGHT in entries
    sizes = _TILE_BYTES if tiled else _STRIP_BYTES
    text = _bytes(file, layout, entries.get(_DESCRIPTION), _MAX_TEXT)
    return TiffDirectory(
        width=one(_WIDTH),
        height=one(_HEIGHT),
        tile_width=one(_TILE_WIDTH),
        tile_height=one(_TILE_HEIGHT),
        tiled=tiled,
        rows_per_strip=0 if tiled else one(_ROWS_PER_STRIP, one(_HEIGHT)),
        compression=one(_COMPRESSION, 1),
        samples=one(_SAMPLES, 1),
        bits=one(_BITS, 1),
        sample_format=one(_FORMAT, 1),
        photometric=one(_PHOTOMETRIC, 1),
        extra=_values(file, layout, entries.get(_EXTRA), MAX_SAMPLES),
        mask=bool(one(_SUBFILE) & _MASK),
        tiles=entries[sizes][1] if sizes in entries else 0,
        largest_bytes=max(_values(file, layout, entries.get(sizes), _MAX_TILES), default=0),
        description=text.split(b"\0", 1)[0].decode("utf-8", "replace"),
        icc=_bytes(file, layout, entries.get(_ICC), _MAX_TEXT),
        reduced=reduced,
    )
