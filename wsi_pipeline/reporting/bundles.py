"""Trained and fine-tuned models of a run folder, as a report shows them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from wsi_pipeline import learn
from wsi_pipeline.errors import LearnError
from wsi_pipeline.reporting.data import (
    Drift,
    Evaluation,
    Facts,
    Failure,
    Measure,
    ModelDifference,
    ModelRecord,
    ModelReport,
    PartCount,
    Prediction,
    Scores,
    SetsRow,
    TrainingCurve,
)
from wsi_pipeline.run_folder import BundleFile, RunFolder
from wsi_pipeline.tables import read_table

Row = Mapping[str, str]
PARTS: Final = ("train", "val", "test", "external")
TRAINING: Final = "train"  # the stage that makes bundles …
TUNING: Final = "finetune"  # … and the one that makes encoders with a classifier on them


@dataclass(frozen=True, kw_only=True)
class BundleRead:
    """One bundle as a report shows it.

    Attributes:
        report: Its figures.
        predictions: What its primary model says, by slide.
        splits: Where its slides were, by slide.
        facts: Settings, versions and digests.
        settings: What the model was trained with.
    """

    report: ModelReport
    predictions: Mapping[str, Prediction]
    splits: Mapping[str, str]
    facts: Facts
    settings: Mapping[str, Any]


def read_bundles(run: Path) -> tuple[list[BundleRead], list[Failure]]:
    """Read every model below ``models`` and ``finetuned``; one that is not whole is a failure."""
    whole, broken = [], []
    folders = [(folder, TRAINING, read_bundle) for folder in RunFolder(run).bundles()]
    folders += [(folder, TUNING, read_finetuned) for folder in RunFolder(run).finetuned_models()]
    for folder, stage, read in folders:
        try:
            whole.append(read(folder))
        except LearnError as error:
            name = f"{folder.parent.name}/{folder.name}"
            broken.append(Failure(slide_id=name, stage=stage, reason=str(error)))
    return whole, broken


@dataclass(frozen=True, kw_only=True)
class _Described:
    """What ``config.json`` says of a model, as far as a report shows it; ``shown`` is all of it."""

    name: str
    encoder: str
    primary: str
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    shown: Mapping[str, Any]


def read_bundle(folder: Path) -> BundleRead:
    """Read one bundle; the weights are not touched.

    Raises:
        LearnError: A file is missing or damaged, or something is missing in it.
    """
    config = learn.read_bundle_config(folder)
    return _read(
        folder,
        _Described(
            name=config.name,
            encoder=config.encoder,
            primary=config.primary,
            classes=config.classes,
            settings=config.settings,
            shown=asdict(config),
        ),
    )


def read_finetuned(folder: Path) -> BundleRead:
    """Read one fine-tuned encoder with its classifier; the weights are not touched.

    Raises:
        LearnError: A file is missing or damaged, or something is missing in it.
    """
    try:
        found = json.loads((folder / BundleFile.CONFIG).read_text("utf-8"))
        figures = json.loads((folder / BundleFile.METRICS).read_text("utf-8"))
        about = _Described(
            name=f"{found['name']} (fine-tuned)",  # features may have a model of the same name
            encoder=found["encoder"],
            primary=figures["primary"],
            classes=tuple(found["classes"]),
            settings=found["settings"],
            shown=found,
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise LearnError(f"{folder}: not a whole fine-tuned model ({error}); tune again") from error
    return _read(folder, about)


def _read(folder: Path, config: _Described) -> BundleRead:
    splits = learn.read_splits(folder / BundleFile.SPLITS)
    rows = _rows(folder / BundleFile.PREDICTIONS)
    figures = learn.read_figures(folder)
    try:
        return BundleRead(
            report=ModelReport(
                name=config.name,
                encoder=config.encoder,
                primary=config.primary,
                classes=config.classes,
                evaluations=tuple(
                    _evaluation(e, config.classes, rows) for e in figures.evaluations
                ),
                curves=_curves(_rows(folder / BundleFile.HISTORY)),
                notes=figures.notes,
                random_weights=".random" in config.encoder,
                differences=tuple(_differences(figures.differences)),
                drift=_drift(figures.drift),
                sets=tuple(_sets(figures.sets, config.primary)),
                task=_task(config.settings),
                record=_record(config, splits, figures.scheduled),
            ),
            predictions=_predictions(rows, config, figures),
            splits={slide.slide_id: slide.split for slide in splits},
            facts=_facts(config),
            settings=config.settings,
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise LearnError(f"{folder}: not a whole model bundle ({error}); train it again") from error


def _predictions(
    rows: Sequence[Row], config: _Described, figures: learn.Figures
) -> dict[str, Prediction]:
    """What the primary model says of each slide, and the set of classes that it cannot exclude."""
    lack = figures.lack(config.primary, "slide")
    found = {}
    for row in rows:
        if row["model"] != config.primary:
            continue
        values = {name: float(row[f"p_{name}"]) for name in config.classes}
        found[row["slide_id"]] = Prediction(
            model=row["model"],
            probabilities=values,
            bundle=config.name,
            truth=row["label"] or None,
            split=row["split"],
            classes=None
            if lack is None
            else learn.classes_in_set(np.array([*values.values()]), config.classes, lack),
        )
    return found


def _sets(rows: Sequence[learn.SetsHeld], primary: str) -> Iterator[SetsRow]:
    for row in rows:
        if row.model == primary:
            yield SetsRow(
                level=row.level,
                split=row.split,
                asked=row.asked,
                covered=Measure(value=row.coverage, low=row.low, high=row.high),
                patients=row.patients,
                size=row.size,
                single=row.single,
                empty=row.empty,
                calibrated_on=row.calibrated_on,
                calibrated=row.lack is not None,
            )


def _record(config: _Described, splits: learn.Splits, scheduled: tuple[bool, ...]) -> ModelRecord:
    shown = config.shown
    heads = {"tile": shown.get("tile_classifier"), **(shown.get("aggregators") or {})}
    weights = (shown.get("digests") or {}).get("weights")
    placed: dict[str, set[str]] = defaultdict(set)
    for slide in splits:
        placed[slide.patient_id].add(slide.split)
    return ModelRecord(
        settings=config.settings,
        features=shown.get("features") or {},
        tiling=shown.get("tiling") or {},
        heads={name: spec for name, spec in heads.items() if isinstance(spec, Mapping)},
        versions=shown.get("versions") or {},
        weights=weights if isinstance(weights, str) else "",
        scheduled=scheduled,
        novelty_limit=(shown.get("novelty") or {}).get("limit"),
        parts=tuple(_parts(splits)),
        apart=bool(placed) and all(len(parts) == 1 for parts in placed.values()),
    )


def _parts(splits: learn.Splits) -> Iterator[PartCount]:
    found = {slide.split for slide in splits}
    for part in [*(p for p in PARTS if p in found), *sorted(found - {*PARTS})]:
        inside = [slide for slide in splits if slide.split == part]
        pairs = {(slide.label, slide.patient_id) for slide in inside}
        yield PartCount(
            split=part,
            slides=len(inside),
            patients=len({slide.patient_id for slide in inside}),
            classes=dict(sorted(Counter(label for label, _ in pairs).items())),
        )


def _task(settings: Mapping[str, Any]) -> str:
    """Say what is told apart, where it is not the column of labels as it stands."""
    said = []
    if (column := settings.get("label_column", "label")) != "label":
        said.append(f"column {column}")
    if pairs := settings.get("label_map"):
        said.append(", ".join(f"{label} as {name}" for label, name in pairs.items()))
    if only := settings.get("only_labels"):
        said.append(f"{', '.join(only)} alone")
    return "; ".join(said)


def _facts(config: _Described) -> Facts:
    """Settings, versions and digests of a bundle; those of each slide's features are too many."""
    shown = dict(config.shown)
    shown["digests"] = {
        name: value for name, value in shown["digests"].items() if isinstance(value, str)
    }
    return Facts(title=f"Model {config.name}", rows=flat_rows(shown))


