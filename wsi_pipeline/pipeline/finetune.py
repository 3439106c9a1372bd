"""Fine-tune an encoder end to end, and validate it as `train` validates its models.

The order is the same: audit, split by patient and write it down, train, calibrate on validation,
freeze, judge on the test patients, and only then open the external cohort. Under ``torchrun``
several processes share the work; the first one writes and speaks.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wsi_pipeline.atomic import atomic_folder, try_lock, write_json, write_text
from wsi_pipeline.config import digest
from wsi_pipeline.engine import is_done, provenance
from wsi_pipeline.errors import LearnError
from wsi_pipeline.events import EpochDone, Event, Note, Planned, StageStarted, Written
from wsi_pipeline.pipeline.audit import findings_of, risks_of
from wsi_pipeline.pipeline.finetune_config import FinetuneConfig, settings_of
from wsi_pipeline.pipeline.finetune_study import audit_study, split_study
from wsi_pipeline.pipeline.headline import headline
from wsi_pipeline.run_folder import BundleFile, RunFolder

if TYPE_CHECKING:
    from wsi_pipeline.learn import FrozenModels, Scores, Splits
    from wsi_pipeline.learn.finetune import FineTuning, Ranks
    from wsi_pipeline.learn.finetune.study import TileStudy

PACKAGES: Final = ("torch", "timm", "numpy", "scipy", "safetensors")
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is to be trained: settings, slides, the folder it goes to, what the audit found."""

    config: FinetuneConfig
    study: "TileStudy"
    target: Path
    identity: dict[str, Any]
    audit: dict[str, Any]
    ranks: "Ranks"


@dataclass(kw_only=True)
class _Outcome:
    """What a fine-tuning came to; slides, scores and evaluations grow part by part."""

    study: "TileStudy"
    tuning: "FineTuning"
    frozen: "FrozenModels"
    temperature: float = 1.0
    slides: list[Any] = field(default_factory=list)
    predictions: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    tiles_per_second: float = 0.0


def run(config: FinetuneConfig) -> Iterator[Event]:
    """Fine-tune, validate, write ``finetuned/<name>/``.

    Raises:
        ConfigError: Images and tile stores are mixed up.
        CohortError: The run folder's cohort table is unusable.
        EncoderError: The encoder is unknown, or its weights cannot be had.
        LearnError: The slides cannot be split or trained on.
        StoreMismatchError: The model exists and was trained on something else.
    """
    from wsi_pipeline.learn.finetune import join_ranks

    with join_ranks() as ranks:
        for event in _run(config, ranks):
            if ranks.leads:
                yield event


def _run(config: FinetuneConfig, ranks: "Ranks") -> Iterator[Event]:
    found = split_study(config)
    target = RunFolder(config.run).finetuned(config.name or config.encoder)
    yield StageStarted(stage="finetune", total=1, unit="models")
    yield from (Note(text=text) for text in (found.study.notes if found.study else ()))
    if config.dry_run:
        found = audit_study(config, found)
        yield from findings_of(found.audit)
        if found.study is not None:
            yield from (Planned(row=row) for row in found.study.inventory())
        return
    study = found.study
    if study is None:
        yield from findings_of(found.audit)
        write_json(RunFolder(config.run).audit, found.audit.to_json(**_about(config)))
        found.permitted(config.accept_risk)
        return
    identity = _identity(config, study)
    with try_lock(RunFolder(config.run).lock(f"finetune-{ranks.rank}", target.name)) as mine:
        if not mine:
            raise LearnError(f"{target}: another process is training it; wait, or give --name")
        done = ranks.from_leader(
            is_done(target, _stored(target), identity, overwrite=config.overwrite)
        )
        if done:
            yield Note(text=f"{target}: trained earlier on the same tiles; nothing to do")
        else:
            audited = audit_study(config, found) if ranks.leads else found
            found = replace(found, audit=ranks.from_leader(audited.audit))
            yield from findings_of(found.audit)
            report = found.audit.to_json(config.accept_risk, **_about(config, identity))
            if ranks.leads:
                write_json(RunFolder(config.run).audit, report)
            found.permitted(config.accept_risk)
            task = _Task(config=config, study=study, target=target, identity=identity,
                         audit=report, ranks=ranks)  # fmt: skip
            yield from _finetune(task)
    yield Written(path=str(target), what="model")


