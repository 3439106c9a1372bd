"""What is seen of a call: lanes and bars on a terminal, lines elsewhere, JSON for programs.

Bars fit into 40 columns, ``NO_COLOR`` is heeded, and what is not a terminal gets plain lines.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TextIO

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from wsi_pipeline.events import (
    EpochDone,
    Event,
    FileProgress,
    Planned,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    StageResumed,
    StageStarted,
)
from wsi_pipeline.journal import plain, told
from wsi_pipeline.summary import Lane, Summaries, Summary, as_json, exit_status, progress_line
from wsi_pipeline.timing import bottleneck, duration

NARROW: Final = 64  # columns below which there is no room for a bar
MOST_LANES: Final = 16


class Shown(Protocol):
    """A screen: is told every event, how far the stage is once a minute, and how all ended."""

    def take(self, event: Event) -> None: ...

    def tick(self, summary: Summary) -> None: ...

    def close(self, stages: Sequence[Summary]) -> None: ...


@contextmanager
def shown_on(sums: Summaries, *, as_lines_of_json: bool) -> Iterator[Shown]:
    """Yield the screen that fits where the output goes; bars end with the block.

    Args:
        sums: Of the call; they are told an event before the screen is.
        as_lines_of_json: Say everything as JSON, for a program.
    """
    if as_lines_of_json:
        yield JsonLines(sums.stages[0].stage, sys.stdout)
        return
    console = Console()
    if not console.is_terminal:
        yield Lines(console)
        return
    with _Progress(console, sums) as progress:
        yield Bars(progress)


class JsonLines:
    """Every event as an object a line, as in the run's journal; at the end what it comes to.

    ``Progress`` objects say once a minute how far the stage is, and ``Closing`` is the last line.
    """

    def __init__(self, verb: str, stream: TextIO) -> None:
        self._verb = verb
        self._stream = stream

    def take(self, event: Event) -> None:
        if not event.FLEETING:
            self._say(type(event).__name__, told(event))

    def tick(self, summary: Summary) -> None:
        pace = {"stage": summary.stage, **vars(summary.pace)}
        self._say("Progress", pace | {"at_work": [lane.slide_id for lane in summary.at_work]})

    def close(self, stages: Sequence[Summary]) -> None:
        used = [
            as_json(stage) for stage in stages if stage.total or stage.finished or stage.written
        ]
        self._say("Closing", {"status": exit_status(stages), "stages": used})

    def refuse(self, status: int, error: str) -> None:
        """Close a call that came to no end of its own."""
        self._say("Closing", {"status": status, "error": error, "stages": []})

    def _say(self, name: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = {"time": now, "verb": self._verb, "event": name, "fields": plain(fields)}
        self._stream.write(f"{json.dumps(row, allow_nan=False)}\n")
        self._stream.flush()


class Lines:
    """A line an event, where there is no terminal to draw on."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def take(self, event: Event) -> None:
        self._say(event.line())

    def tick(self, summary: Summary) -> None:
        self._say(progress_line(summary))

    def close(self, stages: Sequence[Summary]) -> None:
        _close(self._console, stages)

    def _say(self, line: str) -> None:
        if line:
            self._console.print(escape(line), soft_wrap=True, highlight=False)


