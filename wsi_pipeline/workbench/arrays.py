"""Microarrays of a run: their cores as the table has them, corrected one change at a time.

What ``wsi cores`` does by flags is done here by the same functions: :func:`correct` for the grid,
:func:`place_cores` to join a map, :func:`write_reviewed` for the table and its record.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from wsi_pipeline.cohort import MappedCore, safe_id
from wsi_pipeline.errors import CohortError, ConfigError, SlideError, WsiError
from wsi_pipeline.microarray import (
    MARGIN,
    CoreSearch,
    PlacedCore,
    Review,
    doubts_of,
    is_by_hand,
    now,
    picture_cores,
    place_cores,
    place_name,
    put_back,
    read_cores,
    read_map,
    read_review,
    review_of,
    review_path,
    table_digest,
    write_preview,
    write_reviewed,
)
from wsi_pipeline.run_cohort import rows_of
from wsi_pipeline.slides import is_slide_file, slide_digest
from wsi_pipeline.workbench.facts import RunFacts, sentence
from wsi_pipeline.workbench.placing import CoreEdit, edited
from wsi_pipeline.workbench.pyramid import SlideFile
from wsi_pipeline.workbench.undoing import Undoing, between_changes, held

CHANGED: Final = (
    "somebody else has changed the table meanwhile; it is shown as it is now: look, and do it again"
)
FEWEST: Final = 4  # cores from which is told about where a missing one would lie


@dataclass(frozen=True)
class Arrays:
    """The run's tables of cores.

    Attributes:
        facts: The run folder.
        undoing: What was changed in this process.
    """

    facts: RunFacts
    undoing: Undoing = field(default_factory=Undoing)

    def names(self) -> list[str]:
        """Return the slides that have a table of cores."""
        return sorted(path.stem for path in self.facts.folder.cores.glob("[!.]*.csv"))

    def summaries(self) -> list[dict[str, Any]]:
        """Return of each how many cores it has, and whether somebody must look."""
        found = []
        for name in self.names():
            try:
                with between_changes(self.facts.folder.lock("cores", name)):
                    told = self._state(name)
                used = sum(core.region is not None and not core.status for core in told.cores)
                found.append({"id": name, "cores": used, "unsure": bool(told.doubts)})
            except WsiError as error:
                found.append({"id": name, "failure": sentence(error)})
        return found

    def told(self, name: str) -> dict[str, Any]:
        """Return a table as the page shows it.

        Raises:
            CohortError: There is none, or it is damaged.
        """
        if name not in self.names():
            raise CohortError(f"{name}: the run has no table of its cores")
        with between_changes(self.facts.folder.lock("cores", name)):
            state, table = self._state(name), table_digest(self._table(name))
            undo = self.undoing.last(*self._files(name))
        places = _expected(state.cores)
        return {
            "id": name,
            "cores": [_row(core, place) for core, place in zip(state.cores, places, strict=True)],
            "margin": MARGIN,
            "doubts": list(state.doubts),
            "accepted": None if state.review is None else state.review.accepted,
            "orientation": "" if state.review is None else state.review.orientation,
            "table": table,
            "undo": undo,
        }

    def change(self, name: str, edit: CoreEdit) -> None:
        """Change a table, which stands on disk when this returns.

        Raises:
            CohortError: The table, or what is asked of it, is wrong.
            ConfigError: The run folder cannot be written, or somebody changed the table.
            SlideError: The slide is not the one that the table was made from.
        """
        with self._held(name):
            state = self._state(name)
            if edit.do == "grid" and edit.table != table_digest(self._table(name)):
                raise ConfigError(f"{name}: {CHANGED}")
            cores = edited(state.cores, edit)
            review = self._review(name, state)
            if edit.do == "accept":
                review = replace(review, accepted=now())
            with self.undoing.noting(_said(edit), *self._files(name)):
                write_reviewed(self._table(name), cores, review)

    def undo(self, name: str) -> None:
        """Take the last change back.

        Raises:
            ConfigError: There is none, or somebody changed the table since.
        """
        with self._held(name):
            text, record = self.undoing.take_back(*self._files(name))
            put_back(
                self._table(name),
                (text or b"").decode(),  # a change is of a table that is there
                None if record is None else record.decode(),
            )

    def join(self, name: str, map_name: str, text: str) -> None:
        """Find the cores anew and join them with a core map, as ``wsi cores --map --overwrite``.

        Raises:
            CohortError: It is no core map.
            SlideError: The slide is not at hand, or no cores are found on it.
        """
        file = self.file_of(name)
        if isinstance(file, str):
            raise SlideError(file)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{safe_id(Path(map_name).stem)}.csv"
            path.write_text(text, "utf-8")
            try:
                mapped = read_map(path)
            except CohortError as error:
                raise CohortError(str(error).replace(f"{path}", map_name)) from None
        row = self._row_of(name)
        search = CoreSearch(reader=file.reader, mpp_override=None if row is None else row.mpp)
        found = place_cores(file.path, mapped, search)
        with (
            self._held(name),
            self.undoing.noting(f"joined {map_name}", *self._files(name)),
        ):
            review = review_of(file.path, mapped, found.doubts, found)
            write_reviewed(self._table(name), found.cores, review)

    def redraw(self, name: str) -> None:
        """Draw the picture beside the table anew; one of a slide not at hand stays as it is."""
        with between_changes(self.facts.folder.lock("cores", name)):
            file, cores = self.file_of(name), read_cores(self._table(name))
        if isinstance(file, SlideFile):
            picture = picture_cores(file.path, cores, file.reader)
            write_preview(self._table(name).with_suffix(".jpg"), picture)

    def file_of(self, name: str) -> SlideFile | str:
        """Return a microarray's file, or a sentence why it cannot be shown.

        The run's table has the cores in its place; where it has none yet, as somebody must look at
        them first, the file is looked for beside the others' and known by its digest.
        """
        row = self._row_of(name)
        found = None if row is None else row.locate(self.facts.slides)
        if found is not None and ("://" in str(found) or Path(found).exists()):
            return SlideFile(str(found))
        review = read_review(self._table(name))
        for path in self._candidates(name):
            if review is None or review.slide == slide_digest(path):
                return SlideFile(str(path))
        return f"the slide {name} is not at hand; name its folder with --slides"

    def _candidates(self, name: str) -> list[Path]:
        rows = rows_of(self.facts.folder)
        folders = {Path(row.root) for row in rows if row.root is not None}
        folders |= {self.facts.slides} if self.facts.slides is not None else set()
        found = [path for folder in sorted(folders) for path in folder.glob(f"{name}.*")]
        return [path for path in found if is_slide_file(path)]

    def _row_of(self, name: str) -> Any:
        ids = {core.mapped.core_id for core in read_cores(self._table(name))}
        rows = rows_of(self.facts.folder)
        return next((row for row in rows if row.region is not None and row.slide_id in ids), None)

    def _review(self, name: str, state: "_State") -> Review:
        """The record that a changed table gets: it is in doubt as long as it was."""
        if state.review is not None:
            by_hand = is_by_hand(self._table(name), state.review)
            vouched = state.review.accepted or (now() if by_hand else None)
            file = self.file_of(name)
            if isinstance(file, SlideFile) and state.review.slide != slide_digest(file.path):
                raise SlideError(f"{file.path}: not the file that the table was made from")
            return replace(state.review, accepted=vouched)
        file = self.file_of(name)
        if isinstance(file, str):
            raise SlideError(file)
        return Review(slide=slide_digest(file.path), map=None, accepted=now())

    def _state(self, name: str) -> "_State":
        table = self._table(name)
        review = read_review(table)
        return _State(read_cores(table), review, doubts_of(table, review))

    def _table(self, name: str) -> Path:
        return self.facts.folder.cores_table(name)

    def _files(self, name: str) -> tuple[Path, Path]:
        return self._table(name), review_path(self._table(name))

    def _held(self, name: str) -> Any:
        return held(self.facts.folder.lock("cores", name), self._table(name))


@dataclass(frozen=True)
class _State:
    cores: list[PlacedCore]
    review: Review | None
    doubts: tuple[str, ...]


def _row(core: PlacedCore, place: tuple[float, float] | None) -> dict[str, Any]:
    mapped, region = core.mapped, core.region
    return {
        "id": mapped.core_id,
        "place": place_name(mapped) if mapped.core_id else "",
        "patient": mapped.patient_id,
        "label": mapped.label,
        "control": core.control,
        "status": core.status,
        "box": None if region is None else [region.x, region.y, region.width, region.height],
        "about": place,
        "tissue": core.tissue,
        "certainty": core.certainty,
    }


def _expected(cores: Sequence[PlacedCore]) -> list[tuple[float, float] | None]:
    """Say about where missing cores would lie: beside those of the rows and columns around."""
    known = [(c.grid or _cell(c.mapped), c.region) for c in cores]
    seen = [(cell, r) for cell, r in known if cell is not None and r is not None]
    if len(seen) < FEWEST:
        return [None] * len(cores)
    cells = np.array([cell for cell, _ in seen], np.float64)
    middles = np.array([(r.x + r.width / 2, r.y + r.height / 2) for _, r in seen])
    design = np.column_stack([np.ones(len(cells)), cells])
    found: list[tuple[float, float] | None] = []
    for cell, region in known:
        if cell is None or region is not None:
            found.append(None)
            continue
        weight = 1 / (1 + ((cells - cell) ** 2).sum(axis=1, keepdims=True))
        plane = np.linalg.lstsq(design * weight, middles * weight, rcond=None)[0]
        x, y = (np.array([1.0, *cell]) @ plane).tolist()
        found.append((x, y))
    return found


def _cell(mapped: MappedCore) -> tuple[int, int] | None:
    """Row and column of a table that does not tell the grid's, where they are plain."""
    if len(mapped.row) == 1 and mapped.row.isalpha() and mapped.column.isdecimal():
        return ord(mapped.row.upper()) - ord("A"), int(mapped.column) - 1
    if mapped.row.isdecimal() and mapped.column.isdecimal():
        return int(mapped.row) - 1, int(mapped.column) - 1
    return None


def _said(edit: CoreEdit) -> str:
    what = edit.core or ("the grid" if edit.do == "grid" else "a spot")
    return f"{edit.do} {what}" if edit.do not in ("grid", "accept") else edit.do
