"""DICOM files: which of them are slides, and which belong together.

pydicom is imported where a header is read: most slides are not DICOM, and it is slow to import.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.slides.reader import library_errors, raise_own_slip

if TYPE_CHECKING:
    import pydicom

_TAGS = (
    "Modality",
    "SeriesInstanceUID",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "NumberOfOpticalPaths",
)
_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the orientation of a slice that names none


def is_dicom(path: Path) -> bool:
    """Whether a file carries the DICOM signature behind its 128-byte preamble."""
    try:
        with path.open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, by name; hidden files are skipped."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.is_file() and is_dicom(path)
    ]


def group_series(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the series they belong to; one whose header is unreadable is its own series."""
    series: dict[str, list[Path]] = {}
    for path in paths:
        header = _header(path)
        uid = str(header.get("SeriesInstanceUID", path.name)) if header else path.name
        series.setdefault(uid, []).append(path)
    return series


def in_order(paths: Sequence[Path]) -> list[Path]:
    """The slices of a series by their position along its normal, where all of them tell one.

    Else by instance number, where all have one, else by name.

    Source: DICOM PS3.3 C.7.6.2.1.1, the image plane's position and orientation.
    """
    headers = [_header(path) for path in paths]
    numbers = [None if header is None else header.get("InstanceNumber") for header in headers]
    places = [None if header is None else slice_position(header) for header in headers]
    numbered = None not in numbers

    def key(index: int) -> tuple[float, float, str]:
        place, number = places[index], numbers[index]
        return (
            0.0 if place is None or None in places else place,
            0.0 if number is None or not numbered else float(number),
            paths[index].name,
        )

    return [paths[index] for index in sorted(range(len(paths)), key=key)]


def slice_position(header: "pydicom.Dataset") -> float | None:
    """A slice's position along its own normal, mm; None where the header tells none."""
    position = header.get("ImagePositionPatient")
    if position is None or len(position) != 3:
        return None
    orientation = header.get("ImageOrientationPatient")
    if orientation is None or len(orientation) != 6:
        orientation = _AXIAL
    row, column = np.array(orientation, float).reshape(2, 3)
    return float(np.cross(row, column) @ np.array(position, float))


def slide_file(path: Path) -> Path:
    """The file that OpenSlide opens: the path itself, or for a folder its DICOM slide's first.

    Raises:
        SlideOpenError: The folder holds no DICOM slide, or several; the file is DICOM, but
            another kind of image, or one of several channels.
    """
    if not path.is_dir():
        if is_dicom(path):
            _refuse_other_kinds(path, path)
        return path
    files = dicom_files(path)
    if not files:
        raise SlideOpenError(
            f"{path}: this folder holds no DICOM files; name a slide file, or a folder with one"
            " DICOM slide."
        )
    series = group_series(files)
    if len(series) > 1:
        raise SlideOpenError(
            f"{path}: this folder holds {len(series)} DICOM series; name one file of the slide"
            f" you mean, for example {next(iter(series.values()))[0].name}."
        )
    _refuse_other_kinds(files[0], path)
    return files[0]


def ycbcr_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert (h, w, 3 or 4) YCbCr to RGB in place with libjpeg's integer arithmetic; alpha stays.

    Source: JFIF 1.02, fixed point of 16 bits as in libjpeg.
    """
    luma = pixels[..., 0].astype(np.int16)
    cb, cr = pixels[..., 1], pixels[..., 2]
    green = luma + ((_CB_GREEN[cb] + _CR_GREEN[cr]) >> 16).astype(np.int16)
    red, blue = luma + _CR_RED[cr], luma + _CB_BLUE[cb]
    for channel, value in enumerate((red, green, blue)):
        np.clip(value, 0, 255, out=value)
        pixels[..., channel] = value
    return pixels


_CHROMA = np.arange(256, dtype=np.int32) - 128
_CR_RED = ((91881 * _CHROMA + 32768) >> 16).astype(np.int16)
_CB_BLUE = ((116130 * _CHROMA + 32768) >> 16).astype(np.int16)
_CB_GREEN = -22554 * _CHROMA + 32768
_CR_GREEN = -46802 * _CHROMA


def header_errors() -> tuple[type[Exception], ...]:
    """What pydicom raises on a header that it cannot make sense of."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*library_errors(), InvalidDicomError, BytesLengthException)


def _refuse_other_kinds(file: Path, named: Path) -> None:
    header = _header(file)
    modality = str(header.get("Modality", "")) if header else ""
    if modality != "SM":
        advice = ", or read it as a flat picture with --modality ct" if modality == "CT" else ""
        raise SlideOpenError(
            f"{named}: this is DICOM of modality {modality or 'unknown'}, not slide microscopy"
            f" (SM); leave it out{advice}."
        )
    paths = header.get("NumberOfOpticalPaths") if header else None
    if isinstance(paths, int) and paths > 1:
        raise SlideOpenError(
            f"{named}: this is DICOM with {paths} optical paths (channels), of which only the first"
            " would be shown; write the one that is meant, in RGB, to a file of its own."
        )


def _header(path: Path) -> "pydicom.Dataset | None":
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        for name in _TAGS:  # converted, and found damaged, only now
            header.get(name)
    except header_errors() as error:
        raise_own_slip(error)
        return None
    return header