class Bars:
    """A bar for each stage, one for each file on its way, and a lane for each slide at work."""

    def __init__(self, progress: "_Progress") -> None:
        self._progress = progress
        self._stages: dict[str, TaskID] = {}
        self._stage: TaskID | None = None

    def tick(self, summary: Summary) -> None:
        """Say nothing: the bars show how far the stage is."""

    def close(self, stages: Sequence[Summary]) -> None:
        _close(self._progress.console, stages)

    def take(self, event: Event) -> None:
        """Redraw what an event changes; what is for people to read stands above the bars."""
        bars = self._progress
        if event.LOUD:
            bars.console.print(escape(event.line()), soft_wrap=True, highlight=False)
        match event:
            case StageStarted(stage=name, total=total):
                now = bars.sums.current
                self._stage = bars.add_task(name, total=total, summary=now, words="")
                self._stages[name] = self._stage
            case StageResumed(stage=name, more=more):
                self._stage = self._stages.get(name, self._stage)
                if self._stage is not None and more:
                    bars.update(self._stage, total=bars.sums.current.total)
            case FileProgress():
                bars.draw_file(event)
            case SlideDone() | SlideSkipped() | SlideFailed() if self._stage is not None:
                bars.advance(self._stage)
                bars.end_file(event.slide_id)
            case EpochDone(model=model, epoch=epoch, epochs=epochs) if self._stage is not None:
                words = f"{model} {epoch}/{epochs}"
                bars.update(self._stage, completed=epoch, total=epochs, words=words)


class _Progress(Progress):
    """Bars, and below them the lanes, drawn anew several times a second."""

    def __init__(self, console: Console, sums: Summaries) -> None:
        self.sums = sums
        self._files: dict[str, TaskID] = {}
        narrow = console.width < NARROW
        name = TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1))
        bar = () if narrow else (BarColumn(bar_width=24),)
        super().__init__(name, *bar, _Words(narrow=narrow), console=console, expand=narrow)

    def draw_file(self, event: FileProgress) -> None:
        if event.slide_id not in self._files:
            self._files[event.slide_id] = self.add_task(
                f"  {event.slide_id}", total=event.total_bytes, summary=None, words=""
            )
        words = f"{decimal(event.done_bytes)} of {decimal(event.total_bytes)}"
        if event.eta_s is not None:
            words += f", {decimal(round(event.bytes_per_s))}/s, {duration(event.eta_s)} left"
        self.update(self._files[event.slide_id], completed=event.done_bytes, words=words)

    def end_file(self, slide_id: str) -> None:
        if slide_id in self._files:
            self.remove_task(self._files.pop(slide_id))

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        lanes = [
            (stage.stage, lane)
            for stage in list(self.sums.stages)
            for lane in stage.at_work
            if lane.slide_id not in self._files
        ]
        if lanes:
            yield from _lanes(lanes[:MOST_LANES], self.console.width)
        if len(lanes) > MOST_LANES:
            yield Text(f"  and {len(lanes) - MOST_LANES} more at work")


class _Words(ProgressColumn):
    """Done of all, failed, how fast, how long still; of a file its bytes."""

    max_refresh = 0.5

    def __init__(self, *, narrow: bool) -> None:
        super().__init__(Column(no_wrap=not narrow))
        self._narrow = narrow

    def render(self, task: Task) -> Text:
        summary: Summary | None = task.fields["summary"]
        if summary is None:
            return Text(str(task.fields["words"]))
        pace = summary.pace
        words = [f"{pace.finished}/{pace.total}", *filter(None, [str(task.fields["words"])])]
        if pace.failed:
            words.append(f"{pace.failed} failed")
        if pace.per_hour is not None and not task.finished:
            words.append(_an_hour(pace.per_hour, "/h" if self._narrow else " an hour"))
        if pace.words and not task.finished:
            words.append(pace.words)
        return Text(", ".join(words), style="red" if pace.failed else "")


def _an_hour(number: float, unit: str) -> str:
    return f"{number:,.0f}{unit}" if number >= 10 else f"{number:.2g}{unit}"


def _lanes(lanes: Sequence[tuple[str, Lane]], width: int) -> Iterator[Text]:
    """Yield a line for each slide at work: its id, the stage, for how long, the lane's speed.

    Of what is too long for the screen the id is cut short.
    """
    now = time.monotonic()
    stages = max(len(stage) for stage, _ in lanes)
    for stage, lane in lanes:
        rate = "" if lane.rate is None else f"{lane.rate:,.0f} tiles/s"
        if width < NARROW:
            rate = rate.removesuffix("tiles/s") + "/s" * bool(rate)
        told = f"  {stage:<{stages}}  {duration(now - lane.since):>6}  {rate:>12}"
        told = told.rstrip() if width < NARROW else told
        name = Text(f"  {lane.slide_id}")
        name.truncate(max(8, min(40, width - len(told))), overflow="ellipsis", pad=True)
        yield name.append(told)


