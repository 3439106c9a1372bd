"""The run's journal: each event as a line of JSON, appended as it happens and never rewritten.

A line says when, which verb of which call, the event's class and its fields::

    {"time": "2026-01-02T03:04:05.678+00:00", "verb": "tile",
     "call": "20260102T030405.123456-host-4711", "event": "SlideFailed",
     "fields": {"slide_id": "a", "error": "…"}}

Several processes append to one file, a line at a time. Readers pass over what they do not know: a
line that a killed process left torn, an event of another version. What only moves a bar is not
kept, nor are the stretches of time that go to a trace.
"""

import json
import math
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from pydantic import TypeAdapter, ValidationError

from wsi_pipeline import events
from wsi_pipeline.errors import disk_error
from wsi_pipeline.events import (
    Event,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageResumed,
    StageStarted,
)

KINDS: Final[Mapping[str, type[Event]]] = {
    name: kind
    for name, kind in vars(events).items()
    if isinstance(kind, type) and issubclass(kind, Event)
}
OF_A_SLIDE: Final = tuple(
    kind.__name__ for kind in (SlideStarted, SlideDone, SlideSkipped, SlideFailed)
)
NOT_FINITE: Final = "not finite"
UNTOLD: Final = ("spans",)  # thousands an event, and of use to a trace alone


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line: ``time`` in UTC, the verb, the call of it that spoke, and what it said."""

    time: datetime
    verb: str
    call: str
    event: Event


class Journal:
    """Appends what a verb says to a run's journal; use it in a ``with``.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, verb: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._verb = verb
        now = datetime.now(UTC)
        self._call = f"{now:%Y%m%dT%H%M%S.%f}-{socket.gethostname()}-{os.getpid()}"
        if (size := os.fstat(self._file).st_size) and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")  # behind the torn line of a process that was killed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def take(self, event: Event) -> None:
        """Append an event, in one write, so that processes do not get into each other's lines."""
        if event.FLEETING:
            return
        entry = Entry(time=datetime.now(UTC), verb=self._verb, call=self._call, event=event)
        append_line(self._file, self._path, to_line(entry))


def append_line(file: int, path: Path, line: str) -> None:
    """Append a line in one write.

    Raises:
        DiskError: The disk is full, or fails.
    """
    try:
        os.write(file, f"{line}\n".encode(errors="replace"))
    except OSError as error:
        raise disk_error(error, path) or error from error


def to_line(entry: Entry) -> str:
    """Return an entry as a line of JSON."""
    row = {
        "time": entry.time.isoformat(timespec="milliseconds"),
        "verb": entry.verb,
        "call": entry.call,
        "event": type(entry.event).__name__,
        "fields": told(entry.event),
    }
    return json.dumps(row, allow_nan=False)  # in ASCII: names of files may hold anything


def told(event: Event) -> dict[str, Any]:
    """Return an event's fields as JSON has them."""
    return {
        item.name: plain(getattr(event, item.name))
        for item in fields(event)
        if item.name not in UNTOLD
    }


def from_line(line: str) -> Entry | None:
    """Return the entry of a line; None where it is torn, or of an event that is not known."""
    try:
        row = json.loads(line, object_hook=_numbers)
        kind = KINDS[row["event"]]
        names = {item.name for item in fields(kind)}
        values = {name: value for name, value in row["fields"].items() if name in names}
        return Entry(
            time=datetime.fromisoformat(row["time"]),
            verb=str(row["verb"]),
            call=str(row["call"]),
            event=_adapter(row["event"]).validate_python(values),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        return None


def read_journal(path: Path) -> Iterator[Entry]:
    """Yield the entries of a journal, none where there is no journal."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            entry = from_line(line)
            if entry is not None:
                yield entry


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The last word of a stage on a slide."""

    slide_id: str
    stage: str
    fate: Literal["done", "skipped", "failed"]
    words: str


def read_outcomes(path: Path) -> dict[tuple[str, str], Outcome]:
    """Return each slide's last outcome in each stage, by slide and stage.

    A slide that failed and was done by a later call is done.
    """
    stages: dict[str, str] = {}
    found: dict[tuple[str, str], Outcome] = {}
    for entry in read_journal(path):
        event = entry.event
        if isinstance(event, StageStarted | StageResumed):
            stages[entry.call] = event.stage
        elif isinstance(event, SlideDone | SlideSkipped | SlideFailed):
            outcome = _outcome(event, stages.get(entry.call, entry.verb))
            found[outcome.slide_id, outcome.stage] = outcome
    return found


def ended_a_process(path: Path, killed: str) -> frozenset[str]:
    """Return the slides whose last call began them and never spoke of them again, or lost a worker.

    Lines are only looked at as far as that takes, as a journal may have hundreds of thousands.

    Args:
        path: The journal.
        killed: How the failure of a slide begins whose worker process was killed.
    """
    found: dict[str, bool] = {}
    with suppress(OSError), path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:  # of which some may be torn, or another version's
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                row = json.loads(line)
                if row["event"] in OF_A_SLIDE:
                    told = row["fields"]
                    begun = row["event"] == SlideStarted.__name__
                    found[told["slide_id"]] = begun or told.get("error", "").startswith(killed)
    return frozenset(name for name, ended in found.items() if ended)


def _outcome(event: SlideDone | SlideSkipped | SlideFailed, stage: str) -> Outcome:
    match event:
        case SlideDone(slide_id=slide_id):
            return Outcome(slide_id=slide_id, stage=stage, fate="done", words="")
        case SlideSkipped(slide_id=slide_id, reason=reason, detail=detail):
            words = f"{reason}: {detail}" if detail else reason
            return Outcome(slide_id=slide_id, stage=stage, fate="skipped", words=words)
        case SlideFailed(slide_id=slide_id, error=error):
            return Outcome(slide_id=slide_id, stage=stage, fate="failed", words=error)


def plain(value: Any) -> Any:
    """Return a field as JSON has it; infinity and what is no number, which JSON lacks, marked."""
    if isinstance(value, float) and not math.isfinite(value):
        return {NOT_FINITE: str(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _numbers(values: dict[str, Any]) -> Any:
    return float(values[NOT_FINITE]) if values.keys() == {NOT_FINITE} else values


@cache
def _adapter(kind: str) -> TypeAdapter[Event]:
    return TypeAdapter(KINDS[kind])


def lines_by_call(journal: Path) -> Iterator[tuple[str, str]]:
    """Yield each line of a journal with the call that wrote it."""
    if journal.exists():
        with journal.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                entry = from_line(line)
                if entry is not None:
                    yield entry.call, line
