"""One model: fitted on its split, judged, and saved with all that made it."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wsi_pipeline.config import digest
from wsi_pipeline.engine import provenance
from wsi_pipeline.events import EpochDone, Event, Note
from wsi_pipeline.pipeline.audit import risks_of
from wsi_pipeline.pipeline.headline import headline
from wsi_pipeline.pipeline.train_config import TrainConfig, recipe_of
from wsi_pipeline.run_folder import BundleFile, RunFolder

if TYPE_CHECKING:
    from wsi_pipeline.learn import (
        Bootstrap,
        BundleConfig,
        FeatureFolder,
        FrozenModels,
        Novelty,
        Probabilities,
        Splits,
        SplitSlide,
        Study,
        Trained,
    )

PACKAGES: Final = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "h5py")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be trained: settings, slides, the folder it goes to, what the audit found."""

    config: TrainConfig
    study: "Study"
    target: Path
    audit: Mapping[str, Any]
    label: str = ""  # set before a model's name where several splits are trained on

    @property
    def bootstrap(self) -> "Bootstrap":
        """How intervals are made."""
        from wsi_pipeline.learn import Bootstrap

        config = self.config
        return Bootstrap(resamples=config.resamples, method=config.interval, seed=config.seed)


@dataclass(kw_only=True)
class Judged:
    """Figures as they grow, part by part."""

    slides: list["SplitSlide"] = field(default_factory=list)
    predictions: dict[str, "Probabilities"] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    drift: dict[str, Any] | None = None

    def headlines(self, primary: str) -> Iterator[Note]:
        """Say how the primary model did on the patients it has not seen."""
        for found in self.evaluations:
            if (found["model"], found["level"]) != (primary, "slide") or found["split"] == "train":
                continue
            said = headline(found, f"{primary} on {found['split']}", "balanced_accuracy", "slides")
            if said is not None:
                yield said


@dataclass(kw_only=True)
class Outcome(Judged):
    """What a training came to."""

    trained: "Trained"
    frozen: "FrozenModels"
    digests: dict[str, Any]


def fit_model(job: Job) -> Generator[Event, None, Outcome]:
    """Train, freeze, and judge on the study's own parts."""
    from wsi_pipeline.learn import FrozenModels, Training

    study = job.study
    training = Training(recipe_of(job.config), study.folder, study.splits, study.classes)
    for model, epoch in training:
        figures = {
            "train_loss": epoch.train_loss,
            "val_loss": epoch.val_loss,
            "val_balanced_accuracy": epoch.val_balanced_accuracy,
        }
        yield EpochDone(
            model=f"{job.label}{model}",
            epoch=epoch.epoch,
            epochs=job.config.epochs,
            metrics=figures,
        )
    trained = training.result
    outcome = Outcome(
        trained=trained,
        frozen=FrozenModels({"tile": trained.head, **trained.aggregators}),
        digests=dict(study.digests),
    )
    _judge(job, outcome, study.folder, study.splits)
    return outcome


def judge_external(job: Job, outcome: Outcome) -> Iterator[Event]:
    """Open the external cohort, if there is one, for the frozen models."""
    from wsi_pipeline.learn import open_external

    if job.study.sealed is None:
        return
    slides, folder, notes = open_external(job.study, outcome.frozen)
    yield from (Note(text=text) for text in notes)
    _judge(job, outcome, folder, slides)
    outcome.drift = drift_of(job, slides, folder)
    outcome.digests["external_bags"] = folder.digests()


def drift_of(job: Job, slides: "Splits", folder: "FeatureFolder") -> dict[str, Any]:
    """Measure how unlike the opened external slides are to those trained on."""
    from wsi_pipeline.learn import describe_drift
    from wsi_pipeline.learn.audit import gather

    study = job.study
    ids = [slide.slide_id for slide in (*study.splits, *slides)]
    evidence = gather(job.config.run, folder.folder, ids)
    return describe_drift(study.splits, slides, (study.folder, folder), evidence)


def save_model(job: Job, outcome: Outcome) -> None:
    """Write the bundle."""
    from wsi_pipeline.learn import Bundle, predictions_csv, save_bundle

    study, trained = job.study, outcome.trained
    config = describe_model(job, outcome.digests | {"weights": outcome.frozen.digest})
    temperatures, novelty = trained.temperatures, _novelty(study)
    bundle = Bundle(
        config=replace(
            config,
            tile_classifier=replace(config.tile_classifier, temperature=temperatures["tile_mean"]),
            aggregators={
                name: replace(spec, temperature=temperatures[name])
                for name, spec in config.aggregators.items()
            },
            novelty=novelty.facts(),
        ),
        tile_classifier=trained.head,
        aggregators=trained.aggregators,
        novelty=novelty,
    )
    identity = config.digests["result"]
    reports: dict[str, Any] = {
        BundleFile.AUDIT: job.audit,
        BundleFile.METRICS: metrics_of(job, config, outcome) | {"temperatures": temperatures},
        BundleFile.PREDICTIONS: predictions_csv(
            outcome.slides, outcome.predictions, study.classes, identity
        ),
        BundleFile.HISTORY: trained.history_csv(identity),
    }
    save_bundle(job.target, bundle, outcome.frozen, tuple(outcome.slides), reports)


