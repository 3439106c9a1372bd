"""Encoders side by side, against the accuracy required: one table, one figure, one page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from typing import Final

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wsi_pipeline.reporting.beside import data_uri
from wsi_pipeline.reporting.data import Measure, Picture
from wsi_pipeline.reporting.figures import with_interval
from wsi_pipeline.reporting.page import templates
from wsi_pipeline.reporting.style import ACCENT, MUTED, Format, colour_of, dress, render
from wsi_pipeline.tables import to_csv

PARTS: Final = ("train", "val", "test", "external")
HELD_OUT: Final = ("test", "external")
PAIRED: Final = (
    "The same slides, judged by what speaks for a slide under each encoder. 95 % intervals over "
    "patients; p by exchanging the two encoders patient by patient, and corrected by Holm for all "
    "pairs of a part and a measure."
)
CLEAR: Final = 0.05  # p after correction below which a difference stands out
ABOUT: Final = ("tiles/s", "parameters", "weights", "remark")  # of an encoder, below the verdict
NAMES: Final = {"train": "train", "val": "validation", "test": "test", "external": "external"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of the original study's table: accuracy in per cent, over images."""

    name: str
    train: float
    test: float


# The study names its ResNets "150" and "151"; the architectures that exist are 101 and 152.
ORIGINAL: Final = (
    Published(name="DenseNet121", train=98.21, test=98),
    Published(name="ResNet50", train=99.40, test=100),
    Published(name="ResNet150", train=94.00, test=92),
    Published(name="ResNet151", train=88.10, test=88),
    Published(name="VGG16", train=58.49, test=72),
)


