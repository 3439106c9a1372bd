"""DICOM whole slide images as different writers put them down, of one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

from wsi_pipeline.types import RgbImage


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How a writer stores a slide.

    Attributes:
        photometric: What the header calls the colours.
        subsampling: Of JPEG's chroma; None for JPEG 2000.
        lossless: JPEG 2000's reversible transform.
        tile: (width, height) of a frame.
        sparse: Frames tell their places, lie shuffled, and some are left out.
        offsets: Which table leads to them: ``basic``, ``extended`` or ``none``.
        fragments: Of each frame.
        parts: Files that level 0 is spread over, a concatenation.
    """

    name: str
    photometric: str = "YBR_FULL_422"
    subsampling: str | None = "422"
    lossless: bool = False
    tile: tuple[int, int] = (256, 256)
    sparse: bool = False
    offsets: str = "basic"
    fragments: int = 1
    parts: int = 1

    @property
    def syntax(self) -> UID:
        if self.subsampling is not None:
            return JPEGBaseline8Bit
        return JPEG2000Lossless if self.lossless else JPEG2000


def write_dicom(folder: Path, writer: Writer, rgb: RgbImage, factors: Sequence[int]) -> Path:
    """Write a folder with a slide of one level a factor; returns the folder."""
    folder.mkdir()
    series = generate_uid()
    for level, factor in enumerate(factors):
        size = rgb.shape[1] // factor, rgb.shape[0] // factor
        pixels = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        frames, places = _frames(pixels, writer)
        parts = writer.parts if level == 0 else 1
        whole, first = generate_uid(), 0
        for part, own in enumerate(np.array_split(np.arange(len(frames)), parts)):
            path = folder / f"level-{level}-part-{part}.dcm"
            data = _header(path, writer, size, series)
            _measure(data, 0.00025 * factor)
            if parts > 1:
                data.ConcatenationUID, data.InConcatenationNumber = whole, part + 1
                data.InConcatenationTotalNumber = parts
                data.ConcatenationFrameOffsetNumber = first
            if writer.sparse:
                data.PerFrameFunctionalGroupsSequence = Items(_place(*places[i]) for i in own)
            _put(data, [frames[i] for i in own], writer)
            data.save_as(path, enforce_file_format=True)
            first += len(own)
    return folder


def _frames(pixels: RgbImage, writer: Writer) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Encode the frames, and tell where their corners lie."""
    width, height = writer.tile
    places = [
        (x, y) for y in range(0, pixels.shape[0], height) for x in range(0, pixels.shape[1], width)
    ]
    if writer.sparse:
        order = np.random.default_rng(5).permutation(len(places))
        places = [places[i] for i in order if i % 5 != 3]
    return [_encode(_cut(pixels, x, y, width, height), writer) for x, y in places], places


def _cut(pixels: RgbImage, x: int, y: int, width: int, height: int) -> RgbImage:
    part = pixels[y : y + height, x : x + width]
    pad = ((0, height - part.shape[0]), (0, width - part.shape[1]), (0, 0))
    return np.pad(part, pad, mode="edge")


def _encode(tile: RgbImage, writer: Writer) -> bytes:
    if writer.subsampling is None:
        return bytes(
            imagecodecs.jpeg2k_encode(
                tile, level=0 if writer.lossless else 40, codecformat="J2K",
                reversible=writer.lossless, mct=writer.photometric != "RGB",
            )
        )  # fmt: skip
    colours = "RGB" if writer.photometric == "RGB" else "YCBCR"
    return bytes(
        imagecodecs.jpeg8_encode(
            tile, level=85, colorspace="RGB", outcolorspace=colours, subsampling=writer.subsampling
        )
    )


def _header(path: Path, writer: Writer, size: tuple[int, int], series: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = writer.syntax
    data = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    data.SeriesInstanceUID, data.Modality = series, "SM"
    data.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    data.SamplesPerPixel, data.PlanarConfiguration = 3, 0
    data.PhotometricInterpretation = writer.photometric
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelRepresentation = 0
    data.Columns, data.Rows = writer.tile
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = size
    data.TotalPixelMatrixFocalPlanes = 1
    data.DimensionOrganizationType = "TILED_SPARSE" if writer.sparse else "TILED_FULL"
    return data


def _measure(data: Dataset, millimetres: float) -> None:
    measures, group = Dataset(), Dataset()
    measures.PixelSpacing = [millimetres, millimetres]
    group.PixelMeasuresSequence = Items([measures])
    data.SharedFunctionalGroupsSequence = Items([group])


def _place(x: int, y: int) -> Dataset:
    position, frame = Dataset(), Dataset()
    position.ColumnPositionInTotalImagePixelMatrix = x + 1
    position.RowPositionInTotalImagePixelMatrix = y + 1
    frame.PlanePositionSlideSequence = Items([position])
    return frame


def _put(data: Dataset, frames: list[bytes], writer: Writer) -> None:
    data.NumberOfFrames = len(frames)
    if writer.offsets == "extended":
        data.PixelData, data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = (
            encapsulate_extended(frames)
        )
    else:
        data.PixelData = encapsulate(
            frames, fragments_per_frame=writer.fragments, has_bot=writer.offsets == "basic"
        )
    data["PixelData"].is_undefined_length = True
