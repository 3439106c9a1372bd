"""A Leica SCN: a BigTIFF whose XML lays a scanned region on the glass, with an overview."""

from pathlib import Path

import tifffile
from slides_vendor.picture import level_of

NAMESPACE = "http://www.leica-microsystems.com/scn/2010/10/01"


def write_leica(path: Path, mpp: float = 0.5, offset_px: tuple[int, int] = (256, 256)) -> None:
    """Write a region of two levels at ``offset_px`` of a glass of 1,536 × 1,024 px, and a macro."""
    glass = (1536, 1024)
    levels = [level_of(1), level_of(4)]
    macro = level_of(8)
    sizes = [(rgb.shape[1], rgb.shape[0]) for rgb in (macro, *levels)]
    per_cm = 10_000 / mpp
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, rgb in enumerate((macro, *levels)):
            step = (16, 1, 4)[number]
            tiff.write(
                rgb, tile=(256, 256), photometric="rgb", compression="jpeg",
                compressionargs={"level": 95}, metadata=None,
                resolution=(per_cm / step, per_cm / step), resolutionunit="CENTIMETER",
                description=_xml(glass, offset_px, sizes, mpp) if number == 0 else None,
            )  # fmt: skip


def _xml(
    glass: tuple[int, int], offset: tuple[int, int], sizes: list[tuple[int, int]], mpp: float
) -> str:
    """Lengths on the glass are in nanometres."""
    nm = round(mpp * 1000)
    overview = _image(sizes[:1], (glass[0] * nm, glass[1] * nm), (0, 0), 0)
    scan = _image(
        sizes[1:], (sizes[1][0] * nm, sizes[1][1] * nm), (offset[0] * nm, offset[1] * nm), 1
    )
    return (
        f'<?xml version="1.0"?><scn xmlns="{NAMESPACE}"><collection name="c" '
        f'sizeX="{glass[0] * nm}" sizeY="{glass[1] * nm}">{overview}{scan}</collection></scn>'
    )


def _image(
    sizes: list[tuple[int, int]], view: tuple[int, int], offset: tuple[int, int], first: int
) -> str:
    dimensions = "".join(
        f'<dimension sizeX="{width}" sizeY="{height}" r="{number}" ifd="{first + number}"/>'
        for number, (width, height) in enumerate(sizes)
    )
    return (
        f'<image name="i{first}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
        '<device model="Leica SCN400" version="1.4"/>'
        f'<pixels sizeX="{sizes[0][0]}" sizeY="{sizes[0][1]}">{dimensions}</pixels>'
        f'<view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{offset[0]}" offsetY="{offset[1]}"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>"
        "<illuminationSettings><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )
