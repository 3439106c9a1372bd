"""Readers beside the models: what is compared, what a case costs, and the tables of it."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from wsi_pipeline import learn
from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cohort import READING, CohortSlide
from wsi_pipeline.errors import CohortError
from wsi_pipeline.events import SlideDone, StageResumed, StageStarted
from wsi_pipeline.journal import read_journal
from wsi_pipeline.learn import Ranged, ReaderResult
from wsi_pipeline.registry import unknown
from wsi_pipeline.reporting.bundles import BundleRead
from wsi_pipeline.reporting.data import Costs, ReadPart
from wsi_pipeline.tables import read_table, to_csv

HELD_OUT: Final = ("test", "external")
NOT_A_CLASS: Final = "none"
WORKED: Final = ("tile", "extract", "predict")  # what a slide goes through to be judged
COLUMNS: Final = (
    "model", "split", "reader", "what", "of", "value", "low", "high", "slides", "patients", "p",
    "promised", "verdict",
)  # fmt: skip
JSON: Final = "readers.json"
TABLE: Final = "readers.csv"


def add_readings(cohort: Sequence[CohortSlide], path: Path) -> list[CohortSlide]:
    """Return the slides with the readings of a table: ``slide_id`` and the readers' columns.

    Raises:
        CohortError: A column or a slide is not known.
    """
    table = read_table(path, ("slide_id",), ids=("slide_id",))
    known = {row.slide_id: row for row in cohort}
    for name in table.columns:
        if name != "slide_id" and not READING.fullmatch(name):
            raise CohortError(
                f"{path}: column {name!r} is none of slide_id, reader_<name>, seconds_<name>, "
                "either also with _with_model"
            )
    for row in table:
        slide_id = row.cells["slide_id"]
        if slide_id not in known:
            raise CohortError(f"{path}: line {row.line}: {unknown('slide', slide_id, [*known])}")
        said = {name: text for name, text in row.cells.items() if name != "slide_id" and text}
        merged = dict(known[slide_id].readings) | said
        known[slide_id] = replace(known[slide_id], readings=tuple(merged.items()))
    return list(known.values())


def compare_all(
    cohort: Sequence[CohortSlide], bundles: Sequence[BundleRead], promised: float
) -> tuple[ReadPart, ...]:
    """Hold readers against each model on its held-out slides; empty where nobody read any.

    Raises:
        LearnError: A reader's word is no class, or a time no number.
    """
    readings = learn.readings_of(cohort)
    rows = {row.slide_id: row for row in cohort}
    parts = []
    for bundle in bundles:
        classes = bundle.report.classes
        for split in HELD_OUT if readings else ():
            judged = [
                learn.JudgedSlide(
                    slide_id=slide_id,
                    patient_id=rows[slide_id].patient_id or slide_id,
                    truth=found.truth,
                    predicted=found.label,
                )
                for slide_id, found in bundle.predictions.items()
                if found.split == split and found.truth is not None and slide_id in rows
            ]
            labels = _labels(cohort, bundle)
            results = learn.compare_readers(
                readings, judged, classes, label_map=labels, promised=promised
            )
            if results:
                parts.append(
                    ReadPart(bundle=bundle.report.name, split=split, results=tuple(results))
                )
    return tuple(parts)


def machine_seconds(journal: Path) -> dict[str, float]:
    """Return the seconds a slide takes in each stage, by the clock, as the journal has it.

    From a stage's start in a call to its last slide, over the slides done; several slides at once
    count as the time that they took together.
    """
    spent: defaultdict[str, float] = defaultdict(float)
    done: defaultdict[str, int] = defaultdict(int)
    now: dict[str, str] = {}
    last: dict[tuple[str, str], float] = {}
    for entry in read_journal(journal):
        at = entry.time.timestamp()
        if isinstance(entry.event, StageStarted | StageResumed):
            stage = entry.event.stage
            now[entry.call] = stage
            last[entry.call, stage] = at
        elif isinstance(entry.event, SlideDone) and entry.call in now:
            stage = now[entry.call]
            spent[stage] += at - last[entry.call, stage]
            done[stage] += 1
            last[entry.call, stage] = at
    return {stage: spent[stage] / done[stage] for stage in WORKED if done[stage]}


def write_readers(folder: Path, parts: Sequence[ReadPart], costs: Costs) -> None:
    """Write ``readers.json`` and ``readers.csv``; without readers, remove what is there."""
    if not parts:
        for name in (JSON, TABLE):
            (folder / name).unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for part in parts for result in part.results for row in _rows(part, result, costs)]
    write_json(folder / JSON, {"costs": asdict(costs), "parts": [_plain(part) for part in parts]})
    write_text(folder / TABLE, to_csv(COLUMNS, rows))


def cost_rows(result: ReaderResult, costs: Costs) -> Iterator[tuple[str, float, float | None]]:
    """Yield how a case is read, its seconds and its cost, alone and with the model."""
    for name, with_model in (("alone", False), ("with model", True)):
        found = result.seconds.get(name)
        if found is not None and found.value is not None:
            yield name, found.value, costs.of_case(found.value, with_model=with_model)


def _rows(part: ReadPart, result: ReaderResult, costs: Costs) -> Iterator[list[Any]]:
    who = [part.bundle, part.split, result.reader]
    for name, found in result.accuracy.items():
        yield [*who, "accuracy", name, *_cells(found), None, None, None]
    for gain in result.gains:
        pair = f"{gain.first} less {gain.second}"
        told = [gain.p, gain.promised, gain.verdict]
        yield [*who, "gain in accuracy", pair, *_cells(gain.difference), *told]
    for name, found in result.seconds.items():
        yield [*who, "seconds a case", name, *_cells(found), None, None, None]
    for name, _, cost in cost_rows(result, costs):
        yield [*who, "cost a case", name, cost, *[None] * 7]


def _cells(found: Ranged) -> list[Any]:
    return [found.value, found.low, found.high, found.slides, found.patients]


def _plain(part: ReadPart) -> Any:
    return json.loads(json.dumps(asdict(part)))


def _labels(cohort: Sequence[CohortSlide], bundle: BundleRead) -> dict[str, str]:
    """Return the task's class of each label in the table; of one that it leaves out, ``none``."""
    column = bundle.settings.get("label_column", "label")
    made = bundle.settings.get("label_map") or {}
    found = {getattr(row, column) for row in cohort} - {None}
    classes = {label: made.get(label, label) for label in found}
    known = bundle.report.classes
    return {label: name if name in known else NOT_A_CLASS for label, name in classes.items()}
