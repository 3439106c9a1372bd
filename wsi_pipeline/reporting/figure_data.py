"""The numbers behind a report's figures and tables, as CSV: one file a kind, one row a point."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from wsi_pipeline.atomic import remove
from wsi_pipeline.learn import COVERAGES, THRESHOLDS, acting_on_all, net_benefit, risk_at
from wsi_pipeline.reporting.data import Evaluation, ModelReport, ReportData, Scores
from wsi_pipeline.reporting.figures import reliability_bins, roc_points, wilson
from wsi_pipeline.tables import write_csv

FOLDER: Final = "data"
WHICH: Final = ("bundle", "model", "split", "level")
Row = Sequence[Any]


def write_figure_data(folder: Path, data: ReportData) -> list[Path]:
    """Write the tables that have rows into ``folder/data``; remove those that no longer have any.

    Returns:
        The files that are there now.
    """
    written = []
    for name, (columns, rows_of) in TABLES.items():
        path, rows = folder / FOLDER / f"{name}.csv", list(rows_of(data))
        if rows:
            write_csv(path, columns, rows)
            written.append(path)
        elif path.exists():
            remove(path)
    return written


def _judged(data: ReportData) -> Iterator[tuple[Row, ModelReport, Evaluation]]:
    for report in data.models:
        for each in report.evaluations:
            yield (report.name, each.model, each.split, each.level), report, each


def _scored(data: ReportData) -> Iterator[tuple[Row, ModelReport, Scores]]:
    for which, report, each in _judged(data):
        if each.scores is not None:
            yield which, report, each.scores


def _measures(data: ReportData) -> Iterator[Row]:
    for which, _, each in _judged(data):
        for name, found in each.measures.items():
            numbers = (found.value, found.low, found.high, each.cases, each.patients)
            yield *which, name, *numbers, each.interval


def _confusion(data: ReportData) -> Iterator[Row]:
    for which, _, each in _judged(data):
        for truth, row in zip(each.classes, each.confusion, strict=True):
            for said, cases in zip(each.classes, row, strict=True):
                yield *which, truth, said, int(cases)


def _roc(data: ReportData) -> Iterator[Row]:
    for which, name, own, scores in _by_class(data):
        if not own.all():
            for false, true in roc_points(own, scores):
                yield *which, name, float(false), float(true)


def _decision(data: ReportData) -> Iterator[Row]:
    for which, name, own, scores in _by_class(data):
        curves = (net_benefit(own, scores), acting_on_all(own))
        for threshold, *gained in zip(THRESHOLDS, *curves, strict=True):
            yield *which, name, float(threshold), *map(float, gained)


def _by_class(data: ReportData) -> Iterator[tuple[Row, str, Any, Any]]:
    """Yield each class that has cases: which of them are its own (n,), and its scores (n,)."""
    for which, report, scores in _scored(data):
        for index, name in enumerate(report.classes):
            own = scores.targets == index
            if own.any():
                yield which, name, own, scores.probabilities[:, index]


def _abstention(data: ReportData) -> Iterator[Row]:
    for which, _, scores in _scored(data):
        right = scores.probabilities.argmax(1) == scores.targets
        risks = risk_at(right, scores.probabilities.max(1))
        for coverage, risk in zip(COVERAGES, risks, strict=True):
            yield *which, float(coverage), float(risk)


def _reliability(data: ReportData) -> Iterator[Row]:
    for which, _, scores in _scored(data):
        mean, accuracy, used, cases = reliability_bins(scores)
        low, high = wilson(accuracy, cases[used])
        for numbers in np.column_stack([mean, accuracy, low, high, cases[used]]):
            yield *which, *map(float, numbers[:4]), int(numbers[4])


def _training(data: ReportData) -> Iterator[Row]:
    for report in data.models:
        for curve in report.curves:
            accuracy: Sequence[float | None] = curve.val_balanced_accuracy
            accuracy = accuracy or [None] * len(curve.train_loss)
            epochs = zip(curve.train_loss, curve.val_loss, accuracy, strict=True)
            for epoch, figures in enumerate(epochs, 1):
                yield report.name, curve.model, epoch, *figures, epoch == curve.best


def _drift(data: ReportData) -> Iterator[Row]:
    for report in data.models:
        if report.drift is not None:
            for name, numbers in report.drift.numbers.items():
                yield report.name, name, *numbers


def _sets(data: ReportData) -> Iterator[Row]:
    for report in data.models:
        for row in report.sets:
            found = row.covered
            sizes = (row.patients, row.size, row.single, row.empty, row.calibrated_on)
            covered = (row.asked, found.value, found.low, found.high)
            yield report.name, report.primary, row.split, row.level, *covered, *sizes


def _funnel(data: ReportData) -> Iterator[Row]:
    for what, steps in (("slides", data.funnel.slides), ("tiles", data.funnel.tiles)):
        for step in steps:
            yield what, step.name, "", step.count
            for reason, count in step.lost.items():
                yield what, step.name, reason, count


TABLES: Final[dict[str, tuple[tuple[str, ...], Callable[[ReportData], Iterable[Row]]]]] = {
    "measures": (
        (*WHICH, "measure", "value", "low", "high", "cases", "patients", "interval"), _measures
    ),
    "confusion": ((*WHICH, "truth", "predicted", "cases"), _confusion),
    "roc": ((*WHICH, "class", "false_positive_rate", "true_positive_rate"), _roc),
    "decision": ((*WHICH, "class", "threshold", "net_benefit", "acting_on_all"), _decision),
    "abstention": ((*WHICH, "coverage", "risk"), _abstention),
    "reliability": ((*WHICH, "confidence", "accuracy", "low", "high", "cases"), _reliability),
    "training": (
        ("bundle", "model", "epoch", "train_loss", "val_loss", "val_balanced_accuracy", "best"),
        _training,
    ),
    "drift": (("bundle", "number", "inside", "outside", "standardised"), _drift),
    "sets": (
        (*WHICH, "asked", "covered", "low", "high", "patients", "size", "single", "empty",
         "calibrated_on"),
        _sets,
    ),
    "funnel": (("what", "step", "lost_to", "count"), _funnel),
}  # fmt: skip
"""Each file's columns, and what its rows are made of."""