def _close(console: Console, summaries: Sequence[Summary]) -> None:
    for summary in summaries:
        if summary.planned:
            text = f"{summary.stage}: nothing was written\n{_aligned(summary.planned)}"
            console.print(text, soft_wrap=True, highlight=False, markup=False)
            continue
        for table in _tables(summary):
            console.print(table)
    for summary in summaries:
        for slide_id, error in summary.failed.items():
            console.print(f"[red]failed[/] {escape(f'{slide_id}: {error}')}", soft_wrap=True)
    for summary in summaries:
        for path, what in summary.written.items():
            console.print(f"{escape(what)}: {escape(path)}", soft_wrap=True, highlight=False)


def _tables(summary: Summary) -> Iterator[Table]:
    if not (summary.done or summary.skipped or summary.failed):
        return
    part = f", {summary.part}" if summary.part else ""
    title = f"{summary.stage}{part}: {summary.seconds:.1f} s"
    table = _folded("what", "number", title=title)
    table.add_row(f"{summary.unit} done", str(summary.done))
    for reason, number in summary.skipped.most_common():
        table.add_row(f"  skipped: {escape(reason)}", str(number))
    style = "red" if summary.failed else ""
    table.add_row(f"{summary.unit} failed", str(len(summary.failed)), style=style)
    for name, number in summary.counts.items():
        table.add_row(escape(name), f"{number:,}")
    if rate := summary.throughput:
        table.add_row(f"{rate[0]} a second, by the clock", f"{rate[1]:,.1f}")
    for flag, number in summary.flags.most_common():
        table.add_row(f"flag: {escape(flag)}", str(number), style="yellow")
    yield table
    if any(summary.phases.values()):
        yield _time_table(summary)
    if summary.done > len(summary.took_longest) > 0:  # of three slides all three say nothing
        yield _longest_table(summary)


def _folded(*heads: str, title: str = "", caption: str = "") -> Table:
    """Return a table whose cells go on in a line below where the screen is narrow."""
    table = Table(title=title or None, title_justify="left",
                  caption=caption or None, caption_justify="left")  # fmt: skip
    for place, head in enumerate(heads):
        table.add_column(head, overflow="fold", justify="right" if place == 1 else "left")
    return table


def _time_table(summary: Summary) -> Table:
    """Set out where the time went, the longest first.

    Phases are summed over all workers and threads, which work at the same time, and wait for each
    other: their sum is not the time that passed, which stands below it.
    """
    table = _folded("where the time went", "seconds, summed over threads",
                    caption=f"{bottleneck(summary.phases)} limits")  # fmt: skip
    for phase, seconds in summary.phases.most_common():
        table.add_row(escape(phase), f"{seconds:.1f}")
    table.add_section()
    table.add_row("all phases, summed over threads", f"{sum(summary.phases.values()):.1f}")
    table.add_row("by the clock", f"{summary.seconds:.1f}")
    return table


def _longest_table(summary: Summary) -> Table:
    table = _folded("took longest", "seconds", "what of")
    for slide_id, seconds, why in summary.took_longest:
        table.add_row(escape(slide_id), f"{seconds:.1f}", escape(why))
    return table


def _aligned(planned: Sequence[Planned]) -> str:
    """Set rows in columns, as plain text: thousands of slides, a pipe, or a search are no matter.

    Columns that are empty throughout are left out; nothing is ever cut short.
    """
    names = dict.fromkeys(
        name for plan in planned for name, value in plan.row.items() if value is not None
    )
    columns = [[name, *(_cell(plan.row.get(name)) for plan in planned)] for name in names]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
