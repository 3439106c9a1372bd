"""Train a tile classifier and slide aggregators on stored features, and validate them.

The order is what makes the figures honest: split by patient and write it down, train, calibrate on
validation, freeze, judge on the test patients, and only then open the external cohort.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.config import HOW, StageConfig
from wsi_pipeline.engine import is_done, lock_path, provenance
from wsi_pipeline.errors import ConfigError, LearnError
from wsi_pipeline.events import EpochDone, Event, Note, Planned, StageStarted, Written

if TYPE_CHECKING:
    from wsi_pipeline.learn import (
        FeatureFolder,
        FrozenModels,
        Probabilities,
        Recipe,
        SplitPlan,
        Splits,
        SplitSlide,
        Study,
        Trained,
    )

PACKAGES: Final = ("torch", "numpy", "scipy", "safetensors", "h5py")


class TrainConfig(StageConfig):
    """Train a tile classifier and slide aggregators on a run folder's features; validate them."""

    run: Annotated[CliPositionalArg[Path], HOW] = Field(description="Run folder.")
    encoder: str = Field(default="densenet121", description="Whose features to train on.")
    name: Annotated[str | None, HOW] = Field(
        default=None, description="Name of the model; the encoder's if not given."
    )
    external: str | None = Field(
        default=None,
        description="Cohort held out entirely; it is read once, when the model is frozen.",
    )
    split: Literal["auto", "random", "given"] = Field(
        default="auto",
        description="Where splits come from: drawn by patient, or the table's split column; auto "
        "takes the column where it is filled in.",
    )
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="Of all patients.")
    val_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Of the patients that are not tested on."
    )
    seed: int = Field(default=0, ge=0, description="Of split, sampling and initial weights.")
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
    resamples: int = Field(default=1000, ge=100, description="Of the patient bootstrap.")
    interval: Literal["percentile", "bca"] = Field(
        default="percentile", description="Kind of the 95 % intervals."
    )
    device: Annotated[str, HOW] = Field(default="auto", description="auto, cpu, cuda or mps.")

    @property
    def log_folder(self) -> Path | None:
        return self.run / "logs"


@dataclass(kw_only=True)
class _Outcome:
    """What a training came to; slides, predictions and evaluations grow part by part."""

    study: "Study"
    trained: "Trained"
    frozen: "FrozenModels"
    digests: dict[str, Any]
    slides: list["SplitSlide"] = field(default_factory=list)
    predictions: dict[str, "Probabilities"] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)


def run(config: TrainConfig) -> Iterator[Event]:
    """Train, validate, write ``models/<name>/``.

    Raises:
        ConfigError: An aggregator is unknown or named twice.
        CohortError: The run folder's cohort table is unusable.
        LearnError: The slides cannot be split or trained on.
        StoreError: There are no features of this encoder.
        StoreMismatchError: The model exists and was trained on something else.
    """
    from wsi_pipeline.features import find_features
    from wsi_pipeline.learn import prepare_study

    _check_names(config.aggregator)
    stores = find_features(config.run / "features", config.encoder)
    target = config.run / "models" / (config.name or stores.name)
    study = prepare_study(read_cohort(config.run / "cohort.csv"), stores, _split_plan(config))
    yield StageStarted(stage="train", total=1 + len(config.aggregator), unit="models")
    yield from (Note(text=text) for text in study.notes)
    if config.dry_run:
        yield from (Planned(row=row) for row in study.inventory())
        return
    identity = _identity(config, study)
    with try_lock(lock_path(config.run, "train", target.name)) as mine:
        if not mine:
            raise LearnError(f"{target}: another process is training it; wait, or give --name")
        if is_done(target, _stored(target), identity, overwrite=config.overwrite):
            yield Note(text=f"{target}: trained earlier on the same slides; nothing to do")
        else:
            yield from _train(config, study, target)
    yield Written(path=str(target), what="model")


def _train(config: TrainConfig, study: "Study", target: Path) -> Iterator[Event]:
    """Train and judge; the external cohort is opened after the freeze, and nowhere else."""
    from wsi_pipeline.learn import FrozenModels, Training, open_external, write_splits

    write_splits(config.run / "splits" / f"{target.name}.csv", study.splits)
    training = Training(_recipe(config), study.folder, study.splits, study.classes)
    for model, epoch in training:
        figures = {
            "train_loss": epoch.train_loss,
            "val_loss": epoch.val_loss,
            "val_balanced_accuracy": epoch.val_balanced_accuracy,
        }
        yield EpochDone(model=model, epoch=epoch.epoch, epochs=config.epochs, metrics=figures)
    trained = training.result
    outcome = _Outcome(
        study=study,
        trained=trained,
        frozen=FrozenModels({"tile": trained.head, **trained.aggregators}),
        digests=dict(study.digests),
    )
    _judge(config, outcome, study.folder, study.splits)
    if study.sealed is not None:
        slides, folder, notes = open_external(study, outcome.frozen)
        yield from (Note(text=text) for text in notes)
        _judge(config, outcome, folder, slides)
        outcome.digests["external_bags"] = folder.digests()
    yield from _headlines(outcome, config.aggregator[0])
    _save(config, outcome, target)


