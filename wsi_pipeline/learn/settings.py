"""What learning can be told: each knob once, with its default, its bounds and its sentence.

Flags, TOML files and the functions of this room take these models as they are. A verb's config
inherits the topics it knows, and is handed on whole. Importing this module imports no torch.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol

from pydantic import Field, field_validator

from wsi_pipeline.errors import ConfigError, named
from wsi_pipeline.registry import Registry, unknown
from wsi_pipeline.settings import Chosen, Device, Settings
from wsi_pipeline.types import CLINICAL

LABEL_COLUMNS: Final = ("label", "site", "preservation", "scanner", "sample_type", *CLINICAL)
Interval = Literal["percentile", "bca"]
PROMISED: Final = 0.1  # gain in readers' accuracy that the study speaks of


def _callable(name: str, found: object) -> str:
    if not callable(found):
        raise ConfigError(f"aggregator {name!r}: is no class or function, found {found!r}")
    return name


AGGREGATORS: Final = Registry(
    "aggregator",
    {
        "mean": "wsi_pipeline.learn.aggregators:MeanPool",
        "max": "wsi_pipeline.learn.aggregators:MaxPool",
        "abmil": "wsi_pipeline.learn.aggregators:Abmil",
        "gated_abmil": "wsi_pipeline.learn.aggregators:GatedAbmil",
        "clam_sb": "wsi_pipeline.learn.aggregators:ClamSb",
        "dsmil": "wsi_pipeline.learn.aggregators:Dsmil",
        "transmil": "wsi_pipeline.learn.transmil:TransMil",
    },
    _callable,
)
"""Where each is; made with (width, classes, hidden, dropout), it is a ``learn.Aggregator``."""

HEADS: Final = Registry(
    "tile classifier",
    {"linear": "wsi_pipeline.learn.models:linear", "mlp": "wsi_pipeline.learn.models:mlp"},
)
"""Where each is; made with (width, classes, hidden, dropout), it is the layers after dropout."""


class SeedSettings(Settings):
    """What is drawn."""

    seed: int = Field(
        default=0, ge=0, description="Of split, sampling, order, augmentation and initial weights."
    )


class TaskSettings(Settings):
    """What is told apart: the classes are the labels of the table, or made of them."""

    topic: ClassVar = "what is told apart"

    label_column: str = Field(
        default="label",
        description="Column of the cohort table whose values are the labels, such as stage or sex.",
    )
    label_map: dict[str, str] | None = Field(
        default=None,
        description="Classes made of labels, such as hcc=tumour,cca=tumour,normal=normal; every "
        "label must be in it, unless --only-labels says which classes are used.",
    )
    only_labels: list[str] = Field(
        default=[], description="These classes alone; slides of others are left out."
    )

    @field_validator("label_column")
    @classmethod
    def _is_column(cls, column: str) -> str:
        if column not in LABEL_COLUMNS:
            raise ValueError(unknown("column of labels", column, LABEL_COLUMNS))
        return column

    @field_validator("label_map", mode="before")
    @classmethod
    def _pairs(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        pairs: dict[str, str] = {}
        for word in given.split(","):
            label, equals, name = (part.strip() for part in word.partition("="))
            if not (label and equals and name):
                raise ValueError(f"{word.strip()!r} is no pair; write label=class,label=class")
            if label in pairs:
                raise ValueError(f"label {label!r} stands twice")
            pairs[label] = name
        return pairs

    def classes_of(self, labels: Iterable[str]) -> dict[str, str]:
        """Return the class of each label that is used.

        Args:
            labels: Those that there are.

        Raises:
            ConfigError: There is no such label or class, or nothing says what a label is.
        """
        found = sorted(set(labels))
        made = self.label_map or {}
        for label in made:
            if label not in found:
                raise ConfigError(f"--label-map: {unknown('label', label, found)}")
        classes = {label: made.get(label, label) for label in found}
        for name in self.only_labels:
            if name not in classes.values():
                raise ConfigError(f"--only-labels: {unknown('class', name, {*classes.values()})}")
        unsaid = [label for label in found if self.label_map and label not in made]
        if unsaid and not self.only_labels:
            raise ConfigError(
                f"--label-map does not say what {named(unsaid)} is; add {unsaid[0]}={unsaid[0]}, "
                "or say with --only-labels which classes are used"
            )
        return {
            label: name
            for label, name in classes.items()
            if not self.only_labels or name in self.only_labels
        }


class _Placed(Protocol):
    @property
    def split(self) -> str: ...


class SplitSettings(SeedSettings):
    """Who is trained on and who is tested on; the audit and the training ask the same."""

    topic: ClassVar = "who is trained and tested on"

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
    groups: Path | None = Field(
        default=None,
        description="CSV of slide_id and group, as the audit writes it (groups.csv): slides of a "
        "group, and with them all of their patients, are kept in one part.",
    )
    min_test_patients: int = Field(
        default=1, ge=1, description="The audit asks for so many tested patients of each class."
    )

    @field_validator("folds")
    @classmethod
    def _no_single_fold(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold tests on everything; ask for 2 or more, or 0 for one split")
        return folds

    def takes_given(self, slides: Iterable[_Placed]) -> bool:
        """Whether the table's split column decides."""
        filled = any(slide.split not in ("", "external") for slide in slides)
        return self.split == "given" or (self.split == "auto" and filled)


