"""Change a TIFF's tags in place."""

import struct
from pathlib import Path


def set_tag(path: Path, tag: int, value: int, directory: int = 0) -> None:
    """Write a 32-bit value over a tag of a classic little-endian TIFF."""
    data = bytearray(path.read_bytes())
    offset = struct.unpack_from("<I", data, 4)[0]
    for _ in range(directory):
        offset = struct.unpack_from("<I", data, offset + 2 + 12 * data[offset])[0]
    for at in range(offset + 2, offset + 2 + 12 * data[offset], 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<HII", data, at + 2, 4, 1, value)
            path.write_bytes(data)
            return
    raise AssertionError(tag)
