"""Cross-validation: a model a fold, every patient judged by the one model that never saw it.

``models/<name>/fold-1`` … are whole bundles, and a finished one is kept when the command is given
again. Beside them stand the figures over all folds. The external cohort is opened once, when the
models of all folds are frozen, and judged by the mean of their probabilities.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.engine import is_done
from wsi_pipeline.errors import LearnError
from wsi_pipeline.events import Event, Note
from wsi_pipeline.pipeline.train_model import (
    Job,
    Judged,
    describe_model,
    drift_of,
    fit_model,
    identity_of,
    metrics_of,
    save_model,
    stored_identity,
)
from wsi_pipeline.run_folder import BundleFile, RunFolder
from wsi_pipeline.tables import read_table, to_csv

if TYPE_CHECKING:
    from wsi_pipeline.learn import Bundle, FeatureFolder, Scores, Splits

HOW: Final = (
    "Each patient is judged by the model of the fold that tests it; intervals are over all "
    "patients. External slides are judged by the mean of the folds' calibrated probabilities."
)


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """A trained fold: its job, its models as saved, the figures of its own test part."""

    job: Job
    bundle: "Bundle"
    evaluations: list[dict[str, Any]]


def train_folds(job: Job) -> Iterator[Event]:
    """Train what is missing of the folds; write the figures over all of them, last of all."""
    from wsi_pipeline.learn import write_splits

    jobs = [_fold_job(job, index) for index in range(len(job.study.folds))]
    for fold in jobs:
        write_splits(
            RunFolder(job.config.run).splits(job.target.name, fold.target.name),
            fold.study.splits,
        )
    for fold in jobs:
        yield from _train_fold(fold)
    folds = [_read(fold) for fold in jobs]
    judged = _judge_tested(job, folds)
    digests: dict[str, Any] = dict(job.study.digests)
    if job.study.sealed is not None:
        yield from _judge_external(job, folds, judged, digests)
    yield from judged.headlines(job.config.aggregator[0])
    _save(job, folds, judged, digests)


def _fold_job(job: Job, index: int) -> Job:
    """Return the job of one fold; the external cohort is not its business."""
    name = f"fold-{index + 1}"
    return replace(job, study=job.study.fold(index), target=job.target / name, label=f"{name} ")


def _train_fold(job: Job) -> Iterator[Event]:
    asked = identity_of(job.config, job.study)
    overwrite = job.config.overwrite
    if is_done(job.target, stored_identity(job.target), asked, overwrite=overwrite):
        yield Note(text=f"{job.target}: trained earlier on the same slides")
        return
    outcome = yield from fit_model(job)
    save_model(job, outcome)


def _read(job: Job) -> _Fold:
    from wsi_pipeline.learn import load_bundle

    metrics = json.loads((job.target / BundleFile.METRICS).read_text("utf-8"))
    tested = [found for found in metrics["evaluations"] if found["split"] == "test"]
    return _Fold(job=job, bundle=load_bundle(job.target), evaluations=tested)


def _judge_tested(job: Job, folds: Sequence[_Fold]) -> Judged:
    """Judge every slide by the model of the fold that tests it, and all of them together."""
    from wsi_pipeline.learn import Scores, evaluate_scores

    judged, pooled = Judged(), Scores()
    for fold in folds:
        tested = tuple(slide for slide in fold.job.study.splits if slide.split == "test")
        scores = _score(fold.bundle, job.study.folder, tested)
        pooled.tiles |= scores.tiles
        for model, found in scores.slides.items():
            pooled.slides.setdefault(model, {}).update(found)
        judged.slides += tested
    judged.predictions = pooled.slides
    judged.evaluations += evaluate_scores(pooled, judged.slides, job.study.classes, job.bootstrap)
    return judged


def _judge_external(
    job: Job, folds: Sequence[_Fold], judged: Judged, digests: dict[str, Any]
) -> Iterator[Event]:
    """Open the external cohort for the frozen models of all folds; judge their mean."""
    from wsi_pipeline.learn import FrozenModels, evaluate_scores, open_external

    frozen = FrozenModels(
        {
            f"{fold.job.target.name}.{name}": model
            for fold in folds
            for name, model in fold.bundle.models().items()
        }
    )
    slides, folder, notes = open_external(job.study, frozen)
    yield from (Note(text=text) for text in notes)
    scores = _mean([_score(fold.bundle, folder, slides) for fold in folds])
    for model, found in scores.slides.items():
        judged.predictions[model] |= found
    judged.slides += slides
    judged.evaluations += evaluate_scores(scores, slides, job.study.classes, job.bootstrap)
    judged.drift = drift_of(job, slides, folder)
    digests["external_bags"] = folder.digests()


def _score(bundle: "Bundle", folder: "FeatureFolder", slides: "Splits") -> "Scores":
    from wsi_pipeline.learn import score_slides

    ids = [slide.slide_id for slide in slides]
    return score_slides(
        bundle.tile_classifier, bundle.aggregators, folder, ids, bundle.config.temperatures
    )


def _mean(scores: Sequence["Scores"]) -> "Scores":
    """Return the mean probabilities of several models for the same slides."""
    from wsi_pipeline.learn import Scores

    first = scores[0]
    return Scores(
        tiles={
            slide: np.mean([found.tiles[slide] for found in scores], axis=0)
            for slide in first.tiles
        },
        slides={
            model: {
                slide: np.mean([found.slides[model][slide] for found in scores], axis=0)
                for slide in of_slide
            }
            for model, of_slide in first.slides.items()
        },
    )


def _save(job: Job, folds: Sequence[_Fold], judged: Judged, digests: dict[str, Any]) -> None:
    """Write the figures over all folds beside them; ``config.json`` comes last and ends it."""
    from wsi_pipeline.learn import predictions_csv, write_splits

    weights = {fold.job.target.name: fold.bundle.config.digests["weights"] for fold in folds}
    config = describe_model(job, digests | {"weights": weights})
    metrics = metrics_of(job, config, judged) | {
        "cross_validation": {"folds": len(folds), "how": HOW},
        "folds": [
            {"fold": fold.job.target.name, "evaluations": fold.evaluations} for fold in folds
        ],
    }
    target, result = job.target, config.digests["result"]
    table = predictions_csv(judged.slides, judged.predictions, job.study.classes, result)
    write_json(target / BundleFile.AUDIT, job.audit)
    write_splits(target / BundleFile.FOLDS, job.study.splits)
    write_splits(target / BundleFile.SPLITS, judged.slides)
    write_text(target / BundleFile.PREDICTIONS, table)
    write_text(target / BundleFile.HISTORY, _history(folds))
    write_json(target / BundleFile.METRICS, metrics)
    write_json(target / BundleFile.CONFIG, asdict(config))


def _history(folds: Sequence[_Fold]) -> str:
    """Return the folds' histories as one table, the fold before the model's name."""
    tables = [read_table(fold.job.target / BundleFile.HISTORY, error=LearnError) for fold in folds]
    rows = [
        {**row.cells, "model": f"{fold.job.label}{row.cells['model']}"}
        for fold, table in zip(folds, tables, strict=True)
        for row in table
    ]
    return to_csv(tables[0].columns, rows)
