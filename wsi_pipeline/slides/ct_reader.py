"""One slice of a CT as a flat grey picture: Hounsfield units through a window.

Not slide microscopy, and opened only when asked for: studies that combine both preprocess CT with
the same steps.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import apply_rescale

from wsi_pipeline.errors import SlideOpenError, SlideReadError
from wsi_pipeline.slides.dicom import dicom_files, header_errors, is_dicom, slice_position
from wsi_pipeline.slides.protocol import SlideInfo
from wsi_pipeline.slides.reader import SlideReader, raise_own_slip, reason
from wsi_pipeline.slides.tiff_header import MAX_TILE_PX
from wsi_pipeline.types import Region, RgbImage

SOFT_TISSUE: Final = (40.0, 400.0)  # centre and width, HU; the abdomen's usual window


class CtReader(SlideReader):
    """A CT slice, (h, w, 3) uint8: black at the window's lower edge and below, white at its upper.

    The window is the file's first, or that of soft tissue. The physical pixel size, near
    0.7 mm, is kept among the properties; as a resolution of a slide it would be refused.

    Raises:
        SlideOpenError: The file is no single CT slice.
    """

    def __init__(self, path: str | Path, _threads: int = 1) -> None:
        file = _slice_file(Path(path))
        try:
            header = pydicom.dcmread(file)
            self._check(path, header)
            self._window, source = _window(header)
            units = np.asarray(apply_rescale(header.pixel_array, header), np.float64)
        except header_errors() as error:
            if isinstance(error, SlideOpenError):
                raise
            raise_own_slip(error)
            raise SlideOpenError(
                f"{path}: this CT slice cannot be decoded ({reason(error)}); fetch it again."
            ) from error
        self.hounsfield: NDArray[np.float64] = units
        self.info = _describe(str(path), header, units.shape)
        self.info.properties.update(
            {
                "ct.window-centre": f"{self._window[0]:g}",
                "ct.window-width": f"{self._window[1]:g}",
                "ct.window-source": source,
            }
        )

    def read_inside(self, _level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        grey = window(self.hounsfield[y : y + height, x : x + width], *self._window)
        return np.repeat(grey[..., None], 3, axis=2)

    def read_associated(self, _name: str) -> RgbImage:
        raise SlideReadError(f"{self.info.path}: a CT slice has no associated images.")

    def close(self) -> None:
        self.hounsfield = np.empty((0, 0))

    @staticmethod
    def _check(path: str | Path, header: pydicom.Dataset) -> None:
        modality = header.get("Modality", "unknown")
        if modality != "CT":
            raise SlideOpenError(
                f"{path}: this is DICOM of modality {modality}, not CT; leave --modality ct out."
            )
        if int(header.get("NumberOfFrames", 1)) != 1:
            raise SlideOpenError(f"{path}: it holds several CT slices; save each in its own file.")
        if int(header.Rows) * int(header.Columns) > MAX_TILE_PX:
            raise SlideOpenError(
                f"{path}: it says {header.Columns} × {header.Rows} px, which no CT has;"
                " fetch it again."
            )


def window(hounsfield: NDArray[np.float64], centre: float, width: float) -> NDArray[np.uint8]:
    """Map Hounsfield units to grey.

    Source: DICOM PS3.3 C.11.2.1.2.1, the LINEAR function.
    """
    low, span = centre - 0.5 - (width - 1) / 2, max(width - 1, 1e-6)
    return np.rint(np.clip((hounsfield - low) / span, 0, 1) * 255).astype(np.uint8)


def _slice_file(path: Path) -> Path:
    if path.is_dir():
        files = dicom_files(path)
        if len(files) != 1:
            raise SlideOpenError(
                f"{path}: this folder holds {len(files)} DICOM files; name one CT slice, or give"
                " the folder in the place of the cohort table to have each of them cut."
            )
        return files[0]
    if not is_dicom(path):
        raise SlideOpenError(f"{path}: it is no DICOM file; leave --modality ct out.")
    return path


def _window(header: pydicom.Dataset) -> tuple[tuple[float, float], str]:
    """The first window of the file, (centre, width) in HU, and whose it is: all of it, or none."""
    values = []
    for name in ("WindowCenter", "WindowWidth"):
        value = header.get(name)
        if isinstance(value, pydicom.multival.MultiValue):
            value = value[0] if len(value) else None
        values.append(None if value is None else float(value))
    centre, width = values
    if centre is None or width is None or width < 1:
        return SOFT_TISSUE, "soft tissue"
    return (centre, width), "file"


def _describe(path: str, header: pydicom.Dataset, shape: tuple[int, ...]) -> SlideInfo:
    height, width = shape
    spacing = header.get("PixelSpacing")
    properties = {
        "dicom.Modality": "CT",
        "dicom.RescaleSlope": str(header.get("RescaleSlope", 1)),
        "dicom.RescaleIntercept": str(header.get("RescaleIntercept", 0)),
    }
    told = {
        "ct.slice-position-mm": slice_position(header),
        "ct.instance-number": header.get("InstanceNumber"),
        "ct.series": header.get("SeriesInstanceUID"),
    }
    properties |= {name: f"{value}" for name, value in told.items() if value is not None}
    if spacing is not None:
        properties["ct.pixel-spacing-mm"] = " ".join(str(value) for value in spacing)
    return SlideInfo(
        path=path,
        reader="ct",
        reader_version=pydicom.__version__,
        vendor="dicom-ct",
        level_dimensions=((width, height),),
        level_downsamples=(1.0,),
        mpp_x=None,
        mpp_y=None,
        mpp_source=None,
        objective_power=None,
        bounds=Region(x=0, y=0, width=width, height=height),
        properties=properties,
        associated=(),
    )