class JudgeSettings(SeedSettings):
    """How figures get their intervals, and what is accepted in spite of the audit."""

    topic: ClassVar = "intervals and what is accepted"

    resamples: int = Field(
        default=1000, ge=100, description="Of patients, for intervals and tests."
    )
    interval: Interval = Field(default="bca", description="Bootstrap of the losses' intervals.")
    accept_risk: str | None = Field(
        default=None,
        description="Train in spite of what the audit found, for this reason, which is recorded.",
    )


class OptimiserSettings(SeedSettings):
    """What every training loop is told."""

    topic: ClassVar = "how models learn"

    schedule: Literal["auto", "stopped", "fixed"] = Field(
        default="auto",
        description="Which epoch is kept: the best on validation (stopped), or the last of a "
        "number fixed beforehand, with a learning rate that falls (fixed); auto: fixed where a "
        "class has fewer than 10 validation patients.",
    )
    weight_decay: float = Field(default=1e-2, ge=0, description="Of AdamW.")
    label_smoothing: float = Field(
        default=0.05, ge=0, lt=1, description="Probability spread over the other classes."
    )
    dropout: float = Field(default=0.25, ge=0, lt=1, description="Before the last layers.")
    device: Device = Field(default="auto", description="What learns; auto: the best there is.")


class FitSettings(OptimiserSettings):
    """Which models are built on stored features, and how they are fitted."""

    topic: ClassVar = "models on features"

    tile_classifier: Annotated[str, Chosen("wsi_pipeline.learn.settings:HEADS")] = Field(
        default="mlp", description="Tile classifier."
    )
    aggregator: Annotated[tuple[str, ...], Chosen("wsi_pipeline.learn.settings:AGGREGATORS")] = (
        Field(
            default=("abmil", "mean"),
            min_length=1,
            description="Slide aggregators; the first speaks for a slide.",
        )
    )
    hidden: int = Field(default=256, ge=1, description="Width of hidden layers.")
    epochs: int = Field(default=60, ge=1, description="The most epochs.")
    patience: int = Field(default=10, ge=1, description="Epochs without progress before stopping.")
    monitor: Literal["loss", "balanced_accuracy"] = Field(
        default="loss", description="What progress means, on the validation slides."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Of the tile classifier.")
    bag_learning_rate: float = Field(default=3e-4, gt=0, description="Of the aggregators.")
    batch: int = Field(default=256, ge=1, description="Tiles per step.")
    bag_batch: int = Field(default=1, ge=1, description="Bags per step.")
    tiles: int = Field(default=2000, ge=1, description="The most tiles of a slide in an epoch.")

    @field_validator("aggregator")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"{', '.join(names)} names one twice")
        return names


class AugmentSettings(Settings):
    """How far training tiles are changed; from one generator, so that the seed decides."""

    topic: ClassVar = "augmentation"

    rotate_deg: float = Field(default=0, ge=0, le=180, description="Turned by up to this.")
    shift: float = Field(default=0, ge=0, lt=1, description="Shifted by up to this share.")
    shear: float = Field(
        default=0, ge=0, lt=1, description="Sheared by up to this, an angle's tangent."
    )
    zoom: float = Field(default=0.1, ge=0, lt=1, description="Zoomed by up to this share.")
    flip: bool = Field(default=True, description="Mirrored both ways, half of the time each.")
    quarter_turns: bool = Field(default=True, description="Turned by multiples of 90°.")
    stain: float = Field(
        default=0.1, ge=0, lt=1, description="Haematoxylin and eosin scaled by up to this share."
    )
    brightness: float = Field(default=0, ge=0, lt=1, description="Scaled by up to this share.")

    @property
    def moves(self) -> bool:
        """Whether pixels change their places other than by mirroring and quarter turns."""
        return any((self.rotate_deg, self.shift, self.shear, self.zoom))


class FineTuneSettings(AugmentSettings, OptimiserSettings):
    """How an encoder is fine-tuned end to end."""

    topic: ClassVar = "fine-tuning"

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
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


def with_defaults(
    stored: Mapping[str, Any], asked: Mapping[str, Any], known: type[Settings]
) -> dict[str, Any]:
    """Return stored settings, those younger than the store as they are by default.

    A model that was made before a setting existed counts as made with its default: it is kept, and
    asking for another value is a change.

    Args:
        stored: The settings that a finished model was made with.
        asked: Those asked for now, all of them.
        known: The config that they are settings of.
    """
    younger = [name for name in asked if name not in stored and name in known.model_fields]
    return {name: known.model_fields[name].get_default() for name in younger} | dict(stored)
