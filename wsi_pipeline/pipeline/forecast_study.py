"""What a whole study comes to: its stages' costs and their sum, told at the end of its dry run.

Tiles and slides are those that the stages before planned. Learning is told at its longest: where no
model stops before its last epoch. Rates of learning are of two cores without a GPU.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from wsi_pipeline.events import Event, Note, Planned
from wsi_pipeline.pipeline.budget import Study, budget
from wsi_pipeline.pipeline.forecast import (
    MEMORY_GB,
    VALUE_BYTES,
    VALUES,
    Forecast,
    forecast_extract,
    forecast_tile,
    forecast_unseen,
)
from wsi_pipeline.pipeline.study_file import Plan
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.timing import duration
from wsi_pipeline.verbs.models import AuditConfig, PredictConfig, TrainConfig
from wsi_pipeline.verbs.runs import ReportConfig, RunConfig
from wsi_pipeline.verbs.slides import DownloadConfig
from wsi_pipeline.verbs.tiles import ExtractConfig, TileConfig

START_SECONDS: Final = 5.0  # of a stage that learns, scores or shows
AUDITED_PER_SECOND: Final = 10_000  # tiles compared with all others
LEARNT_PER_SECOND: Final = 30_000  # tiles an epoch goes through
SCORED_SECONDS: Final = 0.4  # a slide, its heatmaps drawn
REPORT_SECONDS: Final = 0.1  # a slide
MODEL_MEGABYTES: Final = 4.0
SCORED_MEGABYTES: Final = 1.0  # of a slide's predictions and heatmaps
REPORT_MEGABYTES: Final = (2.0, 0.05)  # and of a slide
WHENCE: Final = "two cores, by a constant"


@dataclass(kw_only=True)
class Amounts:
    """What the stages before planned: slides, tiles, and the bytes and seconds of cutting them."""

    tiles: int = 0
    slides: int = 0
    megabytes: float = 0.0
    seconds: float = 0.0
    files: int = 0
    file_bytes: int = 0

    def unseen(self, config: TileConfig) -> None:
        """Count the tiles of slides that are to be fetched first, by the size of their files."""
        told = forecast_unseen(config, self.file_bytes)
        self.tiles, self.slides = told.tiles, self.files
        self.megabytes, self.seconds = told.megabytes, told.seconds

    def add(self, event: Planned) -> None:
        """Count a row of a dry run's table: of ``download``, ``tile`` or ``extract``."""
        row = event.row
        if row.get("bytes"):
            self.files += int(row.get("slides") or 1)
            self.file_bytes += int(row["bytes"] or 0)
        if row.get("tiles ≈"):
            self.slides += 1
            self.tiles += int(row["tiles ≈"] or 0)
            self.megabytes += float(row.get("MB ≈") or 0)
            self.seconds += float(row.get("s ≈") or 0)
        elif "features" in row:
            self.slides += 1
            self.tiles += int(row.get("tiles") or 0)


def with_sum(config: RunConfig, plan: Plan, events: Iterable[Event]) -> Iterator[Event]:
    """Pass on what a study's dry run says, then tell what its stages come to, and their sum.

    Where machines or prices are given, their budget follows.
    """
    planned = Amounts()
    for event in events:
        if isinstance(event, Planned):
            planned.add(event)
        yield event
    cut = next((stage for _, stage in plan if isinstance(stage, TileConfig)), None)
    if cut is not None and not planned.tiles and planned.file_bytes:
        planned.unseen(cut)
    if not planned.tiles:
        return
    costs = [(stage, _cost(stage, planned)) for _, stage in plan]
    told = [cost for _, cost in costs if cost is not None]
    for cost in told:
        if cost.stage not in ("tile", "extract"):  # which said it themselves
            yield cost.note()
    yield _sum(told)
    if config.has_budget:
        stages = [
            (stage, cost.seconds if cost else 0.0, cost.megabytes if cost else 0.0)
            for stage, cost in costs
            if cost or isinstance(stage, DownloadConfig)
        ]
        yield from budget(
            Study(
                stages=stages,
                amounts=planned,
                keeps_slides=not config.delete_after_tiling,
            ),
            config,
        )


def _cost(config: StageConfig, planned: Amounts) -> Forecast | None:
    """Estimate a stage; None for one that is not estimated."""
    match config:
        case TileConfig():
            run = RunFolder(config.run)
            return forecast_tile(run, planned.tiles, planned.megabytes, planned.seconds)
        case ExtractConfig():
            return forecast_extract(RunFolder(config.run), planned.tiles, VALUE_BYTES[config.dtype])
        case AuditConfig():
            return _learning("audit", planned, planned.tiles / AUDITED_PER_SECOND, 1.0)
        case TrainConfig():
            return _training(config, planned)
        case PredictConfig():
            seconds = SCORED_SECONDS * planned.slides + planned.tiles / LEARNT_PER_SECOND
            return _learning("predict", planned, seconds, SCORED_MEGABYTES * planned.slides)
        case ReportConfig():
            fixed, each = REPORT_MEGABYTES
            return _learning(
                "report", planned, REPORT_SECONDS * planned.slides, fixed + each * planned.slides
            )
    return None


def _training(config: TrainConfig, planned: Amounts) -> Forecast:
    """The tile classifier and each aggregator, in every fold, and the audit before them."""
    models = (1 + len(config.aggregator)) * max(1, config.folds)
    epoch = min(planned.tiles, planned.slides * config.tiles) / LEARNT_PER_SECOND
    seconds = planned.tiles / AUDITED_PER_SECOND + models * config.epochs * epoch
    return _learning("train", planned, seconds, MODEL_MEGABYTES * models, "at most: ")


def _learning(
    stage: str, planned: Amounts, seconds: float, megabytes: float, how: str = ""
) -> Forecast:
    held = planned.tiles * VALUES * VALUE_BYTES["float16"] / 1e9 if stage == "train" else 0.0
    return Forecast(
        stage=stage,
        tiles=planned.tiles,
        seconds=START_SECONDS + seconds,
        megabytes=megabytes,
        rate=f"{how}{WHENCE}",
        memory_gb=round(MEMORY_GB + held, 1),
    )


def _sum(told: list[Forecast]) -> Note:
    seconds, megabytes = (sum(getattr(one, of) for one in told) for of in ("seconds", "megabytes"))
    memory = max(one.memory_gb for one in told)
    return Note(
        text=f"the whole study ({', '.join(one.stage for one in told)}): {duration(seconds)}, "
        f"{megabytes:,.0f} MB on disk, {memory} GB of memory in the largest process"
    )
