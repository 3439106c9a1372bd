"""A 3DHISTECH MIRAX slide: an INI file, an index of pages, and JPEGs one after the other."""

import struct
from pathlib import Path

from slides_vendor.picture import PICTURE, jpeg

SIDE = 256
SLIDE_ID = "0123456789ABCDEF0123456789ABCDEF"


def write_mirax(path: Path, mpp: float = 0.25, origin: tuple[int, int] = (2, 1)) -> None:
    """Write ``path`` (.mrxs) and its folder: a scanned part of 3 × 2 images on an empty glass.

    Args:
        path: Ends in ``.mrxs``.
        mpp: µm per pixel.
        origin: Column and row of the first scanned image on the glass of 8 × 6 images.
    """
    columns, rows = 8, 6
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(jpeg(PICTURE[:64, :64]))
    stored, records = bytearray(SLIDE_ID.encode()), []
    for row in range(2):
        for column in range(3):
            tile = PICTURE[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            packed = jpeg(tile)
            place = (origin[1] + row) * columns + origin[0] + column
            records.append((place, len(stored), len(packed), 0))
            stored += packed
    (folder / "Data0000.dat").write_bytes(stored)
    (folder / "Index.dat").write_bytes(_index(records))
    (folder / "Slidedat.ini").write_text("\ufeff" + _ini(columns, rows, mpp), "utf-8")


def _index(records: list[tuple[int, int, int, int]]) -> bytes:
    """Version, id, two roots; the first leads to a level's list, that to its only page."""
    head = b"01.02" + SLIDE_ID.encode()
    root = len(head) + 8
    listed = root + 4
    page = listed + 8
    body = struct.pack("<iiiiii", root, root, listed, 0, page, len(records)) + struct.pack("<i", 0)
    return head + body + b"".join(struct.pack("<iiii", *record) for record in records)


def _ini(columns: int, rows: int, mpp: float) -> str:
    return f"""[GENERAL]
SLIDE_ID = {SLIDE_ID}
SLIDE_VERSION = 01.02
IMAGENUMBER_X = {columns}
IMAGENUMBER_Y = {rows}
OBJECTIVE_MAGNIFICATION = 40
CameraImageDivisionsPerSide = 1
[HIERARCHICAL]
INDEXFILE = Index.dat
HIER_COUNT = 1
NONHIER_COUNT = 0
HIER_0_NAME = Slide zoom level
HIER_0_SECTION = ZOOM
HIER_0_COUNT = 1
HIER_0_VAL_0 = ZoomLevel_0
HIER_0_VAL_0_SECTION = LEVEL_0
[DATAFILE]
FILE_COUNT = 1
FILE_0 = Data0000.dat
[LEVEL_0]
OVERLAP_X = 0
OVERLAP_Y = 0
MICROMETER_PER_PIXEL_X = {mpp}
MICROMETER_PER_PIXEL_Y = {mpp}
IMAGE_FILL_COLOR_BGR = 16777215
IMAGE_FORMAT = JPEG
IMAGE_CONCAT_FACTOR = 0
DIGITIZER_WIDTH = {SIDE}
DIGITIZER_HEIGHT = {SIDE}
"""
