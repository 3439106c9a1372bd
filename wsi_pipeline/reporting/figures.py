"""Figures of an evaluation: plain data in, an SVG (or PNG) picture out."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from wsi_pipeline.learn import METRICS
from wsi_pipeline.reporting.data import Evaluation, Measure, Picture, Scores, TrainingCurve
from wsi_pipeline.reporting.style import (
    ACCENT,
    CELL,
    INK,
    MUTED,
    RULE,
    Format,
    colour_of,
    dress,
    render,
)

_BINS = 10


def with_interval(measure: Measure | None, digits: int = 2) -> str:
    """``0.93 [0.88, 0.97]``; a dash where undefined, no bracket where there is no interval."""
    if measure is None or measure.value is None:
        return "–"
    value = f"{measure.value:.{digits}f}"
    if measure.low is None or measure.high is None:
        return value
    return f"{value} [{measure.low:.{digits}f}, {measure.high:.{digits}f}]"


def confusion_figure(
    confusion: NDArray[np.int64], classes: Sequence[str], title: str = "", format_: Format = "svg"
) -> Picture:
    """Counts and row shares in one square per pair; the darker, the larger the share of its row.

    Args:
        confusion: (C, C) int64, true × predicted.
        classes: Names of the C classes.
        title: Above the matrix.
        format_: ``svg`` or ``png``.
    """
    side = max(2.6, 1.1 + 0.72 * len(classes))
    rows = [
        f"true {name}: "
        + ", ".join(f"{int(n)} as {other}" for n, other in zip(row, classes, strict=True))
        for name, row in zip(classes, confusion, strict=True)
    ]
    alt = f"Confusion matrix {title}. {'; '.join(rows)}."
    draw = partial(_draw_confusion, confusion=confusion, classes=classes, title=title)
    return render(draw, (side + 0.25, side), alt, format_)


def _draw_confusion(
    figure: Figure, confusion: NDArray[np.int64], classes: Sequence[str], title: str
) -> None:
    axes = figure.add_subplot()
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)
    for row, column in np.ndindex(*confusion.shape):
        share = float(shares[row, column])
        square = {"facecolor": CELL, "alpha": 0.04 + 0.92 * share, "linewidth": 0}
        axes.fill(*_square(column, row, 0.47), **square)
        colour = "#ffffff" if share > 0.5 else INK
        text: dict[str, Any] = {"ha": "center", "color": colour}
        axes.text(column, row, f"{int(confusion[row, column])}", va="bottom", fontsize=11, **text)
        if totals[row, 0]:
            axes.text(column, row + 0.08, f"{share:.0%}", va="top", fontsize=8, **text)
    ticks = range(len(classes))
    axes.set(
        xlim=(-0.5, len(classes) - 0.5),
        ylim=(len(classes) - 0.5, -0.5),
        aspect="equal",
        title=title,
        xlabel="predicted",
        ylabel="true",
    )
    axes.set_xticks(ticks, classes)
    axes.set_yticks(ticks, classes, rotation=90, va="center")
    dress(axes, grid=None)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _square(x: float, y: float, half: float) -> tuple[list[float], list[float]]:
    return [x - half, x + half, x + half, x - half], [y - half, y - half, y + half, y + half]


def roc_points(own: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ROC of one class against the rest.

    Args:
        own: (n,) whether a case is of the class; both kinds must occur.
        scores: (n,) its score.

    Returns:
        (K, 2) false and true positive rate from (0, 0) to (1, 1), one row per distinct score.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(own[order])[last] / own.sum()
    false = np.cumsum(~own[order])[last] / (~own).sum()
    return np.column_stack([np.append(0.0, false), np.append(0.0, true)])


def roc_figure(
    scores: Scores,
    classes: Sequence[str],
    measures: Mapping[str, Measure],
    title: str = "",
    format_: Format = "svg",
) -> Picture:
    """One-vs-rest ROC of each class, with AUROC and its interval (``auroc/<class>``) in the legend.

    A class that is absent, or the only one, has no curve; the legend says so.
    """
    parts = [f"{name} {with_interval(measures.get(f'auroc/{name}'))}" for name in classes]
    alt = f"ROC curves, one class against the rest, {title}. AUROC: {'; '.join(parts)}."
    draw = partial(_draw_roc, scores=scores, classes=classes, labels=parts, title=title)
    return render(draw, (3.9, 3.6), alt, format_)


def _draw_roc(
    figure: Figure, scores: Scores, classes: Sequence[str], labels: Sequence[str], title: str
) -> None:
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.2)
    handles = []
    for index in range(len(classes)):
        own = scores.targets == index
        handles.append(Line2D([], [], color=colour_of(index), linewidth=2.2))
        if own.any() and not own.all():
            points = roc_points(own, scores.probabilities[:, index])
            axes.plot(*points.T, color=colour_of(index), linewidth=2.2, solid_joinstyle="round")
    axes.set(
        xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal", title=title,
        xlabel="1 − specificity", ylabel="sensitivity",
    )  # fmt: skip
    dress(axes, grid="both")
    axes.legend(
        handles, labels, loc="lower right", frameon=False, title="AUROC [95 %]", handlelength=1.2
    )


def reliability_figure(
    scores: Scores, ece: Measure | None = None, title: str = "", format_: Format = "svg"
) -> Picture:
    """Confidence against accuracy in ten bins of equal width, with the number of cases beneath.

    A dot's area grows with its bin's cases; the bars at the dots are Wilson 95 % intervals, which
    take cases as independent.
    """
    alt = f"Reliability plot {title}: accuracy against confidence. ECE {with_interval(ece)}."
    return render(
        partial(_draw_reliability, scores=scores, ece=ece, title=title), (3.9, 3.9), alt, format_
    )


def _draw_reliability(figure: Figure, scores: Scores, ece: Measure | None, title: str) -> None:
    upper, lower = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    mean, accuracy, used, cases = reliability_bins(scores)
    low, high = wilson(accuracy, cases[used])
    upper.plot([0, 1], [0, 1], color=RULE, linewidth=1.2)
    upper.vlines(mean, low, high, color=ACCENT, linewidth=1.2, alpha=0.55)
    upper.plot(mean, accuracy, color=ACCENT, linewidth=1.2, alpha=0.55)
    upper.scatter(
        mean, accuracy, s=18 + 90 * cases[used] / cases.max(), color=ACCENT, zorder=3, clip_on=False
    )
    upper.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="accuracy", title=title)
    upper.text(
        0.03, 0.94, f"ECE {with_interval(ece)}", color=INK, va="top", transform=upper.transAxes
    )
    lower.bar((np.arange(_BINS) + 0.5) / _BINS, cases, width=0.088, color=ACCENT, alpha=0.35)
    lower.set(xlabel="confidence in the predicted class", ylabel="cases")
    dress(upper, grid="both")
    dress(lower)


def reliability_bins(
    scores: Scores,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return mean confidence and accuracy (K,) of the K bins in use, which these are (K,), and the
    cases of all bins."""
    confidence = scores.probabilities.max(axis=1)
    right = scores.probabilities.argmax(axis=1) == scores.targets
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    cases = np.bincount(bins, minlength=_BINS)
    used = np.flatnonzero(cases)
    mean = np.bincount(bins, confidence, _BINS)[used] / cases[used]
    return mean, np.bincount(bins, right, _BINS)[used] / cases[used], used, cases


