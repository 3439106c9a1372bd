"""Train a tile classifier and slide aggregators on stored features, and validate them.

The order is what makes the figures honest: split by patient and write it down, train, calibrate on
validation, freeze, judge on the test patients, and only then open the external cohort.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.engine import is_done, lock_path, provenance
from wsi_pipeline.errors import LearnError
from wsi_pipeline.events import EpochDone, Event, Note, Planned, StageStarted, Written
from wsi_pipeline.pipeline.train_config import TrainConfig, check_names, recipe_of, split_plan

if TYPE_CHECKING:
    from wsi_pipeline.learn import (
        FeatureFolder,
        FrozenModels,
        Probabilities,
        Splits,
        SplitSlide,
        Study,
        Trained,
    )

PACKAGES: Final = ("torch", "numpy", "scipy", "safetensors", "h5py")


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

    check_names(config.aggregator)
    stores = find_features(config.run / "features", config.encoder)
    target = config.run / "models" / (config.name or stores.name)
    study = prepare_study(read_cohort(config.run / "cohort.csv"), stores, split_plan(config))
    yield StageStarted(stage="train", total=1 + len(config.aggregator), unit="models")
    yield from (Note(text=text) for text in study.notes)
    yield from _audited(config, study)
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


def _audited(config: TrainConfig, study: "Study") -> Iterator[Note]:
    """Say what the audit found.

    Raises:
        LearnError: Something that must be put right, and no reason is given to accept it.
    """
    blocking = [finding.text for finding in study.findings if finding.blocking]
    yield from (Note(text=f"audit: {finding.text}") for finding in study.findings)
    if blocking and config.accept_risk is None and not config.dry_run:
        raise LearnError(
            "the audit found what would make the figures worthless: "
            + "; ".join(blocking)
            + ". Put it right, or pass --accept-risk REASON"
        )


def _train(config: TrainConfig, study: "Study", target: Path) -> Iterator[Event]:
    """Train and judge; the external cohort is opened after the freeze, and nowhere else."""
    from wsi_pipeline.learn import FrozenModels, Training, open_external, write_splits

    write_splits(config.run / "splits" / f"{target.name}.csv", study.splits)
    training = Training(recipe_of(config), study.folder, study.splits, study.classes)
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
    recipe = recipe_of(config)
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
        "notes": [*study.notes, *_risks(config, study)],
        "evaluations": outcome.evaluations,
    }
    reports["predictions.csv"] = predictions_csv(outcome.slides, outcome.predictions, study.classes)
    reports["history.csv"] = trained.history_csv()
    save_bundle(target, bundle, outcome.frozen, tuple(outcome.slides), reports)


def _risks(config: TrainConfig, study: "Study") -> list[str]:
    accepted = f" (accepted: {config.accept_risk})" if config.accept_risk else ""
    return [
        f"audit: {finding.text}{accepted if finding.blocking else ''}" for finding in study.findings
    ]


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