def metrics_of(job: Job, config: "BundleConfig", judged: Judged) -> dict[str, Any]:
    """Return ``metrics.json``: the figures, what they were made from, and what was accepted."""
    kept = ("result", "settings", "splits", "features", "weights")
    return {
        "classes": list(job.study.classes),
        "primary": job.config.aggregator[0],
        "digests": {name: config.digests[name] for name in kept},
        "versions": config.versions,
        "accepted_risk": job.audit["accepted_risk"],
        "notes": [*job.study.notes, *risks_of(job.audit)],
        "evaluations": judged.evaluations,
        "differences": _differences(job, judged),
        "drift": judged.drift,
    }


def _differences(job: Job, judged: Judged) -> list[dict[str, Any]]:
    """Hold the primary model against each other one, on slides that none was trained on."""
    from wsi_pipeline.learn import compare_models, describe_differences, slide_cases

    classes, primary = job.study.classes, job.config.aggregator[0]
    rows = []
    for split in ("test", "external"):
        part = [slide for slide in judged.slides if slide.split == split]
        if not part:
            continue
        cases = {
            name: slide_cases(part, found, classes) for name, found in judged.predictions.items()
        }
        rows += [
            {
                "split": split,
                "level": "slide",
                "first": primary,
                "second": other,
                "measures": describe_differences(
                    compare_models(cases[primary], cases[other], classes, job.bootstrap)
                ),
            }
            for other in cases
            if other != primary
        ]
    return rows


def describe_model(job: Job, digests: Mapping[str, Any]) -> "BundleConfig":
    """Return ``config.json`` as far as it does not depend on what was learned."""
    from wsi_pipeline.learn import BundleConfig

    config, study = job.config, job.study
    recipe = recipe_of(config)
    identity = identity_of(config, study)
    return BundleConfig(
        name=job.target.name,
        classes=study.classes,
        encoder=study.folder.folder.name,
        width=study.folder.bag(study.splits[0].slide_id).features.shape[1],
        tile_classifier=recipe.tile_classifier,
        aggregators=dict(recipe.aggregators),
        primary=config.aggregator[0],
        seed=config.seed,
        features=study.features,
        tiling=_tiling(config.run, study),
        settings=config.identity(),
        digests={
            **digests,
            "identity": identity,
            "settings": digest(identity["settings"]),
            "result": digest(identity),
        },
        versions=provenance(PACKAGES),
    )


def identity_of(config: TrainConfig, study: "Study") -> dict[str, Any]:
    """Return what decides the result: settings, encoder, splits, features, who is external."""
    return {
        "settings": config.identity() | {"encoder": study.folder.folder.name},
        "splits": study.digests["splits"],
        "features": study.digests["features"],
        "external_slides": 0 if study.sealed is None else len(study.sealed),
    }


def stored_identity(target: Path) -> dict[str, Any] | None:
    """Return the identity of the model that is there, if one is."""
    from wsi_pipeline.learn import read_bundle_config

    if not (target / BundleFile.CONFIG).exists():
        return None
    found: dict[str, Any] = read_bundle_config(target).digests.get("identity", {})
    return found


def _judge(job: Job, outcome: Outcome, folder: "FeatureFolder", slides: "Splits") -> None:
    """Score and evaluate ``slides``; an empty part adds nothing."""
    from wsi_pipeline.learn import evaluate_scores

    scores = outcome.trained.score(folder, slides)
    for model, found in scores.slides.items():
        outcome.predictions.setdefault(model, {}).update(found)
    outcome.slides += slides
    outcome.evaluations += evaluate_scores(scores, slides, job.study.classes, job.bootstrap)


def _tiling(run: Path, study: "Study") -> dict[str, Any]:
    """Return the tile stage's settings, empty where the tiles are not at hand."""
    from wsi_pipeline.tiles import find_store, open_tiles

    store = find_store(RunFolder(run).tiles, study.splits[0].slide_id)
    found: dict[str, Any] = {} if store is None else open_tiles(store).attributes.get("config", {})
    return found


def _novelty(study: "Study") -> "Novelty":
    """Return what the slides trained on look like."""
    from wsi_pipeline.learn import fit_novelty

    bags: dict[str, list[Any]] = {}
    for slide in study.splits:
        if slide.split == "train":
            bags.setdefault(slide.patient_id, []).append(study.folder.bag(slide.slide_id).features)
    return fit_novelty(bags)