def _finetune(task: _Task) -> Iterator[Event]:
    """Train and judge; the external cohort is opened after the freeze, and nowhere else."""
    from wsi_pipeline.learn import FrozenModels, write_splits

    config, study, target = task.config, task.study, task.target
    if task.ranks.leads:
        write_splits(RunFolder(config.run).splits(f"finetuned-{target.name}"), study.splits)
    tuning = _tuning(task)
    for row in tuning.progress.history:
        yield Note(text=f"{target.name}: epoch {row['epoch']:.0f} was finished earlier")
    for epoch in tuning:
        figures = {
            "train_loss": epoch.train_loss,
            "val_loss": epoch.val_loss,
            "val_balanced_accuracy": epoch.val_balanced_accuracy,
        }
        yield EpochDone(model=target.name, epoch=epoch.epoch, epochs=config.epochs, metrics=figures)
    frozen = FrozenModels({"network": tuning.built.network})
    outcome = _Outcome(study=study, tuning=tuning, frozen=frozen)
    _calibrate(config, outcome)
    _judge(config, outcome, study.splits)
    if study.sealed is not None:
        slides, notes = study.open_external(frozen)
        yield from (Note(text=text) for text in notes)
        if slides:
            _judge(config, outcome, slides)
    yield from _headlines(outcome)
    if task.ranks.leads:
        _save(task, outcome)
        _checkpoint(config, target).unlink(missing_ok=True)


def _tuning(task: _Task) -> "FineTuning":
    from wsi_pipeline.learn import resolve_device
    from wsi_pipeline.learn.finetune import FineTuning, Workplace, build_network

    config, study = task.config, task.study
    built = build_network(
        config.encoder, config.weights, len(study.classes),
        dropout=config.dropout, scaling=config.scaling, seed=config.seed,
    )  # fmt: skip
    place = Workplace(
        device=task.ranks.device(resolve_device(config.device)),
        ranks=task.ranks,
        checkpoint=_checkpoint(config, task.target),
        identity=digest(task.identity),
    )
    parts = study.source(study.part("train")), study.source(study.part("val"))
    return FineTuning(built, parts, study.classes, settings_of(config), place)


def _scores(config: FinetuneConfig, outcome: _Outcome, slides: "Splits") -> dict[str, Any]:
    from wsi_pipeline.learn.finetune import score_tiles

    tiles, outcome.tiles_per_second = score_tiles(
        outcome.tuning.viewer(), outcome.study.source(slides),
        most=config.scored_tiles, seed=config.seed, ranks=outcome.tuning.ranks,
    )  # fmt: skip
    return tiles


def _calibrate(config: FinetuneConfig, outcome: _Outcome) -> None:
    """Fit the temperature on the validation slides."""
    from wsi_pipeline.learn import TILE_MEAN, fit_temperatures
    from wsi_pipeline.learn.finetune import to_scores

    slides = outcome.study.part("val")
    scores = to_scores(_scores(config, outcome, slides))
    temperatures = fit_temperatures(scores, slides, outcome.study.classes)
    outcome.temperature = temperatures[TILE_MEAN]


def _judge(config: FinetuneConfig, outcome: _Outcome, slides: "Splits") -> None:
    from wsi_pipeline.learn import Bootstrap, evaluate_scores
    from wsi_pipeline.learn.finetune import to_scores

    scores: Scores = to_scores(_scores(config, outcome, slides), outcome.temperature)
    for model, found in scores.slides.items():
        outcome.predictions.setdefault(model, {}).update(found)
    outcome.slides += slides
    bootstrap = Bootstrap(resamples=config.resamples, method=config.interval, seed=config.seed)
    outcome.evaluations += evaluate_scores(scores, slides, outcome.study.classes, bootstrap)


