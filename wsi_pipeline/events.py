"""What a stage reports while it runs: plain data, in the order it happened.

A stage is a generator of events. The command line folds them into progress bars, a log, the run's
journal and the closing table, tests fold them into lists; the library itself prints nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from wsi_pipeline.errors import named
from wsi_pipeline.timing import Span


@dataclass(frozen=True, kw_only=True)
class Event:
    """Anything a stage says.

    Attributes:
        LOUD: Whether it is for people to read, also where bars show what goes on.
        FLEETING: Whether it only moves a bar, and is kept nowhere.
    """

    LOUD: ClassVar[bool] = False
    FLEETING: ClassVar[bool] = False

    def line(self) -> str:
        """Return it in a line for people; empty where there is nothing to say."""
        return ""


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    """First event of a stage: how many units of work (slides, epochs, files) it has before it.

    ``part`` says which part of the cohort these are; empty where it is all.
    """

    stage: str
    total: int
    unit: str = "slides"
    part: str = ""

    def line(self) -> str:
        told = f"{self.stage}: {self.total} {self.unit}"
        return f"{told} ({self.part})" if self.part else told


@dataclass(frozen=True, kw_only=True)
class StageResumed(Event):
    """From here on a stage speaks that has spoken before: several work at the same time.

    It has ``more`` units of work before it than it knew.
    """

    stage: str
    more: int = 0


@dataclass(frozen=True, kw_only=True)
class SlideStarted(Event):
    slide_id: str

    def line(self) -> str:
        return f"{self.slide_id}: started"


@dataclass(frozen=True, kw_only=True)
class SlideDone(Event):
    """``counts`` feed the closing funnel, for instance ``{"tiles kept": 812}``.

    ``phases`` say where the time went, see ``timing``; ``spans`` too, where a trace is asked for.
    """

    slide_id: str
    counts: Mapping[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()

    def line(self) -> str:
        parts = [f"{count} {name.strip()}" for name, count in self.counts.items()]
        parts += [f"flag {flag}" for flag in self.flags]
        told = f" ({', '.join(parts)})" if parts else ""
        return f"{self.slide_id}: done in {self.seconds:.1f} s{told}"


@dataclass(frozen=True, kw_only=True)
class TimeSpent(Event):
    """Where the time went that belongs to no single slide; as in :class:`SlideDone`."""

    phases: Mapping[str, float]
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SlideSkipped(Event):
    """Nothing to do, or nothing to be done: finished earlier, no tissue.

    ``reason`` is one of a few, and counted; ``detail`` says what was found on this slide.
    """

    slide_id: str
    reason: str
    detail: str = ""

    def line(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.slide_id}: skipped, {self.reason}{detail}"


@dataclass(frozen=True, kw_only=True)
class SlideFailed(Event):
    """The slide is lost to this run; every other slide goes on."""

    LOUD: ClassVar[bool] = True

    slide_id: str
    error: str
    traceback: str = ""  # of an error nobody foresaw; goes to the log

    def line(self) -> str:
        return f"{self.slide_id}: failed, {self.error}"


@dataclass(frozen=True, kw_only=True)
class FileProgress(Event):
    """One file on its way; ``eta_s`` is None while nothing moves."""

    FLEETING: ClassVar[bool] = True

    slide_id: str
    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    eta_s: float | None


@dataclass(frozen=True, kw_only=True)
class EpochDone(Event):
    model: str
    epoch: int
    epochs: int
    metrics: Mapping[str, float]

    def line(self) -> str:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return f"{self.model}: epoch {self.epoch} of {self.epochs}, {figures}"


@dataclass(frozen=True, kw_only=True)
class RowsMerged(Event):
    """The rows of this call are in the run's table: so many are new, so many were there already.

    ``others`` are rows of earlier calls that this one says nothing of.
    """

    table: str
    new: int
    same: int
    changed: int
    others: int

    @property
    def counts(self) -> dict[str, int]:
        """As the closing table shows them."""
        asked, there = self.new + self.same + self.changed, self.same + self.changed + self.others
        changed = {"  changed": self.changed} if self.changed else {}
        counts = {"rows from this call": asked, "  new": self.new, **changed}
        return counts | {"rows that were there": there}

    def line(self) -> str:
        parts = {"new": self.new, "as they were": self.same, "changed": self.changed}
        told = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
        more = f"; {self.others} more were there" if self.others else ""
        asked = self.new + self.same + self.changed
        return f"{self.table}: {asked} rows from this call ({told}){more}"


@dataclass(frozen=True, kw_only=True)
class Unmatched(Event):
    """Rows of the run's table that have no store of a kind, and stores that have no row."""

    LOUD: ClassVar[bool] = True

    table: str
    what: str
    without_store: tuple[str, ...] = ()
    without_row: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """As the closing table shows them."""
        counts = {
            f"rows without a {self.what}": len(self.without_store),
            f"{self.what}s without a row": len(self.without_row),
        }
        return {name: count for name, count in counts.items() if count}

    def line(self) -> str:
        parts = []
        if self.without_store:
            rows = len(self.without_store)
            parts.append(f"{rows} of its rows have no {self.what} ({named(self.without_store)})")
        if self.without_row:
            stores = len(self.without_row)
            parts.append(f"{stores} {self.what}s have no row ({named(self.without_row)})")
        return f"{self.table}: {', and '.join(parts)}"


@dataclass(frozen=True, kw_only=True)
class Planned(Event):
    """One line of a dry run's table, keyed by column."""

    row: Mapping[str, str | int | float | None]


@dataclass(frozen=True, kw_only=True)
class Written(Event):
    """A file or folder the user will want to open."""

    path: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """Something the user should read: a warning, a caveat, a figure."""

    LOUD: ClassVar[bool] = True

    text: str

    def line(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class TotalProgress(Note):
    """A whole download on its way; its text says the same in words."""

    FLEETING: ClassVar[bool] = True

    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    eta_s: float | None
