"""What `finetune` can be told, and what that means to the learning room."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from wsi_pipeline.config import DIR, HOW, POSITIONAL, StageConfig

if TYPE_CHECKING:
    from wsi_pipeline.learn.finetune import FineTuneSettings
    from wsi_pipeline.learn.study import SplitPlan


class FinetuneConfig(StageConfig):
    """Fine-tune an encoder end to end on a run folder's tiles, or on flat images; validate it."""

    run: Annotated[Path, HOW, POSITIONAL, DIR] = Field(description="Run folder.")
    encoder: str = Field(default="densenet121", description="A timm model, as for extract.")
    weights: str = Field(
        default="auto", description="What it starts from: auto, hub, package, random, or a file."
    )
    name: Annotated[str | None, HOW] = Field(
        default=None, description="Name of the model; the encoder's if not given."
    )
    images: Annotated[Path | None, HOW] = Field(
        default=None,
        description="A folder with a folder of images a class, in the place of tile stores.",
    )
    external_images: Annotated[Path | None, HOW] = Field(
        default=None, description="The same, held out entirely; read once, after the freeze."
    )
    patient_pattern: str | None = Field(
        default=None,
        description="Regular expression whose first group is the patient in an image's name.",
    )
    external: str | None = Field(
        default=None, description="Cohort held out entirely; read once, after the freeze."
    )
    split: Literal["auto", "random", "given"] = Field(
        default="auto", description="Where splits come from, as for train."
    )
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="Of all patients.")
    val_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Of the patients that are not tested on."
    )
    seed: int = Field(default=0, ge=0, description="Of split, order, augmentation and head.")
    min_test_patients: int = Field(
        default=1, ge=1, description="The audit asks for so many tested patients of each class."
    )
    accept_risk: str | None = Field(
        default=None,
        description="Train in spite of what the audit found, for this reason, which is recorded.",
    )
    epochs: int = Field(default=10, ge=1, description="The most epochs.")
    patience: int = Field(default=3, ge=1, description="Epochs without progress before stopping.")
    warmup_epochs: int = Field(
        default=1, ge=0, description="Epochs in which the head learns alone."
    )
    batch: int = Field(default=32, ge=2, description="Tiles of a step, over all processes.")
    micro_batch: int = Field(
        default=32, ge=1, description="Tiles held at a time; halved when memory runs out."
    )
    optimiser: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(default=1e-4, gt=0, description="Of the head.")
    layer_decay: float = Field(
        default=0.8, gt=0, le=1, description="From each layer to the one below; 1 treats all alike."
    )
    weight_decay: float = Field(default=1e-2, ge=0)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    dropout: float = Field(default=0.25, ge=0, lt=1, description="Before the head.")
    balance: Literal["patient", "none"] = Field(
        default="patient",
        description="Show every class, and within it every patient, equally often; or every tile "
        "once.",
    )
    tiles_per_epoch: int | None = Field(default=None, ge=1, description="At most; all by default.")
    judged_tiles: int = Field(default=500, ge=1, description="Of a slide, in validation, at most.")
    scored_tiles: int | None = Field(
        default=None, ge=1, description="Of a slide, in the final figures, at most."
    )
    input_px: int = Field(default=224, ge=32, description="Side that tiles are resized to.")
    scaling: Literal["model", "unit"] = Field(
        default="model", description="Pixels as the weights expect them, or 0 to 1."
    )
    rotate_deg: float = Field(default=0, ge=0, le=180, description="Turned by up to this.")
    shift: float = Field(default=0, ge=0, lt=1, description="Shifted by up to this share.")
    shear: float = Field(default=0, ge=0, lt=1, description="Sheared by up to this.")
    zoom: float = Field(default=0.1, ge=0, lt=1, description="Zoomed by up to this share.")
    flip: bool = Field(default=True, description="Mirrored both ways, half of the time each.")
    quarter_turns: bool = Field(default=True, description="Turned by multiples of 90°.")
    stain: float = Field(
        default=0.1, ge=0, lt=1, description="Haematoxylin and eosin scaled by up to this share."
    )
    brightness: float = Field(default=0, ge=0, lt=1, description="Scaled by up to this share.")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    resamples: int = Field(
        default=1000, ge=100, description="Of patients, for intervals and tests."
    )
    interval: Literal["percentile", "bca"] = Field(
        default="bca", description="Bootstrap of the losses' intervals."
    )
    device: Annotated[str, HOW] = Field(default="auto", description="auto, cpu, cuda or mps.")


def split_plan(config: FinetuneConfig) -> "SplitPlan":
    """Return how slides are split."""
    from wsi_pipeline.learn.study import SplitPlan

    return SplitPlan(
        source=config.split,
        external=config.external,
        test_fraction=config.test_fraction,
        val_fraction=config.val_fraction,
        seed=config.seed,
    )


def settings_of(config: FinetuneConfig) -> "FineTuneSettings":
    """Return how the network is fine-tuned."""
    from dataclasses import fields

    from wsi_pipeline.learn.finetune import Augmentation, FineTuneSettings

    changes = Augmentation(
        **{field.name: getattr(config, field.name) for field in fields(Augmentation)}
    )
    rest = [field.name for field in fields(FineTuneSettings) if field.name != "augmentation"]
    return FineTuneSettings(augmentation=changes, **{name: getattr(config, name) for name in rest})
