"""From the stored bytes of one native tile to its pixels."""

import struct
from itertools import pairwise

import imagecodecs
import simplejpeg

from wsi_pipeline.types import RgbImage

VERSION = f"simplejpeg {simplejpeg.__version__}, imagecodecs {imagecodecs.__version__}"
HEAD_BYTES = 24  # of a JPEG 2000 codestream, up to and with its size
_SOC_SIZ = b"\xff\x4f\xff\x51"  # a codestream's start and, at once, its size
_SOI = b"\xff\xd8"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # APP14 up to its transform byte
_SOS, _EOI = 0xDA, 0xD9


def decode_jpeg(stored: bytes, preamble: bytes, size: tuple[int, int]) -> RgbImage:
    """Decode a tile of a JPEG TIFF of ``size`` (width, height), (h, w, 3) uint8, without the GIL.

    The tile's own application markers are left out, for a JFIF marker would outrank the colour
    transform that the preamble takes from the TIFF.

    Raises:
        ValueError: The tile is no JPEG or damaged, be it only so that a decoder could go on
            with grey or shifted blocks.
    """
    whole = preamble + without_app_markers(stored)
    height, width = simplejpeg.decode_jpeg_header(whole)[:2]
    _expect(size, width, height)  # before memory is taken for what it says
    rgb: RgbImage = simplejpeg.decode_jpeg(whole, "RGB", strict=True)
    return rgb


def decode_jpeg2000(stored: bytes, size: tuple[int, int]) -> RgbImage:
    """Decode an RGB JPEG 2000 codestream of ``size`` (width, height), without the GIL.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ValueError: The tile is damaged or not 8-bit RGB.
    """
    expect_jpeg2000(stored, size)
    try:
        rgb: RgbImage = imagecodecs.jpeg2k_decode(stored)
    except (imagecodecs.Jpeg2kError, RuntimeError, TypeError, MemoryError) as error:
        raise ValueError(str(error)) from error
    if rgb.dtype != "uint8":
        raise ValueError(f"the JPEG 2000 samples are {rgb.dtype}")
    return rgb


def expect_jpeg2000(stored: bytes, size: tuple[int, int]) -> None:
    """Check that a codestream, of which the first 24 bytes suffice, holds an image of ``size``.

    Raises:
        ValueError: It is none, or of another size.
    """
    if stored[:4] != _SOC_SIZ or len(stored) < HEAD_BYTES:
        raise ValueError("the tile is no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack(">4I", stored[8:HEAD_BYTES])
    _expect(size, right - left, bottom - top)


def _expect(size: tuple[int, int], width: int, height: int) -> None:
    if (width, height) != size:
        raise ValueError(f"the image is {width} × {height}, not {size[0]} × {size[1]}")


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
        ValueError: The stream is no JPEG.
    """
    if not stream:
        return b""
    if stream[:2] != _SOI:
        raise ValueError("a tile does not begin with a JPEG start marker")
    cuts = [2]  # alternately where a kept stretch begins and ends
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            raise ValueError(f"a JPEG marker is expected at byte {at} of a tile")
        marker = stream[at + 1]
        if marker == _SOS:
            break
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if 0xE0 <= marker <= 0xEF:
            cuts += [at, end]
        at = end
    tables_only = stream[at : at + 2] == bytes((0xFF, _EOI))
    cuts.append(at if tables_only else len(stream))
    return b"".join(stream[a:b] for k, (a, b) in enumerate(pairwise(cuts)) if k % 2 == 0)
