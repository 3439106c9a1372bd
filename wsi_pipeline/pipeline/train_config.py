"""What `audit` and `train` can be told, and what that means to the learning room."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from wsi_pipeline.config import DIR, HOW, POSITIONAL, StageConfig
from wsi_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from wsi_pipeline.learn import Recipe, SplitPlan


class SplitConfig(StageConfig):
    """What decides who is trained and tested on; the audit and the training ask the same."""

    run: Annotated[Path, HOW, POSITIONAL, DIR] = Field(description="Run folder.")
    encoder: str = Field(default="densenet121", description="Whose features to train on.")
    external: str | None = Field(
        default=None,
        description="Cohort held out entirely; it is read once, when the model is frozen.",
    )
    split: Literal["auto", "random", "given", "site"] = Field(
        default="auto",
        description="Where splits come from: drawn by patient, by whole site, or the table's split "
        "column; auto takes the column where it is filled in, else draws by patient.",
    )
    folds: int = Field(
        default=0,
        ge=0,
        description="Cross-validate: every patient is tested once, by a model of another fold; 0 "
        "for one split.",
    )
    test_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Of all patients; not used with --folds."
    )
    val_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Of the patients that are not tested on."
    )
    seed: int = Field(default=0, ge=0, description="Of split, sampling and initial weights.")
    min_test_patients: int = Field(
        default=1, ge=1, description="The audit asks for so many tested patients of each class."
    )

    @field_validator("folds")
    @classmethod
    def _no_single_fold(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold tests on everything; ask for 2 or more, or 0 for one split")
        return folds


class TrainConfig(SplitConfig):
    """Train a tile classifier and slide aggregators on a run folder's features; validate them."""

    name: Annotated[str | None, HOW] = Field(
        default=None, description="Name of the model; the encoder's if not given."
    )
    tile_classifier: Literal["linear", "mlp"] = Field(default="mlp", description="Tile classifier.")
    aggregator: list[str] = Field(
        default=["abmil", "mean"],
        min_length=1,
        description="Slide aggregators; may be given several times. The first speaks for a slide.",
    )
    hidden: int = Field(default=256, ge=1, description="Width of hidden layers.")
    dropout: float = Field(default=0.25, ge=0, lt=1)
    epochs: int = Field(default=60, ge=1, description="The most epochs.")
    patience: int = Field(default=10, ge=1, description="Epochs without progress before stopping.")
    monitor: Literal["loss", "balanced_accuracy"] = Field(
        default="loss", description="What progress means, on the validation slides."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Of the tile classifier.")
    bag_learning_rate: float = Field(default=3e-4, gt=0, description="Of the aggregators.")
    weight_decay: float = Field(default=1e-2, ge=0)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    batch: int = Field(default=256, ge=1, description="Tiles per step.")
    bag_batch: int = Field(default=1, ge=1, description="Bags per step.")
    tiles: int = Field(default=2000, ge=1, description="The most tiles of a slide in an epoch.")
    resamples: int = Field(
        default=1000, ge=100, description="Of patients, for intervals and tests."
    )
    interval: Literal["percentile", "bca"] = Field(
        default="bca", description="Bootstrap of the losses' intervals."
    )
    accept_risk: str | None = Field(
        default=None,
        description="Train in spite of what the audit found, for this reason, which is recorded.",
    )
    device: Annotated[str, HOW] = Field(default="auto", description="auto, cpu, cuda or mps.")


def check_names(aggregators: list[str]) -> None:
    """Refuse names that are unknown or stand twice.

    Raises:
        ConfigError: It says which.
    """
    from wsi_pipeline.learn import AGGREGATORS

    for name in aggregators:
        if name not in AGGREGATORS:
            raise ConfigError(
                f"--aggregator {name}: there is none; known are {', '.join(AGGREGATORS)}"
            )
    if len(set(aggregators)) < len(aggregators):
        raise ConfigError(f"--aggregator: {', '.join(aggregators)} names one twice")


def split_plan(config: SplitConfig) -> "SplitPlan":
    """Return how slides are split."""
    from wsi_pipeline.learn import SplitPlan

    return SplitPlan(
        source=config.split,
        folds=config.folds,
        external=config.external,
        test_fraction=config.test_fraction,
        val_fraction=config.val_fraction,
        seed=config.seed,
    )


def recipe_of(config: TrainConfig) -> "Recipe":
    """Return which models are built, and how they are fitted."""
    from wsi_pipeline.learn import FitSettings, ModelSpec, Recipe, resolve_device

    def spec(name: str) -> ModelSpec:
        return ModelSpec(name=name, hidden=config.hidden, dropout=config.dropout)

    settings = FitSettings(
        epochs=config.epochs,
        patience=config.patience,
        monitor=config.monitor,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        label_smoothing=config.label_smoothing,
        batch=config.batch,
        tiles=config.tiles,
        seed=config.seed,
        device=resolve_device(config.device),
    )
    return Recipe(
        tile_classifier=spec(config.tile_classifier),
        aggregators={name: spec(name) for name in config.aggregator},
        tile_settings=settings,
        bag_settings=replace(
            settings, learning_rate=config.bag_learning_rate, batch=config.bag_batch
        ),
    )