def wilson(
    share: NDArray[np.float64], cases: NDArray[np.int64], z: float = 1.96
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score interval of proportions (E. B. Wilson, JASA 1927); ``share`` and ``cases`` are (K,)."""
    weight = 1 + z**2 / cases
    centre = (share + z**2 / (2 * cases)) / weight
    half = z * np.sqrt(share * (1 - share) / cases + z**2 / (4 * cases**2)) / weight
    return centre - half, centre + half


def curves_figure(curve: TrainingCurve, title: str = "", format_: Format = "svg") -> Picture:
    """Loss on training and validation slides, and balanced accuracy where known, by epoch."""
    best = f" Best epoch {curve.best}." if curve.best else ""
    alt = (
        f"Training curves {title}: {len(curve.train_loss)} epochs, training loss "
        f"{curve.train_loss[0]:.3f} to {curve.train_loss[-1]:.3f}, validation loss "
        f"{curve.val_loss[0]:.3f} to {curve.val_loss[-1]:.3f}.{best}"
    )
    panels = 2 if curve.val_balanced_accuracy else 1
    draw = partial(_draw_curves, curve=curve, title=title)
    return render(draw, (3.5 * panels, 2.7), alt, format_)


def _draw_curves(figure: Figure, curve: TrainingCurve, title: str) -> None:
    columns = 2 if curve.val_balanced_accuracy else 1
    panels = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    epochs = np.arange(1, len(curve.train_loss) + 1)
    loss = panels[0]
    loss.plot(epochs, curve.train_loss, color=MUTED, linewidth=1.8, label="training")
    loss.plot(epochs, curve.val_loss, color=ACCENT, linewidth=1.8, label="validation")
    loss.set(ylabel="loss", title=title)
    loss.legend(frameon=False, handlelength=1.4)
    if curve.val_balanced_accuracy:
        panels[1].plot(epochs, curve.val_balanced_accuracy, color=ACCENT, linewidth=1.8)
        panels[1].set(ylabel="balanced accuracy", ylim=(0, 1.02))
    for axes in panels:
        if curve.best:
            axes.axvline(curve.best, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        dress(axes)


def class_bars_figure(
    evaluation: Evaluation, measure: str = "sensitivity", title: str = "", format_: Format = "svg"
) -> Picture:
    """One bar a class with its 95 % interval; ``measure`` is the part before the class's name."""
    found = [evaluation.measures.get(f"{measure}/{name}") for name in evaluation.classes]
    named = METRICS[measure].heading
    parts = [f"{c} {with_interval(m)}" for c, m in zip(evaluation.classes, found, strict=True)]
    draw = partial(_draw_bars, classes=evaluation.classes, found=found, xlabel=named, title=title)
    height = 0.85 + 0.34 * len(found)
    return render(draw, (3.9, height), f"{named} by class {title}: {'; '.join(parts)}.", format_)


def _draw_bars(
    figure: Figure, classes: Sequence[str], found: Sequence[Measure | None], xlabel: str, title: str
) -> None:
    axes = figure.add_subplot()
    for row, measure in enumerate(found):
        if measure is None or measure.value is None:
            axes.text(0.01, row, "undefined", va="center", color=MUTED, fontsize=8)
            continue
        axes.barh(row, measure.value, height=0.56, color=colour_of(row), alpha=0.85)
        if measure.low is not None and measure.high is not None:
            axes.hlines(row, measure.low, measure.high, color=INK, linewidth=1.4)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlim=(0, 1.01), ylim=(len(classes) - 0.45, -0.55), xlabel=xlabel, title=title)
    dress(axes, grid="x")