def flat_rows(values: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Nested settings as ``("stain.method", "macenko")`` rows."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flat_rows(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((prefix + name, ", ".join(map(_plain, value)) or "none"))
        else:
            rows.append((prefix + name, _plain(value)))
    return tuple(rows)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def _differences(found: Sequence[learn.Compared]) -> Iterator[ModelDifference]:
    for each in found:
        for name, one in each.measures.items():
            yield ModelDifference(
                split=each.split,
                other=each.second,
                measure=name,
                difference=Measure(value=one.value, low=one.low, high=one.high),
                p=one.p,
            )


def _drift(found: learn.Drifted | None) -> Drift | None:
    if found is None:
        return None
    return Drift(
        features={name: (each.mmd2, each.p) for name, each in found.features.items()},
        numbers={
            name: (each.inside, each.outside, each.standardised)
            for name, each in found.numbers.items()
        },
    )


def _evaluation(
    found: learn.Evaluated, classes: tuple[str, ...], rows: Sequence[Row]
) -> Evaluation:
    about, words = found.interval, ""
    if about is not None:
        kind = f"{about.method} bootstrap"
        if about.shares is not None:
            kind = f"{about.shares} for shares, Newcombe's for AUROC, for losses {kind}"
        words = (
            f"{about.level:.0%} intervals over {about.unit}s: {kind}, {about.resamples} resamples"
        )
    return Evaluation(
        model=found.model,
        split=found.split,
        level=found.level,
        classes=classes,
        cases=found.cases,
        patients=found.patients,
        confusion=np.array(found.confusion, np.int64),
        measures={
            name: Measure(value=each.value, low=each.low, high=each.high)
            for name, each in found.measures.items()
        },
        scores=_scores(found, classes, rows),
        interval=words,
    )


def _scores(found: learn.Evaluated, classes: tuple[str, ...], rows: Sequence[Row]) -> Scores | None:
    """The cases of an evaluation from ``predictions.csv``, which has slides but no tiles."""
    mine = [r for r in rows if (r["model"], r["split"]) == (found.model, found.split)]
    if found.level == "tile" or not mine:
        return None
    grouped: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for number, row in enumerate(mine):
        who = row["patient_id"] if found.level == "patient" else str(number)
        grouped[who, row["label"]].append([float(row[f"p_{name}"]) for name in classes])
    return Scores(
        targets=np.array([classes.index(label) for _, label in grouped], np.int64),
        probabilities=np.array([np.mean(each, axis=0) for each in grouped.values()]),
    )


def _curves(rows: Sequence[Row]) -> tuple[TrainingCurve, ...]:
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_model[row["model"]].append(row)
    return tuple(
        TrainingCurve(
            model=model,
            train_loss=tuple(float(row["train_loss"]) for row in epochs),
            val_loss=tuple(float(row["val_loss"]) for row in epochs),
            val_balanced_accuracy=tuple(float(row["val_balanced_accuracy"]) for row in epochs),
            best=max((int(r["epoch"]) for r in epochs if r["best"] == "True"), default=None),
        )
        for model, epochs in by_model.items()
    )


def _rows(path: Path) -> list[Row]:
    return [row.cells for row in read_table(path, error=LearnError)]