def _judge(
    config: TrainConfig, outcome: _Outcome, folder: "FeatureFolder", slides: "Splits"
) -> None:
    """Score and evaluate ``slides``; an empty part adds nothing."""
    from wsi_pipeline.learn import Bootstrap, evaluate_scores

    scores = outcome.trained.score(folder, slides)
    for model, found in scores.slides.items():
        outcome.predictions.setdefault(model, {}).update(found)
    outcome.slides += slides
    outcome.evaluations += evaluate_scores(
        scores,
        slides,
        outcome.study.classes,
        Bootstrap(resamples=config.resamples, method=config.interval, seed=config.seed),
    )


def _headlines(outcome: _Outcome, primary: str) -> Iterator[Note]:
    """Say how the primary model did on the patients it has not seen."""
    for found in outcome.evaluations:
        if (found["model"], found["level"]) != (primary, "slide") or found["split"] == "train":
            continue
        accuracy = found["measures"]["balanced_accuracy"]
        if accuracy["value"] is None:
            continue
        interval = ""
        if accuracy["low"] is not None:
            interval = f" (95 % interval {accuracy['low']:.3f} to {accuracy['high']:.3f})"
        yield Note(
            text=f"{primary} on {found['split']}: balanced accuracy {accuracy['value']:.3f}"
            f"{interval}, {found['cases']} slides of {found['patients']} patients"
        )


def _save(config: TrainConfig, outcome: _Outcome, target: Path) -> None:
    from wsi_pipeline.learn import Bundle, BundleConfig, predictions_csv, save_bundle

    study, trained = outcome.study, outcome.trained
    recipe = _recipe(config)
    temperatures = trained.temperatures
    bundle = Bundle(
        config=BundleConfig(
            name=target.name,
            classes=study.classes,
            encoder=study.folder.folder.name,
            width=study.folder.bag(study.splits[0].slide_id).features.shape[1],
            tile_classifier=replace(recipe.tile_classifier, temperature=temperatures["tile_mean"]),
            aggregators={
                name: replace(spec, temperature=temperatures[name])
                for name, spec in recipe.aggregators.items()
            },
            primary=config.aggregator[0],
            seed=config.seed,
            features=study.features,
            tiling=_tiling(config.run, study),
            novelty=_novelty(outcome),
            settings=config.identity(),
            digests={
                **outcome.digests,
                "weights": outcome.frozen.digest,
                "identity": _identity(config, study),
            },
            versions=provenance(PACKAGES),
        ),
        tile_classifier=trained.head,
        aggregators=trained.aggregators,
    )
    reports: dict[str, Any] = {}
    reports["metrics.json"] = {
        "classes": list(study.classes),
        "primary": config.aggregator[0],
        "temperatures": temperatures,
        "notes": list(study.notes),
        "evaluations": outcome.evaluations,
    }
    reports["predictions.csv"] = predictions_csv(outcome.slides, outcome.predictions, study.classes)
    reports["history.csv"] = trained.history_csv()
    save_bundle(target, bundle, outcome.frozen, tuple(outcome.slides), reports)


def _check_names(aggregators: list[str]) -> None:
    from wsi_pipeline.learn import AGGREGATORS

    for name in aggregators:
        if name not in AGGREGATORS:
            raise ConfigError(
                f"--aggregator {name}: there is none; known are {', '.join(AGGREGATORS)}"
            )
    if len(set(aggregators)) < len(aggregators):
        raise ConfigError(f"--aggregator: {', '.join(aggregators)} names one twice")


def _split_plan(config: TrainConfig) -> "SplitPlan":
    from wsi_pipeline.learn import SplitPlan

    return SplitPlan(
        source=config.split,
        external=config.external,
        test_fraction=config.test_fraction,
        val_fraction=config.val_fraction,
        seed=config.seed,
    )


def _recipe(config: TrainConfig) -> "Recipe":
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


def _identity(config: TrainConfig, study: "Study") -> dict[str, Any]:
    """Return what decides the result: settings, encoder, splits, features, who is external."""
    return {
        "settings": config.identity() | {"encoder": study.folder.folder.name},
        "splits": study.digests["splits"],
        "features": study.digests["features"],
        "external_slides": 0 if study.sealed is None else len(study.sealed),
    }


def _tiling(run: Path, study: "Study") -> dict[str, Any]:
    """Return the tile stage's settings, empty where the tiles are not at hand."""
    from wsi_pipeline.tiles import find_store, open_tiles

    store = find_store(run / "tiles", study.splits[0].slide_id)
    found: dict[str, Any] = {} if store is None else open_tiles(store).attributes.get("config", {})
    return found


def _novelty(outcome: _Outcome) -> dict[str, float]:
    """Return what is usual among the slides trained on."""
    from wsi_pipeline.learn import novelty

    found = sorted(
        novelty(outcome.trained.head, outcome.study.folder.bag(slide.slide_id).features)
        for slide in outcome.study.splits
        if slide.split == "train"
    )
    return {"median": found[len(found) // 2], "highest": found[-1]}


def _stored(target: Path) -> dict[str, Any] | None:
    """Return the identity of the model that is there, if one is."""
    from wsi_pipeline.learn import read_bundle_config

    if not (target / "config.json").exists():
        return None
    found: dict[str, Any] = read_bundle_config(target).digests.get("identity", {})
    return found
