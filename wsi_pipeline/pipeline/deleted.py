"""Slides whose file was deleted once it was cut: what a run knows of them in the file's place.

``deleted_slides.jsonl`` holds one JSON object a line, appended before the file goes; the last line
of a slide counts, and only while its file is not there.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from wsi_pipeline.inventory import note_there
from wsi_pipeline.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class DeletedSlide:
    """One slide.

    Attributes:
        slide_id: The slide.
        content: Digest of what was downloaded, as its source told it.
        slide_digest: Of the slide's file, as its tile store has it.
        size: In bytes, of all its files.
        empty: Of a slide without tissue, which has no store: digest of what was asked of it.
    """

    slide_id: str
    content: str
    slide_digest: str
    size: int
    empty: str | None = None


def read_deleted(run: RunFolder) -> dict[str, DeletedSlide]:
    """Return the run's deleted slides by id; a line that a killed process left torn is none."""
    try:
        lines = run.deleted_slides.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    found = (_read(line) for line in lines)
    return {slide.slide_id: slide for slide in found if slide is not None}


def _read(line: str) -> DeletedSlide | None:
    try:
        told = json.loads(line)
        return DeletedSlide(**told) if isinstance(told, Mapping) else None
    except (ValueError, TypeError):
        return None


def record_deleted(run: RunFolder, slide: DeletedSlide) -> None:
    """Write down that a slide's file is about to go; on disk when this returns."""
    with run.deleted_slides.open("ab+") as file:
        if file.tell() and _last_byte(file.fileno(), file.tell()) != b"\n":
            file.write(b"\n")
        file.write(json.dumps(asdict(slide)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    note_there(run.deleted_slides, "grows")


def _last_byte(handle: int, size: int) -> bytes:
    return os.pread(handle, 1, size - 1)
