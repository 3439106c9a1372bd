"""What the verbs of models can be told."""

from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from wsi_pipeline.learn import (
    FineTuneSettings,
    FitSettings,
    JudgeSettings,
    SplitSettings,
    TaskSettings,
)
from wsi_pipeline.mirror_settings import (
    FEATURES,
    PREDICTIONS,
    THUMBNAILS,
    TILES,
    Brought,
    MirrorSettings,
)
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import (
    COHORT,
    DIR,
    FILE,
    HOW,
    POSITIONAL,
    CacheSettings,
    Device,
    InBucket,
    Metavar,
    PatienceSettings,
    Run,
    StageConfig,
    run_named_in,
)
from wsi_pipeline.shard import ShardSettings


class AuditConfig(StageConfig, TaskSettings, SplitSettings):
    """Look for leaks, nuisances that predict the label, and classes too small for what is asked."""

    verb: ClassVar = "audit"
    example: ClassVar = "runs/liver --encoder densenet121 --external tma"
    needs: ClassVar = ("features",)

    run: Run = Field(description="Run folder.")
    encoder: str = Field(default="densenet121", description="Whose features are looked at.")


class TrialConfig(StageConfig, TaskSettings, SplitSettings, JudgeSettings):
    """What `train` and `finetune` are both told."""

    run: Run = Field(description="Run folder.")
    name: Annotated[str | None, HOW] = Field(
        default=None, description="Name of the model; the encoder's if not given."
    )


class TrainConfig(TrialConfig, FitSettings):
    """Train a tile classifier and slide aggregators on a run folder's features; validate them."""

    verb: ClassVar = "train"
    example: ClassVar = "runs/liver --encoder densenet121 --external tma"
    needs: ClassVar = ("features",)
    makes: ClassVar = ("models",)

    encoder: str = Field(default="densenet121", description="Whose features to train on.")


class FinetuneConfig(TrialConfig, FineTuneSettings):
    """Fine-tune an encoder end to end on a run folder's tiles, or on flat images; validate it."""

    verb: ClassVar = "finetune"
    example: ClassVar = "runs/liver --encoder densenet121 --external tma"
    needs: ClassVar = ("tiles",)
    makes: ClassVar = ("models",)

    encoder: str = Field(default="densenet121", description="A timm model, as for extract.")
    weights: str = Field(
        default="auto", description="What it starts from: auto, hub, package, random, or a file."
    )
    images: Annotated[Path | None, HOW, DIR] = Field(
        default=None,
        description="A folder with a folder of images a class, in the place of tile stores.",
    )
    external_images: Annotated[Path | None, HOW, DIR] = Field(
        default=None, description="The same, held out entirely; read once, after the freeze."
    )
    patient_pattern: str | None = Field(
        default=None,
        description="Regular expression whose first group is the patient in an image's name.",
    )


class CompareConfig(StageConfig, TaskSettings):
    """Compare encoders: the same patients, the same recipe, one table and one figure."""

    verb: ClassVar = "compare"
    example: ClassVar = "stages/compare.toml"
    makes: ClassVar = ("models",)

    plan: Annotated[Path, POSITIONAL, FILE] = Field(
        description="Plan of the comparison; with --probe it may be a run folder."
    )
    only: Annotated[tuple[str, ...], HOW] = Field(
        default=(), description="Train these encoders alone; the table still shows all."
    )
    probe: bool = Field(
        default=False,
        description="Train nothing: judge the encoders' stored features by logistic regression, "
        "nearest neighbours and class means, fold by fold. A plan's own [train] or [finetune] says "
        "who is external and what is told apart; of a run folder these flags do.",
    )
    folds: int = Field(default=5, ge=2, description="Of --probe.")
    external: str | None = Field(
        default=None, description="With --probe RUN: cohort that is left alone."
    )
    groups: Annotated[Path | None, FILE] = Field(
        default=None, description="With --probe RUN: CSV of slide_id and group, kept together."
    )
    seed: int = Field(default=0, ge=0, description="With --probe RUN: deals the folds.")

    @property
    def run_folder(self) -> RunFolder | None:
        """The plan's, or the run folder probed; a plan that cannot be read has none."""
        return RunFolder(self.plan) if self.plan.is_dir() else run_named_in(self.plan)


class PredictConfig(StageConfig, CacheSettings, PatienceSettings, ShardSettings, MirrorSettings):
    """Score a run folder's slides with a trained model; draw heatmaps."""

    verb: ClassVar = "predict"
    example: ClassVar = "runs/liver --model densenet121"
    needs: ClassVar = ("features", "models")

    run: Run = Field(description="Run folder whose features are scored; predictions go there too.")
    model: Annotated[Path | None, Metavar("DIR")] = Field(
        default=None,
        description="Model folder, or the name of one in <run>/models; the only one there if not "
        "given.",
    )
    encoder: str | None = Field(
        default=None,
        description="Among several models of the run folder, the one on this encoder.",
    )
    fold: int | None = Field(
        default=None,
        ge=1,
        description="Of a cross-validated model, this fold alone; else the mean of all folds.",
    )
    aggregator: tuple[str, ...] = Field(
        default=(),
        description="module:function of an aggregator of your own that the model uses: a model's "
        "folder is data, and code it names is imported only if you name it too.",
    )
    weights: str | None = Field(
        default=None,
        description="With --new-slides: the encoder's weights, where the model's came from a file.",
    )
    mpp_override: float | None = Field(
        default=None,
        ge=0.05,
        le=10,
        description="With --new-slides: resolution of slides whose file does not say it, µm/px.",
    )
    new_slides: Annotated[Path | str | None, InBucket, HOW, COHORT] = Field(
        default=None,
        description="New slides, a folder, here or s3://bucket/folder, or a cohort table: tile and "
        "encode them into the run folder first, as the model's own were. Give them a run folder of "
        "their own.",
    )
    heatmaps: bool = Field(default=True, description="Draw attention and tile probabilities.")
    heatmap_classes: Literal["predicted", "all"] = Field(
        default="predicted",
        description="Of tile probabilities: of the class that a slide is said to be, or of each.",
    )
    geojson: bool = Field(default=True, description="Write each slide's tiles for QuPath.")
    device: Device = Field(default="auto", description="What the model runs on.")

    @property
    def brings(self) -> tuple[Brought, ...]:
        return (
            Brought("(qc|models)/.*"),
            Brought(FEATURES),
            Brought(PREDICTIONS),
            Brought(TILES, pixels=False),
            Brought(THUMBNAILS),
        )


VERBS: Final[tuple[type[StageConfig], ...]] = (
    AuditConfig,
    TrainConfig,
    FinetuneConfig,
    CompareConfig,
    PredictConfig,
)
"""In the order in which a study runs them."""
