"""A JPEG 2000 codestream without its finest resolutions, for decoders that cannot leave them out.

A codestream that is ordered by resolution holds the picture at half its size in its beginning: with
a header that speaks of that size, and of fewer wavelet levels, it is the half-size picture's own.
What comes behind is not read. So a decoder does the work of the smaller picture only.

Its pixels lie on every second pixel of the larger one, where a mean of two lies between these: a
quarter of a pixel away, which shows in features as a whole grey level does not. :func:`recentred`
takes it back.

Source: ISO/IEC 15444-1, annexes A and B.
"""

import struct
from typing import Final

import cv2
import numpy as np

from wsi_pipeline.slides.reader import DamagedError
from wsi_pipeline.types import RgbImage

_SOC, _SIZ, _COD, _COC = b"\xff\x4f", 0xFF51, 0xFF52, 0xFF53
_QCD, _QCC, _SOT, _SOD, _EOC = 0xFF5C, 0xFF5D, 0xFF90, b"\xff\x93", b"\xff\xd9"
_UNNEEDED: Final = (0xFF55, 0xFF57, 0xFF58, 0xFF63, 0xFF64)  # lengths, registration, comments
_LAYER_FIRST, _BY_RESOLUTION = 0, (1, 2)  # orders of progression
BEFORE, BEHIND = 1, 2  # pixels beside a rectangle that recentring it takes
# Catmull and Rom's cubic at a quarter, three eighths and seven sixteenths of a pixel, in 128ths:
# sums are exact, so that a pixel is the same wherever a rectangle begins
_TAPS: Final = {
    levels: np.array(taps, np.float32) / 128
    for levels, taps in enumerate(((-9, 111, 29, -3), (-9, 93, 50, -6), (-9, 83, 61, -7)), start=1)
}
_SCALAR_DERIVED: Final = 1  # quantization, told of the coarsest band alone


class UnorderedError(DamagedError):
    """A codestream has no smaller picture in its beginning, or is put together in a rare way."""


def without_finest(stream: bytes, levels: int) -> bytes:
    """Return the codestream of the picture at a ``2 ** levels``-th of its size.

    Args:
        stream: Of one tile, whose sides are multiples of that.
        levels: Wavelet levels to leave out.

    Raises:
        DamagedError: It is no whole codestream.
        UnorderedError: It cannot be had so.
    """
    if stream[:2] != _SOC:
        raise DamagedError("the tile is no JPEG 2000 codestream")
    kept, at = [_SOC], 2
    while (marker := _marker(stream, at)) != _SOT:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if marker not in _UNNEEDED:
            segment = _segment(marker, stream[at + 4 : end], levels)
            kept.append(struct.pack(">HH", marker, len(segment) + 2) + segment)
        at = end
    samples = at + 12
    while stream[samples : samples + 2] != _SOD:
        if _marker(stream, samples) not in _UNNEEDED:
            raise UnorderedError("a tile of the codestream is coded in its own way")
        samples += 2 + int.from_bytes(stream[samples + 2 : samples + 4])
    length, part, parts = struct.unpack(">IBB", stream[at + 6 : at + 12])
    whole = at + length if length else len(stream) - len(_EOC)
    if part != 0 or parts > 1 or stream[whole : whole + 2] != _EOC:
        raise UnorderedError("the codestream is of several parts, or ends early")
    tile = stream[at : at + 6] + struct.pack(">IBB", 12 + whole - samples, 0, 1)
    return b"".join((*kept, tile, stream[samples:whole], _EOC))


def recentred(rgb: RgbImage, levels: int) -> RgbImage:
    """Move a picture without its ``levels`` finest resolutions to where the means of pixels lie.

    Args:
        rgb: (h, w, 3) uint8.
        levels: 1 to 3.

    Returns:
        The same shape. Pixels nearer to an edge than ``BEFORE`` and ``BEHIND`` are as if what lies
        beyond were the edge's.
    """
    taps = _TAPS[levels]
    moved = cv2.sepFilter2D(
        rgb, cv2.CV_8U, taps, taps, anchor=(BEFORE, BEFORE), borderType=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved, np.uint8)


def _marker(stream: bytes, at: int) -> int:
    if len(stream) < at + 12 or stream[at] != 0xFF:
        raise DamagedError("the JPEG 2000 codestream ends within its header")
    return int.from_bytes(stream[at : at + 2])


def _segment(marker: int, body: bytes, levels: int) -> bytes:
    """A segment of the main header, as the smaller picture has it."""
    if marker == _SIZ:
        return _smaller(body, levels)
    if marker == _COD:
        order, layers = body[1], int.from_bytes(body[2:4])
        if not (order in _BY_RESOLUTION or (order == _LAYER_FIRST and layers == 1)):
            raise UnorderedError("the codestream is not ordered by resolution")
        return _fewer_levels(body, 5, levels)
    if marker == _COC:
        return _fewer_levels(body, 2, levels)
    if marker in (_QCD, _QCC):
        style = body[0 if marker == _QCD else 1] & 31
        if style == _SCALAR_DERIVED:
            return body
        return body[: len(body) - 3 * levels * (2 if style else 1)]  # three bands a level
    raise UnorderedError(f"the codestream has a segment 0x{marker:x}")


def _smaller(body: bytes, levels: int) -> bytes:
    if len(body) < 36:
        raise DamagedError("the JPEG 2000 codestream does not tell its size")
    width, height, left, top, tile_width, tile_height, *corner = struct.unpack(">8I", body[2:34])
    factor = 2**levels
    single = tile_width >= width and tile_height >= height
    if left or top or any(corner) or not single or width % factor or height % factor:
        raise UnorderedError("the codestream has several tiles, or a size that does not divide")
    size = width // factor, height // factor
    return body[:2] + struct.pack(">8I", *size, 0, 0, *size, 0, 0) + body[34:]


def _fewer_levels(body: bytes, at: int, levels: int) -> bytes:
    """Parameters of the wavelets, from ``at``: their levels, and a size of precincts for each."""
    if len(body) <= at or body[at] < levels:
        raise UnorderedError(f"the codestream has no {levels} resolutions to leave out")
    precincts = body[at + 5 :]
    return body[:at] + bytes([body[at] - levels]) + body[at + 1 : at + 5] + precincts[:-levels]
