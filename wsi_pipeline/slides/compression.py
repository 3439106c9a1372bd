"""How a slide's pixels are packed, by name."""

from pathlib import Path

from wsi_pipeline.slides.dicom import dicom_files, header_errors, is_dicom
from wsi_pipeline.slides.tiff_header import COMPRESSIONS, read_directories


def compression_of(path: str | Path, size: tuple[int, int]) -> str | None:
    """Name the compression of level 0, such as ``JPEG 2000 (33005)``; None where it is not known.

    Args:
        path: A slide that opened; URLs are not looked into.
        size: Level-0 (width, height), by which the TIFF directory is told.
    """
    path = Path(path)
    if path.is_dir():
        path = next(iter(dicom_files(path)), path)
    if not path.is_file():
        return None
    directories = read_directories(path)
    for directory in directories:
        if (directory.width, directory.height) == size:
            return COMPRESSIONS.get(directory.compression, str(directory.compression))
    if directories:  # the format stitches level 0 from others
        number = max(directories, key=lambda d: d.width * d.height).compression
        return COMPRESSIONS.get(number, str(number))
    match path.suffix.lower():
        case ".png":
            return "Deflate"
        case ".jpg" | ".jpeg":
            return "JPEG"
    return _transfer_syntax(path) if is_dicom(path) else None


def _transfer_syntax(path: Path) -> str | None:
    from pydicom.filereader import read_file_meta_info

    try:
        return str(read_file_meta_info(path).TransferSyntaxUID.name)
    except header_errors():
        return None
