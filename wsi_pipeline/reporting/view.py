"""From report data to what the template prints: tables as strings, figures as pictures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsi_pipeline.learn import METRICS, Ranged
from wsi_pipeline.reporting.data import (
    Costs,
    Evaluation,
    FunnelStep,
    Level,
    Measure,
    ModelReport,
    Picture,
    Prediction,
    ReadPart,
    ReportData,
    SetsRow,
)
from wsi_pipeline.reporting.figures import (
    class_bars_figure,
    comparison_figure,
    confusion_figure,
    curves_figure,
    reliability_figure,
    roc_figure,
    with_interval,
)
from wsi_pipeline.reporting.judgement import abstention_figure, decision_figure, drift_figure

SPLITS = ("train", "val", "test", "external")
LEVELS: tuple[Level, ...] = ("tile", "slide", "patient")
SHOWN_SPLITS = ("test", "external")
MODELS_AT_THE_HEAD = 3
TILE = "tile"  # the tile classifier's name
WHO = {"model": "model", "reader": "reader", "with model": "reader with model"}
VERDICTS = {"shown": "shown", "not shown": "open", "excluded": "excluded"}


@dataclass(frozen=True, kw_only=True)
class FunnelRow:
    """A step with its bar: ``percent`` of the first step, and what went away before the next."""

    name: str
    count: str
    percent: float
    lost: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One line of a metrics table; ``values`` are (value, interval) by ``MetricTable.columns``."""

    model: str
    split: str
    cases: str
    patients: str
    values: tuple[tuple[str, str], ...]
    unseen: bool


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """One level: the primary model and what was not trained on, then, in ``more``, the rest."""

    level: Level
    columns: tuple[str, ...]
    rows: tuple[MetricRow, ...]
    more: tuple[MetricRow, ...]


@dataclass(frozen=True, kw_only=True)
class FigureGroup:
    """Figures of one evaluation, in columns."""

    title: str
    columns: tuple[tuple[Picture, ...], ...]


@dataclass(frozen=True, kw_only=True)
class IndexCell:
    """What one model says of a slide, in words; ``wrong`` where that is not the truth."""

    words: str
    wrong: bool


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """One slide of the index; ``number`` of its card, None if it has none."""

    number: int | None
    slide_id: str
    about: tuple[str, ...]
    said: tuple[IndexCell, ...]
    flags: str


@dataclass(frozen=True, kw_only=True)
class SlideIndex:
    """Every slide as a line that leads to its card; ``models`` are columns."""

    models: tuple[str, ...]
    rows: tuple[IndexRow, ...]


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """One trained bundle as the page prints it."""

    report: ModelReport
    comparison: Picture | None
    tables: tuple[MetricTable, ...]
    groups: tuple[FigureGroup, ...]
    primary_curves: tuple[Picture, ...]
    other_curves: tuple[Picture, ...]
    interval: str
    drift: Picture | None
    drift_rows: tuple[tuple[str, str], ...]
    differences: tuple[tuple[str, ...], ...]
    sets: tuple[tuple[str, ...], ...]
    uncalibrated: int | None
    exact: bool


@dataclass(frozen=True, kw_only=True)
class ReadersView:
    """Readers beside one model on one part: tables of text."""

    title: str
    accuracy: tuple[tuple[str, ...], ...]
    gains: tuple[tuple[str, ...], ...]
    times: tuple[tuple[str, ...], ...]


def readers_views(data: ReportData) -> tuple[ReadersView, ...]:
    """Lay out what readers did: accuracy, differences and what they show, time and cost."""
    return tuple(_readers_view(part, data.costs) for part in data.readers)


def _readers_view(part: ReadPart, costs: Costs) -> ReadersView:
    accuracy, gains, times = [], [], []
    for result in part.results:
        accuracy += [
            (result.reader, WHO[name], _ranged(found), *_of(found))
            for name, found in result.accuracy.items()
        ]
        gains += [
            (
                result.reader,
                f"{WHO[gain.first]} less {WHO[gain.second]}",
                _ranged(gain.difference, signed=True),
                VERDICTS[gain.verdict],
                "–" if gain.p is None else f"{gain.p:.3f}",
                *_of(gain.difference),
            )
            for gain in result.gains
        ]
        for name, found in result.seconds.items():
            cost = None
            if name != "difference" and found.value is not None:
                cost = costs.of_case(found.value, with_model=name != "alone")
            words = "–" if cost is None else f"{cost:,.2f}"
            times.append((result.reader, name, _ranged(found, digits=1), *_of(found), words))
    return ReadersView(
        title=f"{part.bundle}, {part.split} slides",
        accuracy=tuple(accuracy),
        gains=tuple(gains),
        times=tuple(times),
    )


