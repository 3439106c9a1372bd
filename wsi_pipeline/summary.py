"""What a stage's events add up to, and the lines that say so while it runs and at its end."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from wsi_pipeline.errors import named
from wsi_pipeline.events import (
    EpochDone,
    Event,
    Planned,
    RowsMerged,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageResumed,
    StageStarted,
    TimeSpent,
    Unmatched,
    Written,
)
from wsi_pipeline.timing import Span, bottleneck, duration

RATED: Final = {"tiles kept": "tiles kept", "tiles encoded": "tiles"}  # count: what of it a second


@dataclass(kw_only=True)
class Summary:
    """What a stage's events add up to."""

    stage: str
    unit: str = "slides"
    part: str = ""
    total: int = 0
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
    at_work: dict[str, float] = field(default_factory=dict)
    epoch: str = ""

    @property
    def throughput(self) -> tuple[str, float] | None:
        """What the stage makes of slides, and how many of it a second by the clock; None if none.

        The clock runs from the stage's start to its last event; workers' start and end count.
        """
        for name, what in RATED.items():
            if self.counts[name] and self.seconds > 0:
                return what, self.counts[name] / self.seconds
        return None

    @property
    def finished(self) -> int:
        """Units of work that have met their fate."""
        return self.done + sum(self.skipped.values()) + len(self.failed)

    def add(self, event: Event) -> None:
        self.seconds = time.monotonic() - self.started
        self._follow(event)
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

    def _follow(self, event: Event) -> None:
        """Keep in mind what is at work."""
        match event:
            case SlideStarted(slide_id=slide_id):
                self.at_work[slide_id] = time.monotonic()
            case SlideDone() | SlideSkipped() | SlideFailed():
                self.at_work.pop(event.slide_id, None)
            case EpochDone(model=model, epoch=epoch, epochs=epochs):
                self.epoch = f"{model} has {epoch} of {epochs} epochs"

    def _add_time(self, slide_id: str, event: SlideDone | TimeSpent) -> None:
        self.phases.update(event.phases)
        if event.spans:
            self.spans[slide_id] = event.spans


class Summaries:
    """The stages of one call, folded as their events come."""

    def __init__(self, verb: str) -> None:
        self.stages = [Summary(stage=verb)]
        self.current = self.stages[0]  # the stage that speaks

    def take(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            stage = Summary(stage=event.stage, unit=event.unit, total=event.total, part=event.part)
            self.stages.append(stage)
            self.current = stage
        elif isinstance(event, StageResumed):
            known = [each for each in self.stages if each.stage == event.stage]
            if known:
                self.current = known[-1]
                self.current.total += event.more
        self.current.add(event)


def progress_line(summary: Summary) -> str:
    """Return how far a stage is: done of all, lost, how fast, how long still, and what is at work.

    Slides skipped because they were done earlier cost no time, so they say nothing of the rate.
    """
    seconds = time.monotonic() - summary.started
    worked = summary.done + len(summary.failed)
    parts = [f"{summary.finished} of {summary.total} {summary.unit}"]
    parts += [f"{len(summary.failed)} failed"]
    if worked:
        left = max(0, summary.total - summary.finished) * seconds / worked
        parts += [f"{worked / seconds * 3600:.3g} an hour", f"about {duration(left)} left"]
    if summary.epoch:
        parts.append(summary.epoch)
    now = f"; running for {duration(seconds)}"
    if at_work := dict(summary.at_work):  # a copy: the stage goes on meanwhile
        longest = duration(time.monotonic() - min(at_work.values()))
        now = f"; at work on {named(list(at_work))} for up to {longest}"
    return f"{summary.stage}: {', '.join(parts)}{now}"


def time_line(summary: Summary) -> str:
    """Return where the time went in one line, for the log; empty where nothing was timed."""
    if not any(summary.phases.values()):
        return ""
    spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in summary.phases.most_common())
    summed = sum(summary.phases.values())
    rate = f", {told[1]:.1f} {told[0]} a second" if (told := summary.throughput) else ""
    return (
        f"{summary.stage}: {spent}; {bottleneck(summary.phases)} limits; {summed:.1f} s summed "
        f"over threads, {summary.seconds:.1f} s by the clock{rate}"
    )
