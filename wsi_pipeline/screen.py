"""Events to progress bars on a terminal, to plain lines elsewhere, and to the closing table."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from wsi_pipeline.atomic import write_json
from wsi_pipeline.config import StageConfig
from wsi_pipeline.errors import UsageError
from wsi_pipeline.events import (
    EpochDone,
    Event,
    FileProgress,
    Planned,
    RowsMerged,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageStarted,
    TimeSpent,
    Unmatched,
    Written,
)
from wsi_pipeline.timing import Span, bottleneck, trace_events


@dataclass(kw_only=True)
class Summary:
    """What a stage's events add up to."""

    stage: str
    unit: str = "slides"
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    done: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    planned: list[Planned] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)
    spans: dict[str, tuple[Span, ...]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        self.seconds = time.monotonic() - self.started
        match event:
            case SlideDone(counts=counts, flags=flags):
                self.done += 1
                self.counts.update(counts)
                self.flags.update(flags)
                self._add_time(event.slide_id, event)
            case TimeSpent():
                self._add_time("", event)
            case SlideSkipped(reason=reason):
                self.skipped[reason] += 1
            case SlideFailed(slide_id=slide_id, error=error):
                self.failed[slide_id] = error
            case Written(path=path, what=what):
                self.written[path] = what
            case RowsMerged() | Unmatched():
                self.counts.update(event.counts)
            case Planned():
                self.planned.append(event)

    def _add_time(self, slide_id: str, event: SlideDone | TimeSpent) -> None:
        self.phases.update(event.phases)
        if event.spans:
            self.spans[slide_id] = event.spans


def show(verb: str, config: StageConfig, events: Iterator[Event]) -> int:
    """Show what stages do as it happens, then a table for each; return the exit status."""
    console = Console()
    summaries = [Summary(stage=verb)]
    with ExitStack() as stack:
        log = stack.enter_context(_Log(verb, config))
        bars = _Bars(stack.enter_context(_progress(console))) if console.is_terminal else None
        for event in events:
            if isinstance(event, StageStarted):
                summaries.append(Summary(stage=event.stage, unit=event.unit))
            summaries[-1].add(event)
            line = event.line()
            if line:
                log.write(line)
                log.write(getattr(event, "traceback", ""))
                if bars is None or event.LOUD:
                    console.print(escape(line), soft_wrap=True, highlight=False)
            if bars is not None:
                bars.advance(event)
        for summary in summaries:
            log.write(time_line(summary))
    _close(console, summaries)
    if config.profile and config.run_folder is not None:
        path = config.run_folder.trace(verb)
        _write_trace(path, summaries)
        console.print(f"trace: {escape(str(path))}", soft_wrap=True, highlight=False)
    return 1 if any(summary.failed for summary in summaries) else 0


def _write_trace(path: Path, summaries: Sequence[Summary]) -> None:
    """Write where the time went, to be opened in Perfetto."""
    spans = {name: own for summary in summaries for name, own in summary.spans.items()}
    write_json(path, trace_events(spans))


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


class _Log:
    """Plain, dated lines in the run folder's ``logs/``; nowhere if the stage has no run folder."""

    def __init__(self, verb: str, config: StageConfig) -> None:
        folder = None if config.dry_run else config.run_folder
        self._handler: logging.Handler = logging.NullHandler()
        if folder is not None:
            try:
                folder.logs.mkdir(parents=True, exist_ok=True)
                self._handler = logging.FileHandler(folder.log(verb), encoding="utf-8")
            except OSError as error:
                raise UsageError(
                    f"{folder.root}: no files can be written there ({error.strerror}); choose "
                    "another folder"
                ) from None
            self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._handler.close()

    def write(self, line: str) -> None:
        if not line:
            return
        record = logging.LogRecord("wsi_pipeline", logging.INFO, "", 0, line, None, None)
        self._handler.handle(record)


class _Bars:
    """A bar for the stage that runs, and one for each file on its way."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage: TaskID | None = None
        self._files: dict[str, TaskID] = {}

    def advance(self, event: Event) -> None:
        """Redraw what an event changes."""
        bars, stage = self._progress, self._stage
        match event:
            case StageStarted(stage=name, total=total):
                self._stage = bars.add_task(name, total=total, amount=f"0/{total}", now="")
            case FileProgress():
                self._draw_file(event)
            case SlideStarted(slide_id=slide_id) if stage is not None:
                bars.update(stage, now=slide_id)
            case SlideDone() | SlideSkipped() | SlideFailed() if stage is not None:
                bars.advance(stage)
                task = bars.tasks[bars.task_ids.index(stage)]
                bars.update(stage, amount=f"{task.completed:.0f}/{task.total:.0f}")
                if event.slide_id in self._files:
                    bars.remove_task(self._files.pop(event.slide_id))
            case EpochDone(model=model, epoch=epoch, epochs=epochs) if stage is not None:
                bars.update(
                    stage, now=model, completed=epoch, total=epochs, amount=f"{epoch}/{epochs}"
                )

    def _draw_file(self, event: FileProgress) -> None:
        if event.slide_id not in self._files:
            self._files[event.slide_id] = self._progress.add_task(
                f"  {event.slide_id}", total=event.total_bytes, amount="", now=""
            )
        self._progress.update(
            self._files[event.slide_id],
            completed=event.done_bytes,
            amount=f"{decimal(event.done_bytes)} of {decimal(event.total_bytes)}",
            now=f"{decimal(round(event.bytes_per_s))}/s",
        )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
        console=console,
    )


def _tables(summary: Summary) -> Iterator[Table]:
    if not (summary.done or summary.skipped or summary.failed):
        return
    table = Table(
        "what", "number", title=f"{summary.stage}: {summary.seconds:.1f} s", title_justify="left"
    )
    table.columns[1].justify = "right"
    table.add_row(f"{summary.unit} done", str(summary.done))
    for reason, number in summary.skipped.most_common():
        table.add_row(f"  skipped: {escape(reason)}", str(number))
    style = "red" if summary.failed else ""
    table.add_row(f"{summary.unit} failed", str(len(summary.failed)), style=style)
    for name, number in summary.counts.items():
        table.add_row(escape(name), f"{number:,}")
    for flag, number in summary.flags.most_common():
        table.add_row(f"flag: {escape(flag)}", str(number), style="yellow")
    yield table
    if any(summary.phases.values()):
        yield _time_table(summary)


def time_line(summary: Summary) -> str:
    """Return where the time went in one line, for the log; empty where nothing was timed."""
    if not any(summary.phases.values()):
        return ""
    spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in summary.phases.most_common())
    return f"{summary.stage}: {spent}; {bottleneck(summary.phases)} limits"


def _time_table(summary: Summary) -> Table:
    """Set out where the time went, over all workers and threads, the longest first."""
    table = Table(
        "where the time went", "seconds", title_justify="left", caption_justify="left",
        caption=f"{bottleneck(summary.phases)} limits",
    )  # fmt: skip
    table.columns[1].justify = "right"
    for phase, seconds in summary.phases.most_common():
        table.add_row(escape(phase), f"{seconds:.1f}")
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
