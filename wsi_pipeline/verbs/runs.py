"""What the verbs of run folders and of whole studies can be told."""

from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from wsi_pipeline.learn import PROMISED
from wsi_pipeline.mirror_settings import Brought, MirrorSettings
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import (
    DIR,
    FILE,
    HOW,
    POSITIONAL,
    Device,
    Run,
    Settings,
    Slides,
    StageConfig,
    run_named_in,
)


class VerifyConfig(StageConfig, MirrorSettings):
    """Hold all that a run folder has against its digests, and against what it was made from."""

    verb: ClassVar = "verify"
    example: ClassVar = "runs/liver --slides slides"
    needs: ClassVar = ("root",)
    only_reads: ClassVar = True

    run: Run = Field(description="Run folder; it may be one that cannot be written.")
    slides: Slides = Field(
        default=None,
        description="Folder the cohort table's paths start from; else the table's own. Whether the "
        "slides are still the same is looked at where they are at hand.",
    )
    pixels: bool = Field(
        default=True, description="Read every tile; without it, read all but the pixels."
    )
    fast: Annotated[bool, HOW] = Field(
        default=False,
        description="Look at sizes and at the digests of digests, and read no contents.",
    )


class RepairConfig(StageConfig):
    """Redo what verify finds damaged, and only that, from what is sound."""

    verb: ClassVar = "repair"
    example: ClassVar = "runs/liver --slides slides"
    needs: ClassVar = ("root",)

    run: Run = Field(description="Run folder.")
    slides: Slides = Field(
        default=None, description="Folder the cohort table's paths start from; else its own."
    )
    accept: Annotated[tuple[str, ...], HOW] = Field(
        default=(),
        description="A file of the run that is right as it is now, for instance cohort.csv after "
        "an edit by hand, or all. May be given several times.",
    )
    adopt: Annotated[bool, HOW] = Field(
        default=False,
        description="Give digests to what an older version wrote without any, as it is now.",
    )
    device: Device = Field(default="auto", description="What the encoder and the model run on.")


class ReportConfig(StageConfig, MirrorSettings):
    """Write an HTML page about a run folder, its pictures beside it."""

    verb: ClassVar = "report"
    example: ClassVar = "runs/liver"
    needs: ClassVar = ("root",)

    run: Run = Field(description="Run folder.")
    title: str | None = Field(
        default=None, description="Of the page; the cohorts' names if not given."
    )
    slides: Slides = Field(
        default=None,
        description="Folder the cohort table's paths start from, for tiles as scanned beside the "
        "normalised ones; without it these are left out.",
    )
    out: Annotated[Path | None, HOW, FILE] = Field(
        default=None, description="The page; <run>/report/index.html if not given."
    )
    date: Annotated[str | None, HOW] = Field(
        default=None, description="To be printed; without it equal runs give equal pages."
    )
    single_file: bool = Field(
        default=False,
        description="Put the pictures into the page, to send it as one file; for few slides.",
    )
    max_slides: int | None = Field(
        default=None,
        ge=0,
        description="The most slides with pictures; all if not given, 60 in a single file. The "
        "index has all.",
    )
    readings: Annotated[Path | None, HOW, FILE] = Field(
        default=None,
        description="Table of what readers said: slide_id, reader_<name>, seconds_<name>, either "
        "also with _with_model; beside what the cohort table has of these columns.",
    )
    wage_per_hour: float | None = Field(
        default=None, gt=0, description="A reader's wage; makes seconds a case its cost."
    )
    machine_per_hour: float | None = Field(
        default=None,
        gt=0,
        description="Price of the machine; adds what the model costs a case, at the speed that "
        "the run's journal measured.",
    )
    promised_gain: float = Field(
        default=PROMISED,
        gt=0,
        lt=1,
        description="Gain in accuracy that readers with the model are held against.",
    )

    @property
    def brings(self) -> tuple[Brought, ...]:
        return (Brought(".*"),)

    @property
    def pictured(self) -> int | None:
        """How many slides have pictures at most; None for all."""
        return 60 if self.single_file and self.max_slides is None else self.max_slides


class ViewConfig(StageConfig):
    """Look at a run folder in a browser: slides, tiles, flags, predictions; and decide."""

    verb: ClassVar = "view"
    example: ClassVar = "runs/liver"
    needs: ClassVar = ("root",)
    only_reads: ClassVar = True
    stopped: ClassVar = "What was decided is kept in the run folder."

    run: Run = Field(description="Run folder.")
    slides: Slides = Field(
        default=None,
        description="Folder the cohort table's paths start from; else the table's own. Without "
        "slides thumbnails are shown.",
    )
    port: Annotated[int, HOW] = Field(
        default=0, ge=0, le=65535, description="Port on this machine; 0: any that is free."
    )
    browser: Annotated[bool, HOW] = Field(default=True, description="Open the browser.")


class InitConfig(StageConfig):
    """Write the files of a shipped study, to be changed and run."""

    verb: ClassVar = "init"
    example: ClassVar = "liver --folder study"

    name: Annotated[str, HOW, POSITIONAL] = Field(default="liver", description="Which study.")
    folder: Annotated[Path, HOW, DIR] = Field(
        default=Path(), description="Folder to write them to; the study is run there."
    )


