"""Events to progress bars on a terminal, to plain lines elsewhere, and to the closing table."""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from wsi_pipeline.config import StageConfig
from wsi_pipeline.events import (
    EpochDone,
    Event,
    Note,
    Planned,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageStarted,
    Written,
)


@dataclass(kw_only=True)
class Summary:
    """What a stage's events add up to."""

    verb: str
    done: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    planned: list[Planned] = field(default_factory=list)

    def add(self, event: Event) -> None:
        match event:
            case SlideDone(counts=counts, flags=flags):
                self.done += 1
                self.counts.update(counts)
                self.flags.update(flags)
            case SlideSkipped(reason=reason):
                self.skipped[reason] += 1
            case SlideFailed(slide_id=slide_id, error=error):
                self.failed[slide_id] = error
            case Written(path=path, what=what):
                self.written[path] = what
            case Planned():
                self.planned.append(event)

    @property
    def exit_status(self) -> int:
        return 1 if self.failed else 0


def show(verb: str, config: StageConfig, events: Iterator[Event]) -> int:
    """Show a stage's events as they come, then the table; return the exit status."""
    console = Console()
    summary = Summary(verb=verb)
    started = time.monotonic()
    with ExitStack() as stack:
        log = stack.enter_context(_Log(verb, config))
        bars = stack.enter_context(_progress(console)) if console.is_terminal else None
        for event in events:
            summary.add(event)
            line = plain_line(event)
            if line:
                log.write(line)
                log.write(getattr(event, "traceback", ""))
                if bars is None or isinstance(event, Note | SlideFailed):
                    console.print(escape(line), soft_wrap=True, highlight=False)
            if bars is not None:
                _advance(bars, event)
    for table in _tables(summary, time.monotonic() - started):
        console.print(table)
    for slide_id, error in summary.failed.items():
        console.print(f"[red]failed[/] {escape(f'{slide_id}: {error}')}", soft_wrap=True)
    for path, what in summary.written.items():
        console.print(f"{escape(what)}: {escape(path)}", soft_wrap=True, highlight=False)
    return summary.exit_status


def plain_line(event: Event) -> str:
    """Return the log line of an event, empty for those that have none."""
    match event:
        case StageStarted(stage=stage, total=total, unit=unit):
            return f"{stage}: {total} {unit}"
        case SlideStarted(slide_id=slide_id):
            return f"{slide_id}: started"
        case SlideDone(slide_id=slide_id, counts=counts, flags=flags, seconds=seconds):
            parts = [f"{count} {name}" for name, count in counts.items()]
            parts += [f"flag {flag}" for flag in flags]
            return f"{slide_id}: done in {seconds:.1f} s" + (
                f" ({', '.join(parts)})" if parts else ""
            )
        case SlideSkipped(slide_id=slide_id, reason=reason, detail=detail):
            return f"{slide_id}: skipped, {reason}" + (f": {detail}" if detail else "")
        case SlideFailed(slide_id=slide_id, error=error):
            return f"{slide_id}: failed, {error}"
        case EpochDone(model=model, epoch=epoch, epochs=epochs, metrics=metrics):
            figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            return f"{model}: epoch {epoch} of {epochs}, {figures}"
        case Note(text=text):
            return text
    return ""


class _Log:
    """Plain, dated lines in the run folder's ``logs/``; nowhere if the stage has no run folder."""

    def __init__(self, verb: str, config: StageConfig) -> None:
        folder = None if config.dry_run else config.log_folder
        self._handler: logging.Handler = logging.NullHandler()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._handler = logging.FileHandler(folder / f"{verb}.log", encoding="utf-8")
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


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[current]}"),
        console=console,
    )


def _advance(bars: Progress, event: Event) -> None:
    task = bars.task_ids[-1] if bars.task_ids else None
    match event:
        case StageStarted(stage=stage, total=total):
            bars.add_task(stage, total=total, current="")
        case SlideStarted(slide_id=slide_id) if task is not None:
            bars.update(task, current=slide_id)
        case SlideDone() | SlideSkipped() | SlideFailed() if task is not None:
            bars.advance(task)
        case EpochDone(model=model, epoch=epoch, epochs=epochs) if task is not None:
            bars.update(task, current=model, completed=epoch, total=epochs)


def _tables(summary: Summary, seconds: float) -> Iterator[Table]:
    if summary.planned:
        columns = list(dict.fromkeys(name for plan in summary.planned for name in plan.row))
        table = Table(*columns, title=f"{summary.verb}: nothing was written")
        for plan in summary.planned:
            table.add_row(*(_cell(plan.row.get(name)) for name in columns))
        yield table
        return
    if not (summary.done or summary.skipped or summary.failed):
        return
    table = Table("what", "number", title=f"{summary.verb}: {seconds:.1f} s", title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("slides done", str(summary.done))
    for reason, number in summary.skipped.most_common():
        table.add_row(f"  skipped: {escape(reason)}", str(number))
    table.add_row("slides failed", str(len(summary.failed)), style="red" if summary.failed else "")
    for name, number in summary.counts.items():
        table.add_row(escape(name), f"{number:,}")
    for flag, number in summary.flags.most_common():
        table.add_row(f"flag: {escape(flag)}", str(number), style="yellow")
    yield table


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