def comparison_figure(
    evaluations: Sequence[Evaluation],
    measures: Sequence[str] = ("balanced_accuracy", "macro_f1", "auroc"),
    title: str = "",
    format_: Format = "svg",
) -> Picture:
    """The same model on several splits, side by side: a dot and its 95 % interval for each measure.

    Meant for internal test against external cohort; the gap is what is to be seen.
    """
    parts = [
        f"{e.split} {METRICS[m].heading} {with_interval(e.measures.get(m))}"
        for m in measures
        for e in evaluations
    ]
    draw = partial(_draw_comparison, evaluations=evaluations, measures=measures, title=title)
    height = 1.1 + 0.52 * len(measures)
    return render(draw, (5.6, height), f"Comparison {title}: {'; '.join(parts)}.", format_)


def _draw_comparison(
    figure: Figure, evaluations: Sequence[Evaluation], measures: Sequence[str], title: str
) -> None:
    axes = figure.add_subplot()
    offsets = np.linspace(-0.16, 0.16, len(evaluations)) if len(evaluations) > 1 else [0.0]
    for index, (evaluation, offset) in enumerate(zip(evaluations, offsets, strict=True)):
        colour = colour_of(index)
        for row, name in enumerate(measures):
            measure = evaluation.measures.get(name)
            if measure is None or measure.value is None:
                continue
            y = row + float(offset)
            if measure.low is not None and measure.high is not None:
                axes.hlines(y, measure.low, measure.high, color=colour, linewidth=2, alpha=0.5)
            axes.plot(measure.value, y, "o", color=colour, markersize=6)
    handles = [
        Line2D([], [], marker="o", color=colour_of(i), linewidth=2) for i in range(len(evaluations))
    ]
    names = [f"{e.split} ({e.patients} patients)" for e in evaluations]
    axes.legend(handles, names, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    axes.set_yticks(range(len(measures)), [METRICS[m].heading for m in measures])
    axes.set(xlim=(0, 1.02), ylim=(len(measures) - 0.5, -0.5), xlabel=title)
    dress(axes, grid="x")
