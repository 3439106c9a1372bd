"""Train a tile classifier and slide aggregators on stored features, and validate them.

The order is what makes the figures honest: audit, split by patient and write it down, train,
calibrate on validation, freeze, judge on the test patients, and only then open the external cohort.
"""

from collections.abc import Iterator

from wsi_pipeline.atomic import try_lock
from wsi_pipeline.engine import is_done
from wsi_pipeline.errors import LearnError
from wsi_pipeline.events import Event, Note, Planned, StageStarted, Written
from wsi_pipeline.pipeline.audit import about, audit_run, notes_of, write_audit
from wsi_pipeline.pipeline.train_config import TrainConfig, check_names
from wsi_pipeline.pipeline.train_folds import train_folds
from wsi_pipeline.pipeline.train_model import (
    Job,
    fit_model,
    identity_of,
    judge_external,
    save_model,
    stored_identity,
)
from wsi_pipeline.run_folder import RunFolder


def run(config: TrainConfig) -> Iterator[Event]:
    """Audit, train, validate, write ``models/<name>/``.

    Raises:
        ConfigError: An aggregator is unknown or named twice.
        CohortError: The run folder's cohort table is unusable.
        LearnError: The audit forbids training, or the slides cannot be split or trained on.
        StoreError: There are no features of this encoder.
        StoreMismatchError: The model exists and was trained on something else.
    """
    from wsi_pipeline.features import find_features

    check_names(config.aggregator)
    stores = find_features(RunFolder(config.run).features, config.encoder)
    target = RunFolder(config.run).model(config.name or stores.name)
    audited = audit_run(config, stores)
    models = (1 + len(config.aggregator)) * max(config.folds, 1)
    yield StageStarted(stage="train", total=models, unit="models")
    yield from notes_of(audited)
    if config.dry_run:
        if audited.study is not None:
            yield from (Planned(row=row) for row in audited.study.inventory())
        return
    write_audit(config, audited, stores.name, config.accept_risk)
    job = Job(
        config=config,
        study=audited.permitted(config.accept_risk),
        target=target,
        audit=audited.audit.to_json(config.accept_risk, **about(config, audited, stores.name)),
    )
    with try_lock(RunFolder(config.run).lock("train", target.name)) as mine:
        if not mine:
            raise LearnError(f"{target}: another process is training it; wait, or give --name")
        asked = identity_of(config, job.study)
        if is_done(target, stored_identity(target), asked, overwrite=config.overwrite):
            yield Note(text=f"{target}: trained earlier on the same slides; nothing to do")
        elif config.folds:
            yield from train_folds(job)
        else:
            yield from _train(job)
    yield Written(path=str(target), what="model")


def _train(job: Job) -> Iterator[Event]:
    """Train and judge on one split; the external cohort is opened after the freeze."""
    from wsi_pipeline.learn import write_splits

    write_splits(RunFolder(job.config.run).splits(job.target.name), job.study.splits)
    outcome = yield from fit_model(job)
    yield from judge_external(job, outcome)
    yield from outcome.headlines(job.config.aggregator[0])
    save_model(job, outcome)
