"""Events to progress bars on a terminal, to plain lines elsewhere, and to the closing table."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from wsi_pipeline.atomic import write_json
from wsi_pipeline.errors import DiskFullError, UsageError, disk_error, os_reason
from wsi_pipeline.events import (
    EpochDone,
    Event,
    FileProgress,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageResumed,
    StageStarted,
    Written,
)
from wsi_pipeline.inventory import begin
from wsi_pipeline.journal import Journal, append_line
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.summary import Summaries, Summary, progress_line, time_line
from wsi_pipeline.timing import bottleneck, trace_events

TICK_S: Final = 60.0  # between two lines that say how far a stage is


class Consumer(Protocol):
    """Something that is told every event, in order: the sums, the journal, the log, the screen."""

    def take(self, event: Event) -> None: ...


def show(verb: str, config: StageConfig, events: Iterator[Event]) -> int:
    """Show what stages do as it happens, then a table for each; return the exit status."""
    console = Console()
    with ExitStack() as stack:
        shown: _Bars | _Lines = _Lines(console)
        if console.is_terminal:
            shown = _Bars(stack.enter_context(_progress(console)))
        stages = carry_out(verb, config, events, shown)
    _close(console, stages)
    if config.profile and config.run_folder is not None:
        path = config.run_folder.trace(verb)
        _write_trace(path, stages)
        console.print(f"trace: {escape(str(path))}", soft_wrap=True, highlight=False)
    return 1 if any(summary.failed for summary in stages) else 0


def carry_out(
    verb: str, config: StageConfig, events: Iterator[Event], shown: "_Bars | _Lines | None" = None
) -> Sequence[Summary]:
    """Run stages to their end, kept in the run folder's journal and log; return their sums."""
    sums = Summaries(verb)
    with ExitStack() as stack:
        kept = _Kept(verb, config, stack)
        listeners = [kept] if shown is None else [shown, kept]  # shown also where it cannot be kept
        consumers: list[Consumer] = [sums, *listeners]
        stack.enter_context(_ticking(sums, listeners))
        for event in events:
            for consumer in consumers:
                consumer.take(event)
        kept.open()
        for summary in sums.stages:
            kept.say(time_line(summary))
    return sums.stages


@contextmanager
def _ticking(sums: Summaries, listeners: "Sequence[_Kept | _Bars | _Lines]") -> Iterator[None]:
    """Say how far the stage is once a minute, also while one slide takes an hour.

    A thread of its own: whatever blocks the stage, a decoder or a fit, cannot silence it.
    """
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(TICK_S):
            if not sums.current.total:  # nothing is counted: a verb that waits for a person
                continue
            line = progress_line(sums.current)
            with suppress(OSError):  # the next event meets it too
                for listener in listeners:
                    listener.say(line)

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
    """Plain, dated lines for people in the run folder's ``logs/``, each in one write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def take(self, event: Event) -> None:
        self.say(event.line())
        self.say(getattr(event, "traceback", ""))

    def say(self, line: str) -> None:
        if line:
            now = datetime.now().isoformat(" ", "milliseconds")
            append_line(self._file, self._path, f"{now} {line}")

    def close(self) -> None:
        os.close(self._file)


class _Kept:
    """The journal and the log of the run folder; neither where there is none.

    They are opened when the first stage begins its work, so that a request that is refused, even
    after a query was answered, leaves no folder.
    """

    def __init__(self, verb: str, config: StageConfig, stack: ExitStack) -> None:
        self._verb = verb
        self._folder = None if config.dry_run else config.run_folder
        self._only_reads = config.only_reads
        self._stack = stack
        self._early: list[Event] = []
        self._journal: Journal | None = None
        self._log: _Log | None = None

    def take(self, event: Event) -> None:
        if self._journal is None and isinstance(event, Note | Written):
            self._early.append(event)
            return
        self.open()
        self._take(event)

    def say(self, line: str) -> None:
        if self._log is not None:
            self._log.say(line)

    def open(self) -> None:
        """Begin both with what was said before, and the inventory of what will be written.

        Raises:
            UsageError: Nothing can be written there.
            DiskFullError: Nothing more can be.
        """
        folder = self._folder
        if folder is None or self._journal is not None:
            return
        try:
            if not self._only_reads:
                begin(folder.root)
            self._journal = self._stack.enter_context(Journal(folder.journal, self._verb))
            self._log = _Log(folder.log(self._verb))
            self._stack.callback(self._log.close)
        except OSError as error:
            if self._only_reads:
                self._folder = self._journal = None
                return
            told = disk_error(error, folder.root)
            if isinstance(told, DiskFullError):
                raise told from None
            raise UsageError(
                f"{folder.root}: no files can be written there ({os_reason(error)}); choose "
                "another folder"
            ) from None
        for event in self._early:
            self._take(event)

    def _take(self, event: Event) -> None:
        if self._journal is not None and self._log is not None:
            self._journal.take(event)
            self._log.take(event)


class _Lines:
    """A line an event, where there is no terminal to draw on."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def take(self, event: Event) -> None:
        self.say(event.line())

    def say(self, line: str) -> None:
        if line:
            self._console.print(escape(line), soft_wrap=True, highlight=False)


class _Bars:
    """A bar for the stage that runs, and one for each file on its way."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage: TaskID | None = None
        self._stages: dict[str, TaskID] = {}
        self._files: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        """Say nothing: the bars show how far the stage is."""

    def take(self, event: Event) -> None:
        """Redraw what an event changes; what is for people to read stands above the bars."""
        if event.LOUD:
            line = escape(event.line())
            self._progress.console.print(line, soft_wrap=True, highlight=False)
        bars, stage = self._progress, self._stage
        match event:
            case StageStarted(stage=name, total=total):
                self._stage = bars.add_task(name, total=total, amount=f"0/{total}", now="")
                self._stages[name] = self._stage
            case StageResumed(stage=name, more=more):
                self._stage = self._stages.get(name, stage)
                if self._stage is not None and more:
                    task = bars.tasks[bars.task_ids.index(self._stage)]
                    bars.update(self._stage, total=(task.total or 0) + more)
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
    part = f", {summary.part}" if summary.part else ""
    title = f"{summary.stage}{part}: {summary.seconds:.1f} s"
    table = Table("what", "number", title=title, title_justify="left")
    table.columns[1].justify = "right"
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


def _time_table(summary: Summary) -> Table:
    """Set out where the time went, the longest first.

    Phases are summed over all workers and threads, which work at the same time, and wait for each
    other: their sum is not the time that passed, which stands below it.
    """
    table = Table(
        "where the time went", "seconds, summed over threads",
        title_justify="left", caption_justify="left",
        caption=f"{bottleneck(summary.phases)} limits",
    )  # fmt: skip
    table.columns[1].justify = "right"
    for phase, seconds in summary.phases.most_common():
        table.add_row(escape(phase), f"{seconds:.1f}")
    table.add_section()
    table.add_row("all phases, summed over threads", f"{sum(summary.phases.values()):.1f}")
    table.add_row("by the clock", f"{summary.seconds:.1f}")
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
