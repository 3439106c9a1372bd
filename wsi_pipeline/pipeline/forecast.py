"""What cutting and encoding tiles come to, before they begin: hours, bytes and memory.

Rates are those that the run folder's journal recorded, by the clock, or else constants from the
tables of ``docs/performance.md``: good for the order of magnitude, not for a booking of machines.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wsi_pipeline.events import Note, SlideDone, StageResumed, StageStarted
from wsi_pipeline.journal import read_journal
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import usable_cores
from wsi_pipeline.timing import duration

TILES_PER_SECOND: Final = 150  # cut by one core, about
ENCODED_PER_SECOND: Final = 10  # by one core: ResNet50 and DenseNet121 at 256 px, fp32
VALUES: Final = 1024  # of a tile's features: DenseNet121's, about everybody's
VALUE_BYTES: Final = {"float32": 4, "float16": 2}
MEMORY_GB: Final = 0.6  # of a process that cuts or that encodes with such a network
COUNTED: Final = {"tile": "tiles kept", "extract": "tiles encoded"}


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A stage's cost: ``seconds`` by the clock, ``megabytes`` on disk, ``rate`` says whence."""

    stage: str
    tiles: int
    seconds: float
    megabytes: float
    rate: str

    def note(self) -> Note:
        """Say it in a line."""
        return Note(
            text=f"{self.stage}: about {self.tiles:,} tiles, {self.megabytes:,.0f} MB, "
            f"{duration(self.seconds)} ({self.rate}), {MEMORY_GB} GB of memory a process"
        )


def forecast_tile(run: RunFolder, tiles: int, megabytes: float, core_seconds: float) -> Forecast:
    """Say what cutting comes to; ``core_seconds`` are those of one core by the constant."""
    seen = recorded_rate(run, "tile")
    return Forecast(
        stage="tile",
        tiles=tiles,
        seconds=tiles / seen if seen else core_seconds,
        megabytes=megabytes,
        rate=_recorded(seen) if seen else f"one core, {TILES_PER_SECOND} tiles a second",
    )


def forecast_extract(run: RunFolder, tiles: int, value_bytes: int) -> Forecast:
    """Say what encoding comes to, in features of ``value_bytes`` a value."""
    seen, cores = recorded_rate(run, "extract"), usable_cores()
    by_constant = f"{cores} cores, no GPU, {ENCODED_PER_SECOND} tiles a second and core"
    return Forecast(
        stage="extract",
        tiles=tiles,
        seconds=tiles / (seen or ENCODED_PER_SECOND * cores),
        megabytes=tiles * VALUES * value_bytes / 1e6,
        rate=f"{_recorded(seen) if seen else by_constant}; {VALUES:,} values a tile",
    )


def recorded_rate(run: RunFolder, stage: str) -> float | None:
    """Return the tiles a second by the clock in all calls of a stage; None if none is recorded."""
    stages: dict[str, str] = {}  # of each call, the one that runs
    began: dict[str, datetime] = {}
    ended: dict[str, datetime] = {}
    tiles = 0
    for entry in read_journal(run.journal):
        if isinstance(entry.event, StageStarted | StageResumed):
            stages[entry.call] = entry.event.stage
            if isinstance(entry.event, StageStarted) and entry.event.stage == stage:
                began[entry.call] = entry.time
        elif isinstance(entry.event, SlideDone) and stages.get(entry.call) == stage:
            ended[entry.call] = entry.time
            tiles += entry.event.counts.get(COUNTED[stage], 0)
    seconds = sum((ended[call] - began[call]).total_seconds() for call in ended)
    return tiles / seconds if tiles and seconds > 0 else None


def _recorded(rate: float) -> str:
    return f"{rate:,.1f} tiles a second by this run's journal"
