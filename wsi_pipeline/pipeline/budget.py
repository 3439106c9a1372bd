"""What a study of thousands of slides comes to: hours, bytes and cost, by stage, in one table.

Amounts are those that the study's dry run planned, or that follow from the sizes of the files in a
manifest or query. Rates are the constants of ``docs/performance.md``, measured on two cores of a
shared machine; they say the order of magnitude. Prices, and what a GPU does, are the user's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from wsi_pipeline.events import Event, Note, Planned, StageStarted
from wsi_pipeline.pipeline.forecast import (
    DOWNLOADED_PER_SECOND,
    ENCODED_PER_SECOND,
    TILES_PER_MEGABYTE,
    TILES_PER_SECOND,
    VALUE_BYTES,
    VALUES,
)
from wsi_pipeline.settings import StageConfig, usable_cores
from wsi_pipeline.verbs.runs import BudgetSettings
from wsi_pipeline.verbs.slides import DownloadConfig
from wsi_pipeline.verbs.tiles import ExtractConfig, TileConfig

TILE_KB: Final = {"zstd": 174.4, "none": 196.7, "jpeg": 35.0}  # of 256 px, by codec, as measured
GB: Final = 1e9
HOUR: Final = 3600.0
LEARNING_CORES: Final = 2  # of which the constants of learning are


class Amounts(Protocol):
    """What there is to do: tiles, and the bytes of the slides' files where they are known."""

    tiles: int
    slides: int
    file_bytes: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """A stage's share: hours of cores and of GPUs, and by the clock; bytes in GB of 10^9."""

    stage: str
    cores: float = 0.0
    gpus: float = 0.0
    clock: float = 0.0
    read: float = 0.0
    written: float = 0.0
    kept: float = 0.0
    out: float = 0.0  # what people fetch in the end


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is budgeted: stages with the seconds and MB of those that learn, and the amounts."""

    stages: list[tuple[StageConfig, float, float]]
    amounts: Amounts
    keeps_slides: bool = True


def budget(study: Study, how: BudgetSettings) -> Iterator[Event]:
    """Yield a row a stage, the storage, and their sum; then what they rest on."""
    lines = list(_lines(study, how))
    yield StageStarted(stage="budget", total=len(lines), unit="stages")
    for line in lines:
        yield Planned(row=_row(line, _cost(line, how), how))
    kept, out = sum(line.kept for line in lines), sum(line.out for line in lines)
    stored = None if how.price_gb_month is None else kept * how.months * how.price_gb_month
    fetched = None if how.price_gb_out is None else out * how.price_gb_out
    yield Planned(row=_row(Line(stage=f"kept, {how.months:g} months", kept=kept), stored, how))
    if fetched is not None:
        yield Planned(row=_row(Line(stage="results fetched", read=out), fetched, how))
    whole = Line(
        stage="in all",
        **{
            name: sum(getattr(line, name) for line in lines)
            for name in ("cores", "gpus", "clock", "read", "written", "kept")
        },
    )
    costs = [*(_cost(line, how) for line in lines), stored, fetched]
    known = [cost for cost in costs if cost is not None]
    yield Planned(row=_row(whole, sum(known) if known else None, how))
    yield from _grounds(study, how)


def _lines(study: Study, how: BudgetSettings) -> Iterator[Line]:
    tiles = study.amounts.tiles
    slides = (study.amounts.file_bytes or tiles / TILES_PER_MEGABYTE * 1e6) / GB
    cut = next((each for each, *_ in study.stages if isinstance(each, TileConfig)), None)
    tiled = 0.0 if cut is None else tiles * _tile_kb(cut) / 1e6
    features = 0.0
    for config, seconds, megabytes in study.stages:
        match config:
            case DownloadConfig():
                rate = (config.max_mb_per_s or DOWNLOADED_PER_SECOND / 1e6) / 1e3  # GB a second
                kept = slides if study.keeps_slides else 0.0
                yield Line(stage="download", clock=slides / rate / HOUR, read=slides,
                           written=slides, kept=kept)  # fmt: skip
            case TileConfig():
                hours = tiles / TILES_PER_SECOND / HOUR
                yield Line(stage="tile", cores=hours, clock=hours / _cores(how), read=slides,
                           written=tiled, kept=tiled)  # fmt: skip
            case ExtractConfig():
                features = tiles * VALUES * VALUE_BYTES[config.dtype] / GB
                yield _encoding(config, how, tiles, tiled or slides, features)
            case _:
                made = megabytes / 1e3
                yield Line(stage=config.verb, cores=seconds * LEARNING_CORES / HOUR,
                           clock=seconds / HOUR, read=features, written=made, kept=made,
                           out=made)  # fmt: skip


def _encoding(
    config: ExtractConfig, how: BudgetSettings, tiles: int, read: float, features: float
) -> Line:
    amounts = {"read": read, "written": features, "kept": features, "out": features}
    if how.gpus and how.gpu_tiles_per_s:
        hours = tiles / how.gpu_tiles_per_s / HOUR
        return Line(stage=config.verb, gpus=hours, clock=hours / how.gpus, **amounts)
    hours = tiles / ENCODED_PER_SECOND / HOUR
    return Line(stage=config.verb, cores=hours, clock=hours / _cores(how), **amounts)


def _tile_kb(config: TileConfig) -> float:
    codec = {"zarr": "zstd"}.get(config.store, "none") if config.codec == "auto" else config.codec
    return TILE_KB.get(codec, TILE_KB["none"]) * (config.tile_px / 256) ** 2


def _cores(how: BudgetSettings) -> int:
    return how.machines * (how.cores or usable_cores())


def _cost(line: Line, how: BudgetSettings) -> float | None:
    """Return a stage's cost by the prices that are given; None where none is."""
    prices = [(line.cores, how.price_core_hour), (line.gpus, how.price_gpu_hour)]
    known = [amount * price for amount, price in prices if price is not None]
    return sum(known) if known else None


