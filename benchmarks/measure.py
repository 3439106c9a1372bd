"""Interleaved rounds, medians with their spread, and a table and a plot of them."""

import argparse
import compileall
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

import wsi_pipeline
from wsi_pipeline.reporting.style import ACCENT, MUTED, render

RESULTS: Final = Path(__file__).parent / "results"

Rates = Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a benchmark found.

    Attributes:
        name: Of the files.
        title: What was measured.
        unit: Of the rates; more is better.
        rates: Each contestant's, by round; the first is what the others are set against.
        notes: What a reader must know; peers that could not run, with the reason.
        ours: Contestants that are drawn as ours.
        how: What the figures of a contestant are.
    """

    name: str
    title: str
    unit: str
    rates: Rates
    notes: Sequence[str] = ()
    ours: Sequence[str] = ()
    how: str = "interleaved rounds"


def interleave(
    contestants: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Let contestants run in turn, ``rounds`` times; each returns its rate.

    What disturbs the machine for a while then disturbs all of them.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            rates[name].append(run())
            print(f"round {number + 1}: {name} {rates[name][-1]:.3g}", flush=True)
    return rates


def per_cpu_second(work: Callable[[], int]) -> Callable[[], float]:
    """Return a contestant: how many the work does in a second of processor time, all threads."""

    def rate() -> float:
        begun = time.process_time()
        count = work()
        return count / (time.process_time() - begun)

    return rate


def per_second(work: Callable[[], int]) -> Callable[[], float]:
    """Return a contestant: how many the work does in a second by the clock."""

    def rate() -> float:
        begun = time.perf_counter()
        count = work()
        return count / (time.perf_counter() - begun)

    return rate


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write ``<name>.md`` and ``<name>.svg`` of each table, and show the former."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        text = to_markdown(table)
        (folder / f"{table.name}.md").write_text(text, "utf-8")
        (folder / f"{table.name}.svg").write_bytes(_plot(table))
        print(f"\n{text}")


def to_markdown(table: Table) -> str:
    """Return a table's medians, spread and ratios."""
    reference = next(iter(table.rates))
    base = statistics.median(table.rates[reference])
    lines = [
        f"### {table.title}",
        "",
        f"| | {table.unit}, median | least to most | × {reference} |",
        "|---|---:|---:|---:|",
    ]
    for name, found in table.rates.items():
        middle = statistics.median(found)
        lines.append(
            f"| {name} | {_short(middle)} | {_short(min(found))} to {_short(max(found))} "
            f"| {middle / base:.2f} |"
        )
    rounds = len(table.rates[reference])
    lines += ["", f"{rounds} {table.how}, {machine()}."]
    lines += [f"{note}." for note in table.notes]
    return "\n".join(lines) + "\n"


def arguments(description: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """Return the flags that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for tables and plots")
    parser.add_argument(
        "--pixels", type=Path, help="slide whose pixels are repeated; drawn tissue if not given"
    )
    return parser


def compile_modules() -> None:
    """Compile the package's modules, as an installer does.

    Else a checkout in which Python may write none compiles them anew at every start.
    """
    compileall.compile_dir(Path(wsi_pipeline.__file__).parent, quiet=1)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> str:
    """Return what was measured on."""
    return f"{os.cpu_count()} cores ({platform.machine()}), CPython {platform.python_version()}"


def _plot(table: Table) -> bytes:
    names = list(table.rates)
    middles = [statistics.median(table.rates[name]) for name in names]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        colours = [ACCENT if name in table.ours else MUTED for name in names]
        axes.barh(names, middles, color=colours, height=0.6)
        for row, name in enumerate(names):
            low, high = min(table.rates[name]), max(table.rates[name])
            axes.plot([low, high], [row, row], color="black", linewidth=1)
            axes.text(max(high, middles[row]), row, f"  {_short(middles[row])}", va="center")
        axes.invert_yaxis()
        axes.set_xlabel(table.unit)
        axes.set_title(table.title)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)

    return render(draw, (7.0, 0.9 + 0.34 * len(names)), table.title).data
