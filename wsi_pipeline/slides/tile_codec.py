"""From the stored bytes of one native tile to its pixels."""

import struct
from dataclasses import dataclass

import imagecodecs
import simplejpeg

from wsi_pipeline.slides.codestream import without_finest
from wsi_pipeline.slides.reader import DamagedError
from wsi_pipeline.types import RgbImage

VERSION = f"simplejpeg {simplejpeg.__version__}, imagecodecs {imagecodecs.__version__}"
HEAD_BYTES = 24  # of a JPEG 2000 codestream, up to and with its size
_SOC_SIZ = b"\xff\x4f\xff\x51"  # a codestream's start and, at once, its size
_SOI = b"\xff\xd8"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # APP14 up to its transform byte
_SOS, _EOI = 0xDA, 0xD9


class JpegTiles:
    """Decodes the tiles of one level of a JPEG TIFF, without the GIL.

    The tiles' own application markers are left out, for a JFIF marker would outrank the colour
    transform that the preamble takes from the TIFF. Tiles of a level begin alike up to where their
    samples are, so that is looked through once. Several threads may decode.

    Args:
        preamble: What every tile lacks, see :func:`jpeg_preamble`.
        factor: 1, or 2, 4, 8: decode to that fraction of the size, in the frequency domain.
    """

    def __init__(self, preamble: bytes, factor: int = 1) -> None:
        self._preamble = preamble
        self._factor = factor
        self._last = _Head(stored=b"", whole=b"", size=(0, 0))

    def decode(self, stored: bytes, out: RgbImage) -> None:
        """Decode a tile.

        Args:
            stored: The tile as it is in the file.
            out: (h, w, 3) uint8, contiguous, of the tile's size divided by the factor; undefined
                if it fails.

        Raises:
            DamagedError: The tile is no JPEG, of another size or damaged, be it only so that a
                decoder could go on with grey or shifted blocks.
        """
        head = self._last
        if not head.stored or not stored.startswith(head.stored):
            head = self._last = self._read_head(stored)
        height, width = out.shape[:2]
        _expect((width * self._factor, height * self._factor), *head.size)
        whole = b"".join((head.whole, memoryview(stored)[len(head.stored) :]))
        try:
            if self._factor == 1:
                simplejpeg.decode_jpeg(whole, "RGB", strict=True, buffer=out)
            else:
                simplejpeg.decode_jpeg(
                    whole, "RGB", strict=True, buffer=out, min_height=height, min_width=width,
                    min_factor=self._factor,
                )  # fmt: skip
        except ValueError as error:
            raise DamagedError(str(error)) from error

    def _read_head(self, stored: bytes) -> "_Head":
        kept, end = _without_app_markers(stored)
        whole = self._preamble + kept
        try:
            height, width = simplejpeg.decode_jpeg_header(whole + stored[end:])[:2]
        except ValueError as error:
            raise DamagedError(str(error)) from error
        return _Head(stored=stored[:end], whole=whole, size=(width, height))


@dataclass(frozen=True, kw_only=True)
class _Head:
    """What comes before a tile's samples: as stored, as decoded; the size it tells."""

    stored: bytes
    whole: bytes
    size: tuple[int, int]


def decode_jpeg2000(stored: bytes, out: RgbImage, factor: int = 1) -> None:
    """Decode an RGB JPEG 2000 codestream, without the GIL.

    Args:
        stored: The codestream.
        out: (h, w, 3) uint8, of the tile's size divided by the factor.
        factor: 1, or 2, 4, 8: leave out as many of the finest resolutions.

    Raises:
        DamagedError: The tile is of another size, damaged or not 8-bit RGB; or its resolutions
            cannot be left out.
    """
    expect_jpeg2000(stored, (out.shape[1] * factor, out.shape[0] * factor))
    if factor > 1:
        stored = without_finest(stored, factor.bit_length() - 1)
    try:
        rgb = imagecodecs.jpeg2k_decode(stored)
    except (imagecodecs.Jpeg2kError, RuntimeError, TypeError, MemoryError) as error:
        raise DamagedError(str(error)) from error
    if rgb.dtype != "uint8" or rgb.shape != out.shape:
        raise DamagedError(f"the JPEG 2000 samples are {rgb.dtype} {rgb.shape}, not 8-bit RGB")
    out[...] = rgb


def expect_jpeg2000(stored: bytes, size: tuple[int, int]) -> None:
    """Check that a codestream, of which the first 24 bytes suffice, holds an image of ``size``.

    Raises:
        DamagedError: It is none, or of another size.
    """
    if stored[:4] != _SOC_SIZ or len(stored) < HEAD_BYTES:
        raise DamagedError("the tile is no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack(">4I", stored[8:HEAD_BYTES])
    _expect(size, right - left, bottom - top)


def _expect(size: tuple[int, int], width: int, height: int) -> None:
    if (width, height) != size:
        raise DamagedError(f"the image is {width} × {height}, not {size[0]} × {size[1]}")


def jpeg_preamble(tables: bytes, *, rgb: bool) -> bytes:
    """What makes a tile a JPEG that every decoder shows in the colours the TIFF promises.

    Args:
        tables: The TIFF's shared tables, a JPEG stream without an image; may be empty.
        rgb: Whether the samples are RGB and not YCbCr. Real RGB tiles often carry no colour
            marker, and a decoder then takes them for YCbCr.
    """
    transform = b"\x00" if rgb else b"\x01"
    return _SOI + _ADOBE + transform + without_app_markers(tables)


def without_app_markers(stream: bytes) -> bytes:
    """A JPEG stream behind its start marker, without APPn segments and, if only tables, its end.

    Raises:
        DamagedError: The stream is no JPEG.
    """
    if not stream:
        return b""
    kept, end = _without_app_markers(stream)
    tables_only = stream[end : end + 2] == bytes((0xFF, _EOI))
    return kept if tables_only else kept + stream[end:]


def _without_app_markers(stream: bytes) -> tuple[bytes, int]:
    """The segments behind the start marker without APPn, and where the samples or the end begin."""
    if stream[:2] != _SOI:
        raise DamagedError("a tile does not begin with a JPEG start marker")
    kept = []
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            raise DamagedError(f"a JPEG marker is expected at byte {at} of a tile")
        marker = stream[at + 1]
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if not 0xE0 <= marker <= 0xEF:
            kept.append(stream[at:end])
        at = end
        if marker == _SOS:
            break
    return b"".join(kept), at