class BudgetSettings(Settings):
    """What a dry run's table of hours, bytes and cost reckons with."""

    topic: ClassVar = "budget of a dry run"

    machines: Annotated[int, HOW] = Field(
        default=1, ge=1, description="Machines. Any of these makes --dry-run tell the budget."
    )
    cores: Annotated[int | None, HOW] = Field(
        default=None, ge=1, description="Cores of each; this machine's if not given."
    )
    gpus: Annotated[int, HOW] = Field(default=0, ge=0, description="GPUs in all.")
    gpu_tiles_per_s: Annotated[float | None, HOW] = Field(
        default=None,
        gt=0,
        description="Tiles that one of them encodes a second; `python -m benchmarks.gpu` measures "
        "it.",
    )
    price_core_hour: Annotated[float | None, HOW] = Field(
        default=None, ge=0, description="Your price of a core for an hour."
    )
    price_gpu_hour: Annotated[float | None, HOW] = Field(
        default=None, ge=0, description="Your price of a GPU for an hour."
    )
    price_gb_month: Annotated[float | None, HOW] = Field(
        default=None, ge=0, description="Your price of storing 10^9 bytes for a month."
    )
    price_gb_out: Annotated[float | None, HOW] = Field(
        default=None,
        ge=0,
        description="Your price of 10^9 bytes that leave the store: features and results, once.",
    )
    months: Annotated[float, HOW] = Field(
        default=1.0, gt=0, description="How long what is written is kept."
    )

    @property
    def has_budget(self) -> bool:
        """Whether any of it was told."""
        return bool(self.model_fields_set & BudgetSettings.model_fields.keys())

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.has_budget and not getattr(self, "dry_run", True):
            raise ValueError("machines and prices go with --dry-run")
        if bool(self.gpus) != (self.gpu_tiles_per_s is not None):
            raise ValueError(
                "--gpus and --gpu-tiles-per-s go together: no speed of a GPU was measured here"
            )
        return self


class RunConfig(StageConfig, BudgetSettings):
    """Run every stage of a study file; what is finished is not redone."""

    verb: ClassVar = "run"
    example: ClassVar = "stages/liver.toml"

    study: Annotated[Path, POSITIONAL, FILE] = Field(
        description="Study file, for instance stages/liver.toml."
    )
    only: Annotated[tuple[str, ...], HOW] = Field(
        default=(), description="Run these stages alone; may be given several times."
    )
    overlap: Annotated[bool, HOW] = Field(
        default=True,
        description="Cut slides while others still come, and encode those that are cut.",
    )
    delete_after_tiling: Annotated[bool, HOW] = Field(
        default=False,
        description="Delete a downloaded slide's file once its tile store is verified; downloading "
        "waits while the files on disk fill their room.",
    )
    disk_gb: Annotated[float | None, HOW] = Field(
        default=None,
        gt=0,
        description="That room, 10^9 bytes; half of what is free if not given. Tiles and features "
        "are not counted.",
    )

    @model_validator(mode="after")
    def _one_room(self) -> Self:
        if self.disk_gb is not None and not self.delete_after_tiling:
            raise ValueError("--disk-gb goes with --delete-after-tiling: else no slide ever goes")
        if self.delete_after_tiling and not self.overlap:
            raise ValueError("--delete-after-tiling goes with --overlap")
        return self

    @property
    def run_folder(self) -> RunFolder | None:
        """What the stages share, or the first stage's; a file that cannot be read has none."""
        return run_named_in(self.study)


SMALLEST_DEMO_PX: Final = 1792  # below 1536 half of the slides keep no tile


class DemoConfig(StageConfig):
    """Generate the synthetic cohort and take it through the whole pipeline."""

    verb: ClassVar = "demo"
    example: ClassVar = "demo --workers 2"

    folder: Annotated[Path, HOW, POSITIONAL, DIR] = Field(
        default=Path("demo"), description="Where slides, run folder and report go."
    )
    cohort_only: Annotated[bool, HOW] = Field(
        default=False, description="Generate the slides and their tables, and stop."
    )
    seed: int = Field(default=0, ge=0, description="Equal seeds give equal slides, byte for byte.")
    patients_per_label: int = Field(default=8, ge=2, description="Patients of each class.")
    side_px: int = Field(default=3584, ge=1024, description="Mean side of a slide, level-0 px.")
    tma_rows: int = Field(default=5, ge=0, description="Rows of the held-out TMA; 0 for none.")
    tma_columns: int = Field(default=6, ge=0, description="Columns of the held-out TMA.")
    include_broken: bool = Field(
        default=False, description="Add a slide whose file ends in the middle."
    )
    encoder: str = Field(
        default="auto",
        description="Encoder; auto is densenet121 where its weights can be had, else the packaged "
        "tf_efficientnet_lite0.",
    )

    @model_validator(mode="after")
    def _holds_tiles(self) -> Self:
        if self.side_px < SMALLEST_DEMO_PX and not self.cohort_only:
            raise ValueError(
                f"side_px {self.side_px}: most slides of that size keep no tile of 256 px at 0.5 "
                f"µm/px, so nothing can be trained; take {SMALLEST_DEMO_PX} or more, or "
                "--cohort-only for the slides alone"
            )
        return self

    @property
    def run_folder(self) -> RunFolder:
        return RunFolder(self.folder / "run")


VERBS: Final[tuple[type[StageConfig], ...]] = (
    VerifyConfig,
    RepairConfig,
    ReportConfig,
    ViewConfig,
)
STUDIES: Final[tuple[type[StageConfig], ...]] = (InitConfig, RunConfig, DemoConfig)
