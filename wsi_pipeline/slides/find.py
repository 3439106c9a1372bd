"""Find the slides in a folder."""

from pathlib import Path

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.slides.dicom import dicom_files, group_series

PYRAMIDS = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".vsi", ".svslide", ".czi")
SUFFIXES = frozenset((*PYRAMIDS, ".tif", ".tiff", ".png", ".jpg", ".jpeg"))


def find_slides(folder: str | Path) -> list[Path]:
    """List the slides below a folder, in a fixed order.

    A folder that holds the files of one DICOM series and nothing else is one slide; in a mixed
    folder each series is named by its first file. Hidden files and the companion folders of
    MIRAX and VSI slides are not looked into.

    Raises:
        SlideOpenError: The folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SlideOpenError(f"{folder}: there is no such folder; check the path to the slides.")
    return sorted(_walk(folder))


def _walk(folder: Path) -> list[Path]:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    slides = [path for path in entries if path.is_file() and path.suffix.lower() in SUFFIXES]
    companions = {_companion(slide) for slide in slides}
    folders = [path for path in entries if path.is_dir() and path not in companions]
    dicom = dicom_files(folder)
    series = group_series(dicom)
    if len(series) == 1 and not slides and not folders:
        return [folder]
    slides += [files[0] for files in series.values()]
    for child in folders:
        slides += _walk(child)
    return slides


def _companion(slide: Path) -> Path | None:
    """The folder in which a slide of this format keeps its pixels."""
    match slide.suffix.lower():
        case ".mrxs":
            return slide.with_suffix("")
        case ".vsi":
            return slide.with_name(f"_{slide.stem}_")
        case _:
            return None