@dataclass(frozen=True, kw_only=True)
class EncoderResult:
    """One encoder of the comparison.

    Attributes:
        encoder: Its name.
        weights: What it started from, in words.
        random: It started from random weights.
        accuracy: Part → accuracy over tiles, with its interval over patients.
        patients: Part → how many there are.
        parameters: Numbers it learned.
        tiles_per_second: Tiles judged a second.
        error: Why it failed; empty if it did not. Without figures and error it was not run.
    """

    encoder: str
    weights: str = ""
    random: bool = False
    accuracy: dict[str, Measure] = field(default_factory=dict)
    patients: dict[str, int] = field(default_factory=dict)
    parameters: int | None = None
    tiles_per_second: float | None = None
    error: str = ""

    def passes(self, required: float) -> bool | None:
        """Whether every held-out part's *lower* bound reaches ``required``; None without any."""
        lows = [self.accuracy[part].low for part in HELD_OUT if part in self.accuracy]
        if not lows:
            return None
        return all(low is not None and low >= required for low in lows)

    @property
    def absence(self) -> str:
        """Why there are no figures: it ``failed``, or was ``not run``."""
        return "failed" if self.error else "not run"

    def remark(self) -> str:
        """Say what a reader should know before trusting the figures."""
        remarks = []
        if self.error:
            remarks.append(f"failed: {self.error}")
        elif not self.accuracy:
            remarks.append("not run")
        if self.random:
            remarks.append("started from random weights, no claim about the architecture")
        return "; ".join(filter(None, [*remarks, self.suspicion]))

    @property
    def suspicion(self) -> str:
        """Say that all is right, if it is, which is a reason to look for leakage."""
        test = self.accuracy.get("test")
        if test is None or test.value is None or test.value < 1:
            return ""
        return (
            f"100 % on {self.patients.get('test', 0)} test patients: look for leakage before "
            "believing it"
        )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One measure of the first encoder less that of the second, on the same slides.

    ``low`` and ``high`` are the ends of its 95 % interval over patients, ``p`` that of the
    permutation test and ``p_holm`` the same, corrected for all pairs of its split and measure.
    """

    first: str
    second: str
    split: str
    measure: str
    slides: int
    patients: int
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None

    def row(self) -> dict[str, str]:
        """Return the table's row, as text."""
        between = "" if self.low is None else f" [{self.low:+.3f}, {self.high:+.3f}]"
        return {
            "encoder": self.first,
            "less": self.second,
            "on": NAMES[self.split],
            "measure": self.measure.replace("_", " "),
            "difference": "–" if self.value is None else f"{self.value:+.3f}{between}",
            "p": "–" if self.p is None else f"{self.p:.3f}",
            "p, Holm": "–" if self.p_holm is None else f"{self.p_holm:.3f}",
            "slides": f"{self.slides} of {self.patients} patients",
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All of it: ``results`` in the order asked, ``required`` accuracy, ``notes`` on the data.

    ``pairs`` hold the encoders against each other, two by two.
    """

    title: str
    results: tuple[EncoderResult, ...]
    required: float
    notes: tuple[str, ...] = ()
    synthetic: bool = False
    pairs: tuple[Pair, ...] = ()

    def rows(self) -> list[dict[str, str]]:
        """Return the table's rows, as text."""
        return [_row(result, self.required) for result in self.results]


def comparison_csv(comparison: Comparison) -> str:
    """Return the table as numbers, for other programs."""
    columns = (
        ["encoder", "weights", "parameters", "tiles_per_second"]
        + [f"{part}_{what}" for part in PARTS for what in ("accuracy", "low", "high", "patients")]
        + ["required", "passes", "remark"]
    )
    rows = []
    for result in comparison.results:
        measures: list[object] = []
        for part in PARTS:
            found = result.accuracy.get(part, Measure(value=None))
            measures += [found.value, found.low, found.high, result.patients.get(part)]
        passed = result.passes(comparison.required)
        rows.append(
            [
                result.encoder,
                result.weights,
                result.parameters,
                result.tiles_per_second,
                *measures,
                comparison.required,
                passed,
                result.remark(),
            ]
        )
    return to_csv(columns, rows)


def to_markdown(comparison: Comparison) -> str:
    """Return the table for people, with the original study's beside it."""
    lines = [f"# {comparison.title}", "", *(f"- {note}" for note in comparison.notes), ""]
    lines += _markdown_table(comparison.rows())
    lines += ["", *_explanation(comparison), ""]
    if comparison.pairs:
        lines += ["## Two by two", "", PAIRED, ""]
        lines += [*_markdown_table([pair.row() for pair in comparison.pairs]), ""]
    lines += ["## The original study", ""]
    lines += _markdown_table(original_rows())
    return "\n".join(lines) + "\n"


def comparison_chart(comparison: Comparison, format_: Format = "svg") -> Picture:
    """A row an encoder, a dot and a 95 % interval a part, a line at the accuracy required."""
    words = [
        f"{result.encoder}: "
        + ", ".join(f"{NAMES[p]} {with_interval(result.accuracy.get(p))}" for p in PARTS)
        for result in comparison.results
    ]
    alt = f"Accuracy of encoders; {comparison.required:.0%} required. {'; '.join(words)}."
    height = 1.2 + 0.62 * len(comparison.results)
    return render(partial(_draw, comparison=comparison), (7.6, height), alt, format_)


def comparison_page(comparison: Comparison) -> str:
    """Return one self-contained HTML page: what passes and what differs first, the rest below."""
    style = resources.files("wsi_pipeline.reporting") / "templates" / "report.css"
    return (
        templates(data_uri)
        .get_template("comparison.html.j2")
        .render(
            comparison=comparison,
            verdicts=[_without(row, ABOUT) for row in comparison.rows()],
            about=[_without(row, row.keys() - {"encoder", *ABOUT}) for row in comparison.rows()],
            original=original_rows(),
            explanation=_explanation(comparison),
            judged=_judged_on(comparison.pairs),
            pairs=_by_pair(comparison.pairs),
            clear=CLEAR,
            paired=PAIRED,
            chart=comparison_chart(comparison),
            css=Markup(style.read_text("utf-8")),  # noqa: S704 # nosec B704 # our own file
        )
    )


def _without(row: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in names}


def _judged_on(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """Return the parts and measures that encoders are compared by, as a table's columns."""
    return list(dict.fromkeys((pair.split, pair.measure) for pair in pairs))


def _by_pair(pairs: Sequence[Pair]) -> list[tuple[tuple[str, str], list[Pair | None]]]:
    """Return for each two encoders what they differ by, in the order of the columns."""
    found: dict[tuple[str, str], dict[tuple[str, str], Pair]] = {}
    for pair in pairs:
        found.setdefault((pair.first, pair.second), {})[pair.split, pair.measure] = pair
    return [
        (encoders, [cells.get(column) for column in _judged_on(pairs)])
        for encoders, cells in found.items()
    ]


def original_rows() -> list[dict[str, str]]:
    """Return the original study's table, as text."""
    return [
        {
            "encoder": row.name,
            "train": f"{row.train:.2f} %",
            "test": f"{row.test:g} %",
            "required": "96 %",
        }
        for row in ORIGINAL
    ]


def _row(result: EncoderResult, required: float) -> dict[str, str]:
    verdict = {None: "–", True: "pass", False: "fail"}[result.passes(required)]
    if result.error or not result.accuracy:
        verdict = result.absence
    speed, parameters = result.tiles_per_second, result.parameters
    return {
        "encoder": result.encoder,
        f"lower bound ≥ {required:.0%}": verdict,
        **{NAMES[part]: with_interval(result.accuracy.get(part), 3) for part in reversed(PARTS)},
        "tiles/s": "–" if speed is None else f"{speed:.0f}",
        "parameters": "–" if parameters is None else f"{parameters / 1e6:.1f} M",
        "weights": result.weights,
        "remark": result.remark(),
    }


def _explanation(comparison: Comparison) -> list[str]:
    """Say what the figures are, and what they are not."""
    rule = (
        "Accuracy over tiles, with 95 % intervals over patients. An encoder passes when "
        f"the lower bound reaches {comparison.required:.0%} on every held-out part; the external "
        "cohort is read once, after the model is frozen."
    )
    other = (
        "The original study counts images, and does not say whether a patient's images are on one "
        "side of its split; its figures are no measure of these."
    )
    lines = [rule, other]
    if comparison.synthetic:
        lines.append("The slides are synthetic: nothing here is a claim about medicine.")
    return lines


def _markdown_table(rows: Sequence[dict[str, str]]) -> list[str]:
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return lines + [f"| {' | '.join(row[name] for name in names)} |" for row in rows]


def _draw(figure: Figure, comparison: Comparison) -> None:
    axes = figure.add_subplot()
    present = [p for p in PARTS if any(p in result.accuracy for result in comparison.results)]
    offsets = np.linspace(-0.24, 0.24, max(len(present), 2))
    lowest = comparison.required
    for row, result in enumerate(comparison.results):
        for index, part in enumerate(present):
            found = result.accuracy.get(part)
            if found is None or found.value is None:
                continue
            y, colour = row + float(offsets[index]), colour_of(index)
            if found.low is not None and found.high is not None:
                axes.hlines(y, found.low, found.high, color=colour, linewidth=2.2, alpha=0.45)
                lowest = min(lowest, found.low)
            axes.plot(found.value, y, "o", color=colour, markersize=5.5)
        if result.error or not result.accuracy:
            axes.text(
                0.99, row, result.absence, color=MUTED, ha="right",
                va="center", transform=axes.get_yaxis_transform(),
            )  # fmt: skip
    axes.axvline(comparison.required, color=ACCENT, linewidth=1.2, linestyle=(0, (4, 3)))
    handles = [
        Line2D([], [], marker="o", color=colour_of(i), linewidth=2) for i in range(len(present))
    ]
    handles.append(Line2D([], [], color=ACCENT, linewidth=1.2, linestyle=(0, (4, 3))))
    names = [*(NAMES[part] for part in present), f"required {comparison.required:.0%}"]
    axes.legend(handles, names, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=5)
    count = len(comparison.results)
    axes.set_yticks(range(count), [result.encoder for result in comparison.results])
    axes.set(xlim=(max(0.0, lowest - 0.05), 1.01), ylim=(count - 0.5, -0.5), xlabel="accuracy")
    dress(axes, grid="x")