def _row(
    line: Line, cost: float | None, how: BudgetSettings
) -> dict[str, str | int | float | None]:
    def told(value: float) -> str:
        if not value:
            return "–"
        return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"

    return {
        "stage": line.stage,
        "core h": told(line.cores),
        "GPU h": told(line.gpus) if how.gpus else None,
        "h by the clock": told(line.clock),
        "read GB": told(line.read),
        "written GB": told(line.written),
        "kept GB": told(line.kept),
        "cost": None if cost is None else f"{cost:,.2f}",
    }


def _grounds(study: Study, how: BudgetSettings) -> Iterator[Note]:
    """Say what the table rests on, and what it leaves out."""
    amounts = study.amounts
    sized = (
        f"{amounts.file_bytes / GB:,.0f} GB of slides"
        if amounts.file_bytes
        else f"slides of {TILES_PER_MEGABYTE} tiles a MB"
    )
    encoder = (
        f"a GPU encodes {how.gpu_tiles_per_s:,.4g} tiles a second (given)"
        if how.gpus and how.gpu_tiles_per_s
        else f"a core encodes {ENCODED_PER_SECOND} tiles a second"
    )
    machines = f"{how.machines} machines of {how.cores or usable_cores()} cores"
    yield Note(
        text=f"budget of {amounts.slides:,} slides, about {amounts.tiles:,} tiles ({sized}): a "
        f"core cuts {TILES_PER_SECOND} tiles a second, {encoder}, a tile of 256 px takes "
        f"{TILE_KB['zstd']:.0f} kB (zstd) or {TILE_KB['jpeg']:.0f} kB (jpeg), as measured on two "
        f"cores; {machines} are at work throughout; the line brings what --max-mb-per-s says, else "
        f"{DOWNLOADED_PER_SECOND / 1e6:.0f} MB a second"
    )
    prices = {
        "core hour": how.price_core_hour,
        "GPU hour": how.price_gpu_hour,
        "GB and month": how.price_gb_month,
        "GB fetched": how.price_gb_out,
    }
    given = [f"{price:g} a {what}" for what, price in prices.items() if price is not None]
    lacks = [what for what, price in prices.items() if price is None]
    yield Note(
        text=f"prices: {', '.join(given) or 'none given'}, in your own currency"
        + (f"; without a price, and left out: {', '.join(lacks)}" if lacks else "")
    )
