"""Decisions as they are made: each stands in ``qc/decisions.csv`` when the answer comes back."""

from dataclasses import dataclass
from typing import Literal

from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import Decision, read_decisions, write_decisions
from wsi_pipeline.workbench.undoing import held

Place = tuple[int, int] | None


@dataclass(frozen=True)
class Choice:
    """What a person says of a tile, or of a slide where ``place`` is None; undo takes it back."""

    slide_id: str
    place: Place
    choice: Literal["keep", "drop", "undo"]


def decide(folder: RunFolder, asked: Choice) -> None:
    """Write a decision down; people at several screens may do so at once.

    Raises:
        ConfigError: The run folder cannot be written, or somebody holds the table.
        CohortError: The table is damaged.
    """
    with held(folder.lock("qc", "decisions"), folder.decisions):
        rows = list(read_decisions(folder.decisions).rows)
        key = (asked.slide_id, asked.place)
        others = [row for row in rows if (row.slide_id, row.place) != key]
        before = next((row for row in rows if (row.slide_id, row.place) == key), None)
        if asked.choice != "undo":
            reason = before.reason if before is not None else "seen in the workbench"
            others.append(
                Decision(
                    slide_id=asked.slide_id, place=asked.place, choice=asked.choice, reason=reason
                )
            )
        write_decisions(folder.decisions, others)
