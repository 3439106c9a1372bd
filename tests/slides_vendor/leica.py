"""A Leica SCN: a BigTIFF whose XML lays scanned regions on the glass, with an overview."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from slides_vendor.picture import PICTURE

from wsi_pipeline.types import RgbImage

NAMESPACE = "http://www.leica-microsystems.com/scn/2010/10/01"
GLASS = (1536, 1024)
Size = tuple[int, int]


def write_leica(
    path: Path,
    mpp: float = 0.5,
    offset_px: Size = (256, 256),
    *,
    regions: Sequence[tuple[Size, RgbImage]] = (),
    glass: Size = GLASS,
    planes: int = 1,
) -> None:
    """Write a macro, and regions of two levels on a glass of so many pixels.

    Args:
        path: The file.
        mpp: µm per pixel.
        offset_px: Where the picture lies, if no regions are given.
        regions: Each a place on the glass in pixels, and its pixels.
        glass: Width and height in pixels of level 0.
        planes: Focal planes of each level, of which the first is the picture.
    """
    regions = regions or [(offset_px, PICTURE)]
    nm = round(mpp * 1000)
    pictures, images = [np.ascontiguousarray(PICTURE[::8, ::8])], []
    images.append(_image([(*_size(pictures[0]), 0, 0)], (0, 0, *glass), nm))
    for (left, top), rgb in regions:
        dimensions = []
        for step in (1, 4):
            for plane in range(planes):
                level = np.ascontiguousarray(rgb[::step, ::step])
                dimensions.append((*_size(level), len(pictures), plane))
                pictures.append(level if plane == 0 else 255 - level)
        images.append(_image(dimensions, (left, top, *_size(rgb)), nm))
    xml = (
        f'<?xml version="1.0"?><scn xmlns="{NAMESPACE}"><collection name="c" '
        f'sizeX="{glass[0] * nm}" sizeY="{glass[1] * nm}">{"".join(images)}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, rgb in enumerate(pictures):
            step = 16 if number == 0 else 1 if (number - 1) // planes % 2 == 0 else 4
            tiff.write(
                rgb, tile=(256, 256), photometric="rgb", compression="jpeg",
                compressionargs={"level": 95}, metadata=None,
                resolution=(10_000 / mpp / step,) * 2, resolutionunit="CENTIMETER",
                description=xml if number == 0 else None,
            )  # fmt: skip


def _size(rgb: RgbImage) -> Size:
    return rgb.shape[1], rgb.shape[0]


def _image(
    dimensions: Sequence[tuple[int, int, int, int]], view_px: tuple[int, int, int, int], nm: int
) -> str:
    """An image's (width, height, directory, focal plane)s; lengths on the glass are in nm."""
    left, top, width, height = (each * nm for each in view_px)
    listed = "".join(
        f'<dimension sizeX="{w}" sizeY="{h}" r="{number}" z="{plane}" ifd="{directory}"/>'
        for number, (w, h, directory, plane) in enumerate(dimensions)
    )
    return (
        f'<image name="i{dimensions[0][2]}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
        '<device model="Leica SCN400" version="1.4"/>'
        f'<pixels sizeX="{dimensions[0][0]}" sizeY="{dimensions[0][1]}">{listed}</pixels>'
        f'<view sizeX="{width}" sizeY="{height}" offsetX="{left}" offsetY="{top}"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>"
        "<illuminationSettings><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )
