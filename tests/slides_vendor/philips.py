"""A Philips TIFF: tiled levels whose spacing stands in XML, and whose edges are padded."""

from pathlib import Path

import numpy as np
import tifffile
from slides_vendor.picture import PICTURE, padded

from wsi_pipeline.types import RgbImage

SIDE = 256


def write_philips(
    path: Path, mpp: float = 0.25, levels: int = 3, *, rgb: RgbImage = PICTURE
) -> None:
    """Write ``levels`` levels, each half the one before, padded to whole tiles as the scanner does.

    The true size of a level is known from its spacing alone, as the ratio to level 0.
    """
    with tifffile.TiffWriter(path) as tiff:
        for number in range(levels):
            level = np.ascontiguousarray(rgb[:: 2**number, :: 2**number])
            tiff.write(
                padded(level, SIDE), tile=(SIDE, SIDE), photometric="rgb",
                compression="jpeg", compressionargs={"level": 95}, metadata=None,
                subfiletype=int(number > 0), software="Philips DP v1.0",
                description=_xml(mpp, levels) if number == 0 else f"Level {number}",
            )  # fmt: skip


def _xml(mpp: float, levels: int) -> str:
    spacings = [mpp * 2**number / 1000 for number in range(levels)]
    representations = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{_spacing(spacing)}'
        f"{_number('PIIM_PIXEL_DATA_REPRESENTATION_NUMBER', number)}</DataObject>"
        for number, spacing in enumerate(spacings)
    )
    image = (
        '<DataObject ObjectType="DPScannedImage">'
        '<Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" PMSVR="IString">WSI'
        "</Attribute>"
        f"{_spacing(spacings[0])}"
        '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" '
        f'Element="0x8B01" PMSVR="IDataObjectArray"><Array>{representations}</Array></Attribute>'
        "</DataObject>"
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" '
        f'PMSVR="IDataObjectArray"><Array>{image}</Array></Attribute></DataObject>'
    )


def _spacing(millimetres: float) -> str:
    return (
        '<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" '
        f'PMSVR="IDoubleArray">&quot;{millimetres:.9f}&quot; &quot;{millimetres:.9f}&quot;'
        "</Attribute>"
    )


def _number(name: str, value: int) -> str:
    return (
        f'<Attribute Name="{name}" Group="0x1001" Element="0x8B02" PMSVR="IUInt16">{value}'
        "</Attribute>"
    )
