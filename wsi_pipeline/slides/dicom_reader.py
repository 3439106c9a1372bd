"""DICOM slides with JPEG or JPEG 2000 frames, decoded natively."""

from pathlib import Path

from wsi_pipeline.slides.dicom import is_dicom, slide_file
from wsi_pipeline.slides.dicom_frames import read_frame_tables
from wsi_pipeline.slides.jpeg_tiff import NativeReader
from wsi_pipeline.slides.openslide_reader import MISLABELLED, OpenSlideReader
from wsi_pipeline.slides.reader import UnsuitableError
from wsi_pipeline.slides.tile_table import Area


class DicomReader(NativeReader):
    """A DICOM slide whose frames are decoded natively, see :class:`NativeReader`.

    Args:
        path: One of its files, or the folder that holds them and no other series.
        threads: Frames decoded at a time within one ``read``, if it is a large one.

    Raises:
        SlideOpenError: OpenSlide cannot open it.
        UnsuitableError: It is no DICOM, its frames are of other kinds or not on a grid, or a probe
            differs from OpenSlide's pixels.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        file = slide_file(Path(path))
        if not is_dicom(file):
            raise UnsuitableError("it is no DICOM")
        judge = OpenSlideReader(path)
        try:
            info = judge.info
            tables, files = read_frame_tables(
                file, info.level_dimensions, ycbcr=MISLABELLED in info.properties
            )
        except UnsuitableError:
            judge.close()
            raise
        levels = tuple((Area.whole(table),) for table in tables)
        super().__init__(judge, "dicom", levels, files, threads)
