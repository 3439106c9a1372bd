"""One trial: audit, split, fit, freeze, judge, open the external cohort, save.

The order is what makes the figures honest, and it is the same for models on stored features
(`train`) and for a network on pixels (`finetune`). Splits are by patient and written down before
anything is fitted; the temperature is fitted on validation; test patients are judged by what is
frozen, and only then is the external cohort opened.

Under cross-validation ``fold-1`` … are whole models of their own, and a finished one is kept when
the command is given again. Every patient is judged by the one model that never saw it. The external
cohort is opened once, when the models of all folds are frozen, and judged by the mean of their
probabilities.
"""

import ctypes
import getpass
import platform
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from wsi_pipeline import learn
from wsi_pipeline.atomic import try_lock, write_json
from wsi_pipeline.errors import LearnError
from wsi_pipeline.events import Event, Note, Planned, StageStarted, Written
from wsi_pipeline.pipeline.audit import Audited, doubts_of
from wsi_pipeline.pipeline.model_folder import (
    HELD_OUT,
    Fitted,
    Job,
    Judged,
    SourceT,
    Trial,
    save,
    save_folds,
)
from wsi_pipeline.run_folder import RunFolder

BLOCK_BYTES: Final = 4 << 20
KEPT_BYTES: Final = 256 << 20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
REQUIRED: Final = 0.96  # accuracy that the study asks for, as a lower bound


def run_trial(trial: Trial[SourceT]) -> Iterator[Event]:
    """Do all of it; write the model's folder.

    Raises:
        CohortError: The cohort table is unusable.
        LearnError: The audit forbids training, or the slides cannot be split or trained on.
        StoreError: A store is unreadable.
        StoreMismatchError: The model exists and was trained on something else.
    """
    for event in _trial(trial):
        if trial.ranks.leads:
            yield event


def _trial(trial: Trial[SourceT]) -> Iterator[Event]:
    config = trial.config
    _give_back_large_blocks()
    audited = Audited.of_table(trial.material, config)
    models = len(trial.learner.models) * max(config.folds, 1)
    yield StageStarted(stage=trial.stage, total=models, unit="models")
    yield from trial.unmatched
    yield from doubts_of(trial.material.cohort)
    if audited.study is not None:
        yield from _gate(audited.study, config.folds)
    if config.dry_run or audited.study is None:
        yield from _only_audit(trial, audited)
        return
    lock = RunFolder(config.run).lock(f"{trial.stage}-{trial.ranks.rank}", trial.target.name)
    with try_lock(lock) as mine:
        if not mine:
            raise LearnError(
                f"{trial.target}: another process is training it; wait, or give --name"
            )
        job = Job(trial=trial, study=audited.study, audit={})
        if job.done():
            job.let_go()
            what = "slides" if trial.material.what == "features" else trial.material.what
            yield Note(text=f"{trial.target}: trained earlier on the same {what}; nothing to do")
        else:
            job = yield from _audit(job, audited)
            yield from (_train_folds(job) if job.study.folds else _train(job))
    yield Written(path=str(trial.target), what="model")


def _give_back_large_blocks() -> None:
    """Have glibc return what a large array took as soon as it is freed.

    Else the scores kept of slide after slide lie between blocks as large as a bag, and each leaves
    a hole that the next bag does not fit into: 13 GB in the place of 5 at 1.2 million tiles.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES)
            mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)  # smaller blocks are kept for the next step


def _only_audit(trial: Trial[SourceT], audited: Audited[SourceT]) -> Iterator[Event]:
    """Say what would be trained on; or, where nothing can be split, why not.

    Raises:
        LearnError: Nothing can be split.
    """
    audited, config = audited.with_tiles(trial.config), trial.config
    yield from audited.notes()
    if config.dry_run:
        if audited.study is not None:
            yield from (Planned(row=row) for row in audited.study.inventory())
        return
    if trial.ranks.leads:
        write_json(RunFolder(config.run).audit, audited.to_json(trial.settings))
    audited.permitted(config.accept_risk)


def _audit(job: Job[SourceT], audited: Audited[SourceT]) -> Generator[Event, None, Job[SourceT]]:
    """Compare features or tiles, write ``audit.json``, and go on only where that is permitted."""
    trial, config, ranks = job.trial, job.trial.config, job.trial.ranks
    yield from audited.before()
    if ranks.leads:
        audited = audited.with_tiles(config)
    audited = replace(audited, audit=ranks.from_leader(audited.audit))
    yield from audited.notes()
    report = audited.to_json(trial.settings, config.accept_risk)
    if ranks.leads:
        write_json(RunFolder(config.run).audit, report)
        yield from audited.write_groups(RunFolder(config.run))
    return replace(job, study=audited.permitted(config.accept_risk), audit=report)


def _train(job: Job[SourceT]) -> Iterator[Event]:
    """Train and judge on one split; the external cohort is opened after the freeze."""
    job.write_splits()
    fitted = yield from _fit(job)
    yield from _judge_external(job, [fitted.models], fitted.frozen, fitted.judged)
    yield from _headlines(job, fitted.judged)
    save(fitted)


def _fit(job: Job[SourceT]) -> Generator[Event, None, Fitted[SourceT]]:
    """Fit, freeze, and judge on the study's own parts."""
    study = job.study
    models = yield from job.trial.learner.fit(study, job.about())
    frozen = learn.FrozenModels(models.modules())
    judged = Judged()
    judged.add(job, models.score(study.source, study.splits), study.splits)
    return Fitted(job=job, models=models, frozen=frozen, judged=judged)


