"""What cutting and encoding tiles come to, before they begin: hours, bytes and memory.

Rates are those that the run folder's journal recorded, by the clock, or else constants from the
tables of ``docs/performance.md``: good for the order of magnitude, not for a booking of machines.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from wsi_pipeline.events import Note, SlideDone, StageResumed, StageStarted
from wsi_pipeline.journal import read_journal
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import usable_cores
from wsi_pipeline.timing import duration
from wsi_pipeline.verbs.tiles import TileConfig

TILES_PER_SECOND: Final = 150  # cut by one core, about
ENCODED_PER_SECOND: Final = 10  # by one core: ResNet50 and DenseNet121 at 256 px, fp32
VALUES: Final = 1024  # of a tile's features: DenseNet121's, about everybody's
VALUE_BYTES: Final = {"float32": 4, "float16": 2}
MEMORY_GB: Final = 0.6  # of a process that cuts or that encodes with such a network
COUNTED: Final = {
    "download": "bytes received",
    "tile": "tiles kept",
    "extract": "tiles encoded",
}
DOWNLOADED_PER_SECOND: Final = 20e6  # bytes, of a hospital's line
TILES_PER_MEGABYTE: Final = 15  # of a slide's file, 256 px at 0.5 µm/px: within a factor of three
TILE_MEGABYTES: Final = 0.2  # of a tile of 256 px, without compression


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A stage's cost: ``seconds`` by the clock, ``megabytes`` on disk, ``rate`` says whence.

    ``memory_gb`` is what one process needs.
    """

    stage: str
    tiles: int
    seconds: float
    megabytes: float
    rate: str
    memory_gb: float = MEMORY_GB

    def note(self) -> Note:
        """Say it in a line."""
        return Note(
            text=f"{self.stage}: about {self.tiles:,} tiles, {self.megabytes:,.0f} MB, "
            f"{duration(self.seconds)} ({self.rate}), {self.memory_gb} GB of memory a process"
        )


def forecast_download(run: RunFolder | None, needed: int, limit: float | None) -> Note:
    """Say how long ``needed`` bytes are on their way; ``limit`` are the most bytes a second."""
    seen = recorded_rate(run, "download") if run is not None else None
    rate = min(seen or DOWNLOADED_PER_SECOND, limit or float("inf"))
    whence = "by this run's journal" if seen else "assumed"
    return Note(
        text=f"download: about {duration(needed / rate)} ({rate / 1e6:.3g} MB a second, {whence})"
    )


def forecast_unseen(config: TileConfig, slide_bytes: int) -> Forecast:
    """Say what cutting comes to of slides that are not there yet, by the size of their files."""
    run, scale = RunFolder(config.run), (128 / (config.tile_px * config.mpp)) ** 2
    tiles = round(slide_bytes / 1e6 * TILES_PER_MEGABYTE * scale)
    each = TILE_MEGABYTES * (config.tile_px / 256) ** 2
    told = forecast_tile(run, tiles, tiles * each, tiles / TILES_PER_SECOND)
    return replace(
        told,
        rate=f"{told.rate}; {TILES_PER_MEGABYTE * scale:.3g} tiles a megabyte of slides, within a "
        "factor of three",
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