def _ranged(found: Ranged, *, signed: bool = False, digits: int = 3) -> str:
    if found.value is None:
        return "–"
    style = f"{'+' if signed else ''}.{digits}f"
    between = ""
    if found.low is not None and found.high is not None:
        between = f" [{found.low:{style}}, {found.high:{style}}]"
    return f"{found.value:{style}}{between}"


def _of(found: Ranged) -> tuple[str, str]:
    return f"{found.slides:,}", f"{found.patients:,}"


def funnel_rows(steps: Sequence[FunnelStep]) -> tuple[FunnelRow, ...]:
    """Bars relative to the first step."""
    whole = max(steps[0].count, 1) if steps else 1
    return tuple(
        FunnelRow(
            name=step.name,
            count=f"{step.count:,}",
            percent=100 * step.count / whole,
            lost=tuple(
                (reason, f"{count:,}")
                for reason, count in sorted(step.lost.items(), key=lambda item: -item[1])
                if count
            ),
        )
        for step in steps
    )


def model_view(report: ModelReport) -> ModelView:
    """Draw a model's figures and lay out its tables."""
    judged = sorted(report.evaluations, key=_order)
    intervals = {e.interval for e in judged if e.interval}
    return ModelView(
        report=report,
        comparison=_comparison(report),
        tables=tuple(_table(report, judged, level) for level in LEVELS if _at(judged, level)),
        groups=tuple(_group(e) for e in judged if _is_shown(report, e)),
        primary_curves=_curves(report, primary=True),
        other_curves=_curves(report, primary=False),
        interval="; ".join(sorted(intervals)),
        drift=_drift_picture(report),
        drift_rows=_drift_rows(report),
        differences=_differences(report),
        sets=tuple(_set_row(row) for row in report.sets if row.calibrated),
        exact=any("exact" in words for words in intervals),
        uncalibrated=next((r.calibrated_on for r in report.sets if not r.calibrated), None),
    )


def slide_index(data: ReportData) -> SlideIndex:
    """Return a line for each slide with tiles: whose, what, what each model says, flags."""
    told = (each.bundle for slide in data.slides for each in slide.predictions)
    models = tuple(dict.fromkeys([*(model.name for model in data.models), *told]))
    rows, number = [], 0
    for slide in data.slides:
        number += slide.shown
        said = {each.bundle: each for each in slide.predictions}
        rows.append(
            IndexRow(
                number=number if slide.shown else None,
                slide_id=slide.slide_id,
                about=tuple(text or "–" for text in (slide.patient_id, slide.label, slide.cohort)),
                said=tuple(_said(said.get(name)) for name in models),
                flags=", ".join(flag.replace("_", " ") for flag in slide.flags),
            )
        )
    return SlideIndex(models=models, rows=tuple(rows))


def _said(found: Prediction | None) -> IndexCell:
    if found is None:
        return IndexCell(words="–", wrong=False)
    words = f"{found.label} {found.probabilities[found.label]:.2f}"
    if found.split:
        words += f" ({found.split})"
    if found.unlike:
        words += ", unlike training"
    return IndexCell(words=words, wrong=found.wrong)


def _set_row(row: SetsRow) -> tuple[str, ...]:
    """Level, part, asked, covered, patients, size, one class, none, calibrated on."""
    return (
        row.level,
        row.split,
        f"{row.asked:.0%}",
        with_interval(row.covered, 3),
        f"{row.patients:,}",
        f"{row.size:.2f}",
        f"{row.single:.0%}",
        f"{row.empty:.0%}",
        f"{row.calibrated_on:,} patients",
    )


def _drift_picture(report: ModelReport) -> Picture | None:
    drift = report.drift
    if drift is None or all(values[2] is None for values in drift.numbers.values()):
        return None
    return drift_figure(drift)


def _drift_rows(report: ModelReport) -> tuple[tuple[str, str], ...]:
    """How far the features moved, for each class: words for a table."""
    if report.drift is None:
        return ()
    return tuple(
        (name, "too few patients" if value is None else f"{value:.3f} (p = {p:.3f})")
        for name, (value, p) in report.drift.features.items()
    )


def _differences(report: ModelReport) -> tuple[tuple[str, ...], ...]:
    """The primary model less each other one: split, other model, measure, difference, p."""
    return tuple(
        (
            each.split,
            each.other,
            METRICS[each.measure].heading,
            with_interval(each.difference, 3),
            "–" if each.p is None else f"{each.p:.3f}",
        )
        for each in report.differences
        if each.measure in ("balanced_accuracy", "auroc")
    )


