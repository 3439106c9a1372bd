"""Figures on whether to act on a model: decision curves, abstention, drift to the outside."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from wsi_pipeline.learn import (
    COVERAGES,
    THRESHOLDS,
    acting_on_all,
    aurc,
    net_benefit,
    risk_at,
)
from wsi_pipeline.reporting.data import Drift, Picture, Scores
from wsi_pipeline.reporting.style import ACCENT, INK, MUTED, Format, colour_of, dress, render

LARGE = 0.8  # a standardised difference that Cohen calls large


def decision_figure(scores: Scores, classes: Sequence[str], format_: Format = "svg") -> Picture:
    """Net benefit of acting on each class's probability; thin lines act on every case."""
    alt = f"Decision curves of {', '.join(classes)}, each against acting on every case or on none."
    draw = partial(_draw_decision, scores=scores, classes=classes)
    return render(draw, (3.6, 3.0), alt, format_)


def abstention_figure(scores: Scores, format_: Format = "svg") -> Picture:
    """Error rate among the cases judged, as the least confident ones are left to a person."""
    right = scores.probabilities.argmax(1) == scores.targets
    confidence = scores.probabilities.max(1)
    alt = (
        f"Risk against coverage: {1 - right.mean():.3f} of all cases are wrong; "
        f"area under the curve {aurc(right, confidence):.3f}."
    )
    return render(partial(_draw_abstention, scores=scores), (3.6, 3.0), alt, format_)


def drift_figure(drift: Drift, format_: Format = "svg") -> Picture:
    """A dot a number: how many standard deviations the external patients are away."""
    known = {name: v[2] for name, v in drift.numbers.items() if v[2] is not None}
    alt = "Standardised differences, external less internal: " + ", ".join(
        f"{name} {value:+.2f}" for name, value in known.items()
    )
    height = 1.0 + 0.24 * len(known)
    return render(partial(_draw_drift, values=known), (5.6, height), alt, format_)


def _draw_decision(figure: Figure, scores: Scores, classes: Sequence[str]) -> None:
    axes = figure.add_subplot()
    top = 0.0
    for index, name in enumerate(classes):
        own = scores.targets == index
        if not own.any():
            continue
        colour = colour_of(index)
        gained = net_benefit(own, scores.probabilities[:, index])
        axes.plot(THRESHOLDS, gained, color=colour, linewidth=2, label=name)
        axes.plot(THRESHOLDS, acting_on_all(own), color=colour, linewidth=0.8, alpha=0.6)
        top = max(top, float(own.mean()))
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(-0.1 * max(top, 0.1), 1.1 * max(top, 0.1)), title="Decision")
    axes.set(xlabel="probability at which one acts", ylabel="net benefit")
    axes.legend(frameon=False)
    dress(axes, grid="both")


def _draw_abstention(figure: Figure, scores: Scores) -> None:
    axes = figure.add_subplot()
    right = scores.probabilities.argmax(1) == scores.targets
    risk = risk_at(right, scores.probabilities.max(1))
    axes.plot(COVERAGES, risk, color=ACCENT, linewidth=2)
    axes.axhline(1 - right.mean(), color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, 1), ylim=(0, max(0.1, 1.15 * float(risk.max()))), title="Abstention",
             xlabel="share of cases judged", ylabel="share of them wrong")  # fmt: skip
    dress(axes, grid="both")


def _draw_drift(figure: Figure, values: dict[str, float]) -> None:
    axes = figure.add_subplot()
    rows = np.arange(len(values))
    found = np.array(list(values.values()))
    for edge in (-LARGE, LARGE):
        axes.axvline(edge, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.hlines(rows, 0, found, color=ACCENT, linewidth=1.6)
    axes.plot(found, rows, "o", color=ACCENT, markersize=5)
    reach = max(1.0, 1.1 * float(np.abs(found).max(initial=0)))
    axes.set_yticks(rows, list(values), color=INK)
    axes.set(xlim=(-reach, reach), ylim=(len(values) - 0.5, -0.5),
             xlabel="external less internal, in standard deviations between patients")  # fmt: skip
    dress(axes, grid="x")