def _judge_external(
    job: Job[SourceT],
    models: Sequence[learn.Models[SourceT]],
    frozen: learn.FrozenModels,
    judged: Judged,
) -> Iterator[Event]:
    """Open the external cohort, if there is one, for frozen models; judge their mean."""
    study = job.study
    if study.sealed is None:
        return
    slides, source, notes = study.open_external(frozen)
    measured = judged.evaluations[0]["measures"]
    names = tuple(name for name in measured if "/" not in name)
    _record_opening(job, len(slides), frozen.digest, names)
    yield from (Note(text=text) for text in notes)
    if not slides:
        return
    judged.add(job, learn.mean_scores([each.score(source, slides) for each in models]), slides)
    judged.drift = job.trial.learner.drift(study, slides, source)
    judged.digests["external_bags"] = source.digests()


def _record_opening(job: Job[Any], slides: int, weights: str, metrics: tuple[str, ...]) -> None:
    """Write down that the external cohort was opened, before it is judged."""
    trial, sealed = job.trial, job.study.sealed
    assert sealed is not None
    if not trial.ranks.leads:
        return
    opening = learn.Opening(
        cohort=sealed.name,
        slides=slides,
        model=f"{trial.target.parent.name}/{trial.target.name}",
        weights=weights,
        who=f"{getpass.getuser()}@{platform.node()}",
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=metrics,
    )
    ledger = RunFolder(trial.config.run).openings
    learn.record_opening(ledger, opening)


def _gate(job_study: learn.Study[Any], folds: int) -> Iterator[Note]:
    """Say what the tested patients can show at best, before anything is trained."""
    tested = {s.patient_id for s in job_study.splits if folds or s.split == "test"}
    everyone = {slide.patient_id for slide in job_study.splits}
    if not tested:
        return
    low = learn.lower_bound_if_perfect(len(tested))
    needed = learn.patients_needed(REQUIRED)
    text = (
        f"{len(tested)} patients are tested: even without a mistake the lower bound of the "
        f"accuracy would be {low:.3f}"
    )
    if low < REQUIRED:
        text += f"; {REQUIRED:.0%} needs {needed}"
        if not folds:
            text += f", and --folds would test all {len(everyone)}"
    yield Note(text=text)


def _headlines(job: Job[Any], judged: Judged) -> Iterator[Note]:
    """Say how the model that speaks for a slide did on patients it has not seen."""
    level, measure, unit = job.trial.learner.headline
    model = "tile" if level == "tile" else job.trial.learner.primary
    for found in judged.evaluations:
        if (found["model"], found["level"]) != (model, level) or found["split"] not in HELD_OUT:
            continue
        value = found["measures"][measure]
        if value["value"] is None:
            continue
        interval = ""
        if value["low"] is not None:
            interval = f" (95 % interval {value['low']:.3f} to {value['high']:.3f})"
        yield Note(
            text=f"{model} on {found['split']}: {learn.METRICS[measure].title} {value['value']:.3f}"
            f"{interval}, {found['cases']} {unit} of {found['patients']} patients"
        )


def _train_folds(job: Job[SourceT]) -> Iterator[Event]:
    """Train what is missing of the folds; write the figures over all of them, last of all."""
    jobs = [
        replace(job, study=job.study.fold(index), fold=learn.FOLD.format(index + 1))
        for index in range(len(job.study.folds))
    ]
    for each in jobs:
        each.write_splits()
    for each in jobs:
        if each.done():
            each.let_go()
            yield Note(text=f"{each.target}: trained earlier on the same slides")
        else:
            fitted = yield from _fit(each)
            save(fitted)
    models = [job.trial.learner.load(each.target, each.study) for each in jobs]
    judged = Judged()
    _judge_tested(job, jobs, models, judged)
    named = {
        f"{each.fold}.{name}": module
        for each, found in zip(jobs, models, strict=True)
        for name, module in found.modules().items()
    }
    yield from _judge_external(job, models, learn.FrozenModels(named), judged)
    yield from _headlines(job, judged)
    if job.trial.ranks.leads:
        save_folds(job, jobs, judged)


def _judge_tested(
    job: Job[SourceT],
    jobs: Sequence[Job[SourceT]],
    models: Sequence[learn.Models[SourceT]],
    judged: Judged,
) -> None:
    """Judge every slide by the model of the fold that tests it, and all of them together."""
    pooled = learn.Scores()
    tested: list[learn.SplitSlide] = []
    for each, found in zip(jobs, models, strict=True):
        part = each.study.part("test")
        scores = found.score(each.study.source, part)
        pooled.tiles |= scores.tiles
        for model, of_slides in scores.slides.items():
            pooled.slides.setdefault(model, {}).update(of_slides)
        tested += part
    judged.add(job, pooled, tested)