def key_figures(data: ReportData) -> tuple[tuple[str, str], ...]:
    """The numbers at the head of the page, (value, name)."""
    figures: list[tuple[str, str]] = []
    if data.slides:
        tiled = sum(slide.tiles_kept is not None for slide in data.slides)
        if tiled:
            figures.append((f"{tiled:,}", "slides with tiles"))
        if len(data.slides) > tiled:
            figures.append((f"{len(data.slides) - tiled:,}", "slides with features alone"))
        patients = {s.patient_id for s in data.slides if s.patient_id}
        if patients:
            figures.append((f"{len(patients):,}", "patients"))
        if tiled:
            kept = sum(slide.tiles_kept or 0 for slide in data.slides)
            figures.append((f"{kept:,}", "tiles kept"))
    failed = {f.slide_id for f in data.failures if f.fate == "failed"}
    if failed:
        figures.append((f"{len(failed):,}", "slides failed"))
    several = len(data.models) > 1
    for model in data.models[:MODELS_AT_THE_HEAD]:
        for split in SHOWN_SPLITS:
            found = _primary(model, split)
            if found and "auroc" in found.measures:
                name = f"AUROC, {split}, per {found.level}"
                name += f", {model.name}" if several else ""
                figures.append((with_interval(found.measures["auroc"]), name))
    return tuple(figures)


def _curves(report: ModelReport, *, primary: bool) -> tuple[Picture, ...]:
    return tuple(
        curves_figure(curve, curve.model)
        for curve in report.curves
        if (curve.model == report.primary) == primary
    )


def _comparison(report: ModelReport) -> Picture | None:
    found = [e for e in (_primary(report, split) for split in SHOWN_SPLITS) if e]
    return (
        comparison_figure(found, title=f"{report.primary}, per {found[0].level}") if found else None
    )


def _primary(report: ModelReport, split: str) -> Evaluation | None:
    """The primary model's evaluation on ``split``: by patient, else by slide, else by tile."""
    found = {
        e.level: e for e in report.evaluations if (e.model, e.split) == (report.primary, split)
    }
    return next((found[level] for level in ("patient", "slide", "tile") if level in found), None)


def _group(evaluation: Evaluation) -> FigureGroup:
    title = f"{evaluation.split}, per {evaluation.level}"
    matrix = confusion_figure(evaluation.confusion, evaluation.classes)
    bars = class_bars_figure(evaluation)
    columns: tuple[tuple[Picture, ...], ...] = ((matrix,), (bars,))
    if evaluation.scores is not None:
        roc = roc_figure(evaluation.scores, evaluation.classes, evaluation.measures)
        reliability = reliability_figure(evaluation.scores, evaluation.measures.get("ece"))
        decision = decision_figure(evaluation.scores, evaluation.classes)
        columns = (
            (matrix, bars),
            (roc, decision),
            (reliability, abstention_figure(evaluation.scores)),
        )
    cases = f"{evaluation.cases:,} {evaluation.level}{'s' * (evaluation.cases != 1)}"
    return FigureGroup(
        title=f"{evaluation.model} — {title} ({cases} of {evaluation.patients:,} patients)",
        columns=columns,
    )


def _is_shown(report: ModelReport, evaluation: Evaluation) -> bool:
    """Figures are for what was not trained on: the primary model by slide, others by tile."""
    if evaluation.split not in SHOWN_SPLITS:
        return False
    if evaluation.model == report.primary:
        return evaluation.level != "patient" or evaluation.patients != evaluation.cases
    return evaluation.level == "tile"


def _cell(measure: Measure | None) -> tuple[str, str]:
    value, _, interval = with_interval(measure, 3).partition(" ")
    return value, interval


def _table(report: ModelReport, judged: Iterable[Evaluation], level: Level) -> MetricTable:
    found = _at(judged, level)
    columns = tuple(
        name
        for name, metric in METRICS.items()
        if metric.column and any(name in e.measures for e in found)
    )
    first = [e for e in found if e.split in SHOWN_SPLITS or e.model in (report.primary, TILE)]
    return MetricTable(
        level=level,
        columns=tuple(METRICS[name].heading for name in columns),
        rows=tuple(_row(e, columns) for e in first),
        more=tuple(_row(e, columns) for e in found if e not in first),
    )


def _row(evaluation: Evaluation, columns: Sequence[str]) -> MetricRow:
    return MetricRow(
        model=evaluation.model,
        split=evaluation.split,
        cases=f"{evaluation.cases:,}",
        patients=f"{evaluation.patients:,}",
        values=tuple(_cell(evaluation.measures.get(name)) for name in columns),
        unseen=evaluation.split in SHOWN_SPLITS,
    )


def _at(judged: Iterable[Evaluation], level: Level) -> list[Evaluation]:
    return [e for e in judged if e.level == level]


def _order(evaluation: Evaluation) -> tuple[int, str, int]:
    known = evaluation.split in SPLITS
    split = SPLITS.index(evaluation.split) if known else len(SPLITS)
    return LEVELS.index(evaluation.level), evaluation.model, split