def _headlines(outcome: _Outcome) -> Iterator[Note]:
    """Say how the network did on the patients it has not seen."""
    for found in outcome.evaluations:
        if found["level"] != "tile" or found["split"] in ("train", "val"):
            continue
        said = headline(found, f"tiles of {found['split']}", "accuracy", "tiles")
        if said is not None:
            yield said


def _save(task: _Task, outcome: _Outcome) -> None:
    from safetensors.torch import save_file

    from wsi_pipeline.learn import TILE_MEAN, predictions_csv, write_splits

    config, target = task.config, task.target
    study, built = outcome.study, outcome.tuning.built
    outcome.frozen.check()
    with atomic_folder(target) as partial:
        for file, module in (
            (BundleFile.WEIGHTS, built.network),
            (BundleFile.ENCODER, built.network.body),
        ):
            state = {key: value.detach().cpu().contiguous() for key, value in
                     module.state_dict().items()}  # fmt: skip
            save_file(state, partial / file)
        write_splits(partial / BundleFile.SPLITS, outcome.slides)
        write_json(partial / BundleFile.AUDIT, task.audit)
        write_json(
            partial / BundleFile.CONFIG,
            {
                "schema_version": SCHEMA_VERSION,
                "name": target.name,
                "classes": list(study.classes),
                "encoder": config.encoder,
                "started_from": built.encoder.provenance | {"tag": built.encoder.tag},
                "preprocess": built.preprocess.as_dict() | {"input_px": config.input_px},
                "parameters": built.parameters,
                "temperature": outcome.temperature,
                "settings": config.identity(),
                "digests": {"identity": task.identity, "weights": outcome.frozen.digest},
                "versions": provenance(PACKAGES),
            },
        )
        write_json(
            partial / BundleFile.METRICS,
            {
                "classes": list(study.classes),
                "primary": TILE_MEAN,
                "temperatures": {TILE_MEAN: outcome.temperature},
                "notes": [*study.notes, *risks_of(task.audit)],
                "evaluations": outcome.evaluations,
            },
        )
        table = predictions_csv(outcome.slides, outcome.predictions, study.classes)
        write_text(partial / BundleFile.PREDICTIONS, table)
        write_json(partial / BundleFile.EPOCHS, outcome.tuning.progress.history)
        write_json(partial / BundleFile.SPEED, {"tiles_per_second": outcome.tiles_per_second})


def _identity(config: FinetuneConfig, study: "TileStudy") -> dict[str, Any]:
    """Return what decides the result: settings, splits, tiles, who is external."""
    from wsi_pipeline.learn import splits_digest
    from wsi_pipeline.learn.finetune import source_digest

    return {
        "settings": config.identity(),
        "splits": splits_digest(study.splits),
        "tiles": source_digest(study.source(study.splits)),
        "external_slides": 0 if study.sealed is None else len(study.sealed),
    }


def _about(config: FinetuneConfig, identity: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what was audited: the settings of the split and the digests of what was looked at."""
    names = (
        "external", "external_images", "patient_pattern", "split", "test_fraction",
        "val_fraction", "seed", "min_test_patients",
    )  # fmt: skip
    known = config.identity()
    digests = {} if identity is None else {name: identity[name] for name in ("splits", "tiles")}
    return {
        "settings": {name: known[name] for name in names if name in known},
        "digests": digests,
    }


def _stored(target: Path) -> dict[str, Any] | None:
    """Return the identity of the model that is there, if one is.

    Raises:
        LearnError: What is there is no fine-tuned model.
    """
    path = target / BundleFile.CONFIG
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))["digests"]["identity"]
    except (ValueError, KeyError, TypeError):
        raise LearnError(f"{path}: not a fine-tuned model's; remove the folder") from None
    return found


def _checkpoint(config: FinetuneConfig, target: Path) -> Path:
    return RunFolder(config.run).checkpoint(target.name)
