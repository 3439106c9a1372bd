"""Find the slides in a folder; what lies there and cannot be used is named, and costs itself."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import SlideOpenError
from wsi_pipeline.slides.dicom import dicom_files, group_series, in_order, is_dicom
from wsi_pipeline.slides.open import slide_suffixes
from wsi_pipeline.types import LONGEST_ID, Modality

DICOM_SUFFIXES: Final = (".dcm", ".dicom")
NOT_A_FILE: Final = "is neither a file nor a folder; a slide is one"


@dataclass(frozen=True)
class FoundSlides:
    """Slides below a folder, in a fixed order, and by path why what else is there is none."""

    paths: list[Path] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)


def is_slide_file(path: Path) -> bool:
    """Whether a file is a slide, or would be, by its name or its DICOM signature."""
    return path.suffix.lower() in (*slide_suffixes(), *DICOM_SUFFIXES) or is_dicom(path)


def find_slides(folder: str | Path, modality: Modality = "slide") -> FoundSlides:
    """List the slides below a folder.

    A folder that holds the files of one DICOM series and nothing else is one slide; in a mixed
    folder each series is named by its first file. Hidden files and the companion folders of
    MIRAX and VSI slides are not looked into. Of CT, each file is one slide, and a series' files
    stand in the order of their slices. A folder that cannot be read, a link that leads to
    nothing or back to a folder that was looked into, and a name that no table can hold, or
    that is too long, are problems.

    Raises:
        SlideOpenError: The folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SlideOpenError(f"{folder}: there is no such folder; check the path to the slides.")
    problems: dict[Path, str] = {}
    found = _walk(folder, {}, problems, modality)
    return FoundSlides(found if modality == "ct" else sorted(found), problems)


def printable(path: str | Path) -> str:
    r"""Return a path as text that can be written; bytes that are no UTF-8 as ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace("\n", "\\n")


def _walk(
    folder: Path,
    seen: dict[tuple[int, int], Path],
    problems: dict[Path, str],
    modality: Modality,
) -> list[Path]:
    try:
        about = folder.stat()
        first = seen.setdefault((about.st_dev, about.st_ino), folder)
        if first != folder:
            problems[folder] = f"leads to {printable(first)}, which is looked into already"
            return []
        entries = list(_entries(folder, problems))
        suffixes = slide_suffixes()
        slides = [path for path in entries if path.suffix.lower() in suffixes and path.is_file()]
        companions = {companion_of(slide) for slide in slides}
        folders = [path for path in entries if path.is_dir() and path not in companions]
        series = group_series([path for path in dicom_files(folder) if path in set(entries)])
    except OSError as error:
        problems[folder] = f"cannot be read ({error.strerror})"
        return []
    if modality == "ct":
        slides += [path for files in series.values() for path in in_order(files)]
    elif len(series) == 1 and not slides and not folders:
        return [folder]
    else:
        slides += [files[0] for files in series.values()]
    for child in sorted(folders, key=lambda path: (path.is_symlink(), path)):
        slides += _walk(child, seen, problems, modality)
    return slides


def _entries(folder: Path, problems: dict[Path, str]) -> Iterator[Path]:
    """Yield what a folder holds, but for what is hidden and what can be no slide's name or file."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if problem := _problem(path):
            problems[path] = problem
        elif _can_stand_in_a_table(path.name):
            yield path


def _problem(path: Path) -> str | None:
    is_folder, is_file = path.is_dir(), path.is_file()
    named = path.suffix.lower() in slide_suffixes()
    if not is_folder and not named and not (is_file and is_dicom(path)):
        return None  # no slide
    if not _can_stand_in_a_table(path.name):
        return "has a name that no table can hold (not UTF-8, or with a line break); rename it"
    if len(path.stem.encode()) > LONGEST_ID:
        return f"has a name of more than {LONGEST_ID} bytes, and names are made from it; rename it"
    if is_folder or is_file:
        return None
    return "is a link that leads to nothing" if path.is_symlink() else NOT_A_FILE


def _can_stand_in_a_table(name: str) -> bool:
    return printable(name) == name and "\r" not in name


def companion_of(slide: Path) -> Path | None:
    """The folder in which a slide of this format keeps its pixels."""
    match slide.suffix.lower():
        case ".mrxs":
            return slide.with_suffix("")
        case ".vsi":
            return slide.with_name(f"_{slide.stem}_")
        case _:
            return None
