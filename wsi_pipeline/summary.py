"""What a stage's events add up to, and the lines that say so while it runs and at its end."""

import heapq
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

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
from wsi_pipeline.timing import WAIT, Span, bottleneck, duration

RATED: Final = {"tiles kept": "tiles kept", "tiles encoded": "tiles"}  # count: what of it a second
LONGEST: Final = 3  # slides that are named for their time
MANY: Final = 1.5  # times the median: that many tiles are a reason


@dataclass(kw_only=True)
class Lane:
    """A place where one slide after the other is worked on, a worker most often.

    Attributes:
        slide_id: What is at work there; empty while nothing is.
        since: When that began, by the monotonic clock.
        tiles, seconds: What it has made so far, and in how long.
    """

    slide_id: str = ""
    since: float = 0.0
    tiles: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float | None:
        """Tiles a second of the slides that it has finished."""
        return self.tiles / self.seconds if self.tiles and self.seconds > 0 else None


@dataclass(frozen=True, kw_only=True)
class Took:
    """How long a slide took; ``phases`` say where its time went, ``tiles`` is what it gave."""

    slide_id: str
    seconds: float
    tiles: int
    phases: Mapping[str, float]

    def why(self, median: float) -> str:
        """Say what it had more of than others, and what most of its time went to."""
        said = []
        if self.tiles:
            more = self.tiles / median if median else 0.0
            said.append(f"{self.tiles:,} tiles" + (f", {more:.1f} × the median" * (more >= MANY)))
        busy = {name: seconds for name, seconds in self.phases.items() if name != WAIT}
        if whole := sum(busy.values()):
            phase = max(busy, key=lambda name: busy[name])
            said.append(f"{phase} {busy[phase] / whole:.0%}")
        return "; ".join(said)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How far a stage is.

    Attributes:
        finished, failed, total: Slides, or what else is counted.
        per_hour: How many are worked on; None before the first is finished.
        left_s: Until the end; None where nothing tells.
        at_least: ``left_s`` is a bound, as nothing is finished yet: the others take as long as that
            which is at work has taken already.
    """

    finished: int
    failed: int
    total: int
    per_hour: float | None
    left_s: float | None
    at_least: bool = False

    @property
    def words(self) -> str:
        """Say how long still; empty where nothing tells."""
        if self.left_s is None:
            return ""
        return f"{'over ' * self.at_least}{duration(self.left_s)} left"


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
    lanes: list[Lane] = field(default_factory=list)
    longest: list[Took] = field(default_factory=list)
    tiles_each: list[int] = field(default_factory=list)
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

    @property
    def at_work(self) -> tuple[Lane, ...]:
        """Lanes with a slide; copies, as the stage goes on meanwhile."""
        return tuple(Lane(**vars(lane)) for lane in list(self.lanes) if lane.slide_id)

    @property
    def pace(self) -> Pace:
        """Slides done earlier cost no time, nor do most that fail: neither says anything of it."""
        now = time.monotonic()
        seconds, worked = now - self.started, self.done
        missing, lanes = max(0, self.total - self.finished), self.at_work
        left = missing * seconds / worked if worked else None
        if not worked and missing > len(lanes) > 0:
            longest = now - min(lane.since for lane in lanes)
            left = (missing / len(lanes) - 1) * longest
        return Pace(
            finished=self.finished,
            failed=len(self.failed),
            total=self.total,
            per_hour=worked / seconds * 3600 if worked and seconds > 0 else None,
            left_s=left,
            at_least=left is not None and not worked,
        )

    @property
    def took_longest(self) -> tuple[tuple[str, float, str], ...]:
        """The slides that took longest, the longest first, in how long, and why."""
        median = statistics.median(self.tiles_each) if self.tiles_each else 0.0
        return tuple((each.slide_id, each.seconds, each.why(median)) for each in self.longest)

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
        """Keep in mind what is at work, and what took long."""
        match event:
            case SlideStarted(slide_id=slide_id):
                lane = next((each for each in self.lanes if not each.slide_id), None)
                if lane is None:
                    lane = Lane()
                    self.lanes.append(lane)
                lane.slide_id, lane.since = slide_id, time.monotonic()
            case SlideDone() | SlideSkipped() | SlideFailed():
                lane = next((x for x in self.lanes if x.slide_id == event.slide_id), None)
                if isinstance(event, SlideDone):
                    self._keep(event, lane)
                if lane is not None:
                    lane.slide_id = ""
            case EpochDone(model=model, epoch=epoch, epochs=epochs):
                self.epoch = f"{model} has {epoch} of {epochs} epochs"

    def _keep(self, event: SlideDone, lane: Lane | None) -> None:
        tiles = sum(event.counts.get(name, 0) for name in RATED)
        if tiles:
            self.tiles_each.append(tiles)
        if lane is not None:
            lane.tiles += tiles
            lane.seconds += time.monotonic() - lane.since
        if event.seconds:
            took = Took(slide_id=event.slide_id, seconds=event.seconds, tiles=tiles,
                        phases=event.phases)  # fmt: skip
            found = [*self.longest, took]
            self.longest = heapq.nlargest(LONGEST, found, key=lambda each: each.seconds)

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
    """Return how far a stage is: done of all, lost, how fast, how long still, what is at work."""
    pace = summary.pace
    parts = [f"{pace.finished} of {pace.total} {summary.unit}", f"{pace.failed} failed"]
    if pace.per_hour is not None:
        parts.append(f"{pace.per_hour:.3g} an hour")
    if pace.words:
        parts.append(pace.words if pace.at_least else f"about {pace.words}")
    if summary.epoch:
        parts.append(summary.epoch)
    now = f"; running for {duration(time.monotonic() - summary.started)}"
    if lanes := summary.at_work:
        longest = duration(time.monotonic() - min(lane.since for lane in lanes))
        now = f"; at work on {named([lane.slide_id for lane in lanes])} for up to {longest}"
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


def exit_status(stages: Iterable[Summary]) -> int:
    """Return 1 where a slide, or what else a stage counts, failed."""
    return 1 if any(summary.failed for summary in stages) else 0


def as_json(summary: Summary) -> dict[str, Any]:
    """Return a stage's sums as JSON-ready data, for a program that started it."""
    rate = summary.throughput
    return {
        "stage": summary.stage,
        "part": summary.part,
        "unit": summary.unit,
        "total": summary.total,
        "done": summary.done,
        "skipped": dict(summary.skipped),
        "failed": dict(summary.failed),
        "counts": dict(summary.counts),
        "flags": dict(summary.flags),
        "seconds": round(summary.seconds, 3),
        "per_second": {rate[0]: round(rate[1], 3)} if rate else {},
        "phases": {name: round(seconds, 3) for name, seconds in summary.phases.items()},
        "took_longest": [
            {"slide_id": slide_id, "seconds": round(seconds, 3), "why": why}
            for slide_id, seconds, why in summary.took_longest
        ],
        "planned": [dict(plan.row) for plan in summary.planned],
        "written": dict(summary.written),
    }
