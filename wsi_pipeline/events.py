"""What a stage reports while it runs: plain data, in the order it happened.

A stage is a generator of events. The command line folds them into progress bars and the closing
table, tests fold them into lists; the library itself prints nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wsi_pipeline.timing import Span


@dataclass(frozen=True, kw_only=True)
class Event:
    """Anything a stage says."""


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    """First event of a stage: how many units of work (slides, epochs, files) it has before it."""

    stage: str
    total: int
    unit: str = "slides"


@dataclass(frozen=True, kw_only=True)
class SlideStarted(Event):
    slide_id: str


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


@dataclass(frozen=True, kw_only=True)
class SlideFailed(Event):
    """The slide is lost to this run; every other slide goes on."""

    slide_id: str
    error: str
    traceback: str = ""  # of an error nobody foresaw; goes to the log


@dataclass(frozen=True, kw_only=True)
class FileProgress(Event):
    """One file on its way; ``eta_s`` is None while nothing moves."""

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

    text: str
