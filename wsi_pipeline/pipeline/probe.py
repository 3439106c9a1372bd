"""Probe the stored features of several encoders on the same patients; nothing is trained or kept.

Each encoder's slides become one vector each, and :mod:`learn.probe` judges them fold by fold. The
external cohort stays sealed: none of its features is read.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline import learn
from wsi_pipeline.atomic import write_text
from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.errors import ConfigError, LearnError, WsiError, named
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    StageStarted,
    Written,
)
from wsi_pipeline.features import find_features
from wsi_pipeline.learn import SplitSettings, TaskSettings
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tables import to_csv

FOLDS: Final = 5  # where neither the plan nor a flag says


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What is probed: ``encoders`` of ``run`` (all that have features if empty), and how."""

    run: Path
    encoders: Sequence[str]
    task: TaskSettings
    split: SplitSettings
    dry_run: bool = False


def probe(asked: Probing) -> Iterator[Event]:
    """Write ``comparison/probe.csv`` and ``probe.md`` in the run folder.

    An encoder whose features cannot be read is named and costs no other one.

    Raises:
        CohortError: The run folder's cohort table is unusable.
        LearnError: The slides cannot be dealt into folds.
        StoreError: There are no features of an encoder.
    """
    folder = RunFolder(asked.run)
    names = asked.encoders or sorted(p.name for p in folder.features.glob("*") if p.is_dir())
    if not names:
        raise ConfigError(f"{folder.features}: no features there; extract or import some first")
    stores = {
        found.name: found for name in names if (found := find_features(folder.features, name))
    }
    yield StageStarted(stage="compare", total=len(stores), unit="encoders")
    slides, notes = _shared_slides(asked, stores)
    yield from (Note(text=text) for text in notes)
    if asked.dry_run:
        patients = len({slide.patient_id for slide in slides})
        for name in stores:
            yield Planned(row={"encoder": name, "slides": len(slides), "patients": patients})
        return
    folds = learn.draw_splits(slides, asked.split)
    rows: list[dict[str, str]] = []
    for name, path in stores.items():
        began = time.monotonic()
        try:
            vectors = mean_features(path, folds[0])
        except WsiError as error:
            yield SlideFailed(slide_id=name, error=str(error))
            continue
        classes = sorted({slide.label for slide in slides})
        bootstrap = learn.Bootstrap(seed=asked.split.seed)
        for probed in learn.probe_features(vectors, folds, classes, bootstrap):
            rows.append(_row(name, probed))
            yield Note(text=_said(name, probed))
        yield SlideDone(slide_id=name, counts={}, flags=(), seconds=time.monotonic() - began)
    if rows:
        yield from _write(folder, rows)


def mean_features(stores: Path, slides: learn.Splits) -> NDArray[np.float32]:
    """Return the mean feature of each slide, (n, D) float32; one bag is in memory at a time.

    Raises:
        LearnError: Features differ in width, or are not all finite.
        StoreError: A store is unreadable.
    """
    source = learn.FeatureFolder(stores, slides, cache_bytes=0)
    means = [source.bag(slide.slide_id).features.mean(0) for slide in slides]
    learn.shared_settings(source.prepared())
    return np.stack(means)


def _shared_slides(
    asked: Probing, stores: Mapping[str, Path]
) -> tuple[learn.Splits, tuple[str, ...]]:
    """Return the internal slides that all encoders have features of, and what is left out."""
    cohort = tuple(read_cohort(RunFolder(asked.run).cohort))
    material = learn.from_features(cohort, asked.run, next(iter(stores.values())),
                                   asked.split.external)  # fmt: skip
    material = learn.pose(material, asked.task)
    rows = list(material.cohort)
    if asked.split.groups is not None:
        rows = list(learn.join_patients(rows, learn.read_groups(asked.split.groups)))
    known, _ = learn.seal_external(learn.labelled(rows), asked.split.external)
    lacking = {
        slide_id
        for path in stores.values()
        for slide_id in learn.FeatureFolder(path, known).missing()
    }
    kept = tuple(slide for slide in known if slide.slide_id not in lacking)
    if not kept:
        raise LearnError(
            f"{asked.run}: no slide has features of {named(list(stores))}; extract all encoders "
            "on the same slides, or name some with --only"
        )
    notes = list(material.notes)
    if lacking:
        notes.append(
            f"{len(lacking)} of {len(known)} slides lack features of an encoder and are left out "
            f"({named(sorted(lacking))})"
        )
    return kept, tuple(notes)


def _row(encoder: str, found: learn.Probed) -> dict[str, str]:
    row = {"encoder": encoder, "probe": found.probe, "slides": str(found.slides),
           "patients": str(found.patients)}  # fmt: skip
    for name, value in found.measures.items():
        for end in ("value", "low", "high"):
            number = getattr(value, end)
            column = name if end == "value" else f"{name}_{end}"
            row[column] = "" if number is None else f"{number:.4f}"
    return row


def _said(encoder: str, found: learn.Probed) -> str:
    figures = ", ".join(
        f"{name.replace('_', ' ')} {_figure(value)}" for name, value in found.measures.items()
    )
    return f"{encoder}, {found.probe}: {figures}"


def _figure(value: learn.Estimate) -> str:
    if value.value is None:
        return "–"
    between = "" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.value:.3f}{between}"


def _write(folder: RunFolder, rows: Sequence[Mapping[str, str]]) -> Iterator[Event]:
    columns = list(rows[0])
    target = folder.comparison
    write_text(target.probe, to_csv(columns, ([row[name] for name in columns] for row in rows)))
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    write_text(target.probe_markdown, "".join(f"| {' | '.join(line)} |\n" for line in lines))
    yield Written(path=str(target.probe), what="probes of the encoders")
