"""Stages carried out and kept: each event to the sums, to journal and log, and to the screen."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from wsi_pipeline.atomic import sweep, write_json
from wsi_pipeline.display import Shown, shown_on
from wsi_pipeline.engine import kept_workers
from wsi_pipeline.errors import DiskFullError, UsageError, disk_error, os_reason
from wsi_pipeline.events import Event, Note, Written
from wsi_pipeline.inventory import begin
from wsi_pipeline.journal import Journal, append_line
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.summary import Summaries, Summary, exit_status, progress_line, time_line
from wsi_pipeline.timing import Span, trace_events

TICK_S: Final = 60.0  # between two words on how far a stage is


class Listener(Protocol):
    """Something that is told every event, in order, and how far a stage is: journal, screen."""

    def take(self, event: Event) -> None: ...

    def tick(self, summary: Summary) -> None: ...


def show(verb: str, config: StageConfig, events: Iterator[Event], *, as_json: bool = False) -> int:
    """Show what stages do as it happens, then what it comes to; return the exit status.

    Args:
        verb: What was called.
        config: Its settings.
        events: What it does.
        as_json: Say it to a program, an object a line.
    """
    sums = Summaries(verb)
    with shown_on(sums, as_lines_of_json=as_json) as shown:
        stages = carry_out(verb, config, events, sums=sums, shown=shown)
    if config.profile and config.run_folder is not None:
        path = config.run_folder.trace(verb)
        _write_trace(path, stages)
        stages[-1].written[str(path)] = "trace"
    shown.close(stages)
    return exit_status(stages)


def carry_out(
    verb: str,
    config: StageConfig,
    events: Iterator[Event],
    *,
    sums: Summaries | None = None,
    shown: Shown | None = None,
) -> Sequence[Summary]:
    """Run stages to their end, kept in the run folder's journal and log; return their sums.

    They share one pool of worker processes.
    """
    sums = sums or Summaries(verb)
    with kept_workers(), ExitStack() as stack:
        kept = _Kept(verb, config, stack)
        # the screen also where nothing can be kept
        listeners: list[Listener] = [kept] if shown is None else [shown, kept]
        stack.enter_context(_ticking(sums, listeners))
        for event in events:
            sums.take(event)
            for listener in listeners:
                listener.take(event)
        kept.open()
        for summary in sums.stages:
            kept.say(time_line(summary))
    return sums.stages


@contextmanager
def _ticking(sums: Summaries, listeners: Sequence[Listener]) -> Iterator[None]:
    """Say how far the stage is once a minute, also while one slide takes an hour.

    A thread of its own: whatever blocks the stage, a decoder or a fit, cannot silence it.
    """
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(TICK_S):
            if not sums.current.total:  # nothing is counted: a verb that waits for a person
                continue
            with suppress(OSError):  # the next event meets it too
                for listener in listeners:
                    listener.tick(sums.current)

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write_trace(path: Path, summaries: Sequence[Summary]) -> None:
    """Write where the time went, to be opened in Perfetto."""
    spans: dict[str, tuple[Span, ...]] = {}
    for summary in summaries:  # of which several may have worked on the same slide
        for name, own in summary.spans.items():
            spans[name] = (*spans.get(name, ()), *own)
    write_json(path, trace_events(spans))


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

    def tick(self, summary: Summary) -> None:
        self.say(progress_line(summary))

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
                for room in (folder.tiles, folder.models):  # old folders are removed once replaced
                    sweep(room)
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
