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

import getpass
import json
import platform
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from wsi_pipeline import learn
from wsi_pipeline.atomic import atomic_folder, try_lock, write_json, write_text
from wsi_pipeline.engine import is_done, provenance
from wsi_pipeline.errors import LearnError
from wsi_pipeline.events import Event, Note, Planned, StageStarted, Written
from wsi_pipeline.learn.settings import with_defaults
from wsi_pipeline.pipeline.audit import Audited, doubts_of, risks_of
from wsi_pipeline.pipeline.configs import TrialConfig
from wsi_pipeline.run_folder import BundleFile, RunFolder
from wsi_pipeline.settings import digest
from wsi_pipeline.tables import read_table, to_csv

REQUIRED: Final = 0.96  # accuracy that the study asks for, as a lower bound
HELD_OUT: Final = ("test", "external")
FOLDED: Final = (
    "Each patient is judged by the model of the fold that tests it; intervals are over all "
    "patients. External slides are judged by the mean of the folds' calibrated probabilities."
)


SourceT = TypeVar("SourceT", bound=learn.Source)


@dataclass(frozen=True, kw_only=True)
class Trial(Generic[SourceT]):
    """What is tried, and where it goes.

    Attributes:
        stage: ``train`` or ``finetune``.
        config: What was asked.
        settings: What of it decides the result.
        learner: Fits the models.
        material: What they are fitted and judged on.
        target: The model's folder.
        splits: Its name among the run folder's splits.
        ranks: The processes that work together; the first one writes and speaks.
        unmatched: Rows of the cohort without stores, and stores without a row.
    """

    stage: str
    config: TrialConfig
    settings: Mapping[str, Any]
    learner: learn.Learner[SourceT]
    material: learn.Material[SourceT]
    target: Path
    splits: str
    ranks: learn.Ranks
    unmatched: tuple[Event, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Job(Generic[SourceT]):
    """One model to be made: a trial's only one, or that of a fold."""

    trial: Trial[SourceT]
    study: learn.Study[SourceT]
    audit: Mapping[str, Any]
    fold: str = ""

    @property
    def target(self) -> Path:
        return self.trial.target / self.fold if self.fold else self.trial.target

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result: settings, splits, features or tiles, who is external."""
        study, what = self.study, self.study.material.what
        return {
            "settings": dict(self.trial.settings),
            "splits": study.digests["splits"],
            what: study.digests[what],
            "external_slides": 0 if study.sealed is None else len(study.sealed),
        }

    def done(self) -> bool:
        """Whether the model is there, made from the same.

        Raises:
            StoreMismatchError: It was made from something else, and is not to be overwritten.
        """
        asked, config, ranks = self.identity, self.trial.config, self.trial.ranks
        stored = _stored(self.target)
        if stored is not None:
            stored["settings"] = with_defaults(stored["settings"], asked["settings"], type(config))
        return ranks.from_leader(is_done(self.target, stored, asked, overwrite=config.overwrite))

    def about(self, digests: Mapping[str, Any] | None = None) -> learn.Provenance:
        """Return what a model says of how it was made; ``digests`` are added."""
        identity, trial = self.identity, self.trial
        return learn.Provenance(
            name=trial.target.name,
            fold=self.fold,
            settings=trial.config.identity(),
            digests={
                **self.study.digests,
                **(digests or {}),
                "identity": identity,
                "settings": digest(identity["settings"]),
                "result": digest(identity),
            },
            versions=provenance(trial.learner.packages),
        )

    def write_splits(self) -> None:
        """Write down who is in which part, before anything is fitted."""
        trial = self.trial
        if trial.ranks.leads:
            folder = RunFolder(trial.config.run)
            learn.write_splits(folder.splits(trial.splits, self.fold or None), self.study.splits)


@dataclass(kw_only=True)
class _Judged:
    """Figures as they grow, part by part."""

    slides: list[learn.SplitSlide] = field(default_factory=list)
    predictions: dict[str, learn.Probabilities] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    drift: dict[str, Any] | None = None
    digests: dict[str, Any] = field(default_factory=dict)

    def add(self, job: _Job[Any], scores: learn.Scores, slides: Sequence[learn.SplitSlide]) -> None:
        """Evaluate ``slides``; an empty part adds nothing."""
        for model, found in scores.slides.items():
            self.predictions.setdefault(model, {}).update(found)
        self.slides += slides
        self.evaluations += learn.evaluate_scores(
            scores, slides, job.study.classes, _bootstrap(job)
        )


@dataclass(frozen=True, kw_only=True)
class _Fitted(Generic[SourceT]):
    """Models of one job, frozen, and their figures so far."""

    job: _Job[SourceT]
    models: learn.Models[SourceT]
    frozen: learn.FrozenModels
    judged: _Judged


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
        job = _Job(trial=trial, study=audited.study, audit={})
        if job.done():
            what = "slides" if trial.material.what == "features" else trial.material.what
            yield Note(text=f"{trial.target}: trained earlier on the same {what}; nothing to do")
        else:
            job = yield from _audit(job, audited)
            yield from (_train_folds(job) if job.study.folds else _train(job))
    yield Written(path=str(trial.target), what="model")


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


def _audit(job: _Job[SourceT], audited: Audited[SourceT]) -> Generator[Event, None, _Job[SourceT]]:
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


def _train(job: _Job[SourceT]) -> Iterator[Event]:
    """Train and judge on one split; the external cohort is opened after the freeze."""
    job.write_splits()
    fitted = yield from _fit(job)
    yield from _judge_external(job, [fitted.models], fitted.frozen, fitted.judged)
    yield from _headlines(job, fitted.judged)
    _save(fitted)


def _fit(job: _Job[SourceT]) -> Generator[Event, None, _Fitted[SourceT]]:
    """Fit, freeze, and judge on the study's own parts."""
    study = job.study
    models = yield from job.trial.learner.fit(study, job.about())
    frozen = learn.FrozenModels(models.modules())
    judged = _Judged()
    judged.add(job, models.score(study.source, study.splits), study.splits)
    return _Fitted(job=job, models=models, frozen=frozen, judged=judged)


def _judge_external(
    job: _Job[SourceT],
    models: Sequence[learn.Models[SourceT]],
    frozen: learn.FrozenModels,
    judged: _Judged,
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


def _record_opening(job: _Job[Any], slides: int, weights: str, metrics: tuple[str, ...]) -> None:
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


def _headlines(job: _Job[Any], judged: _Judged) -> Iterator[Note]:
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


def _save(fitted: _Fitted[SourceT]) -> None:
    """Write the model's folder, whole or not at all."""
    job, judged = fitted.job, fitted.judged
    trial, study = job.trial, job.study
    fitted.frozen.check()
    about = job.about(judged.digests | {"weights": fitted.frozen.digest})
    if trial.ranks.leads:
        with atomic_folder(job.target) as partial:
            trial.learner.write(partial, fitted.models, study, about)
            _write_figures(partial, job, judged, about, fitted.models.temperatures)
            history = _history(fitted.models.history, about.digests["result"])
            write_text(partial / BundleFile.HISTORY, history)
        trial.learner.finish(about)
    trial.ranks.from_leader(None)  # nobody goes on before it is there


def _train_folds(job: _Job[SourceT]) -> Iterator[Event]:
    """Train what is missing of the folds; write the figures over all of them, last of all."""
    jobs = [
        replace(job, study=job.study.fold(index), fold=learn.FOLD.format(index + 1))
        for index in range(len(job.study.folds))
    ]
    for each in jobs:
        each.write_splits()
    for each in jobs:
        if each.done():
            yield Note(text=f"{each.target}: trained earlier on the same slides")
        else:
            fitted = yield from _fit(each)
            _save(fitted)
    models = [job.trial.learner.load(each.target, each.study) for each in jobs]
    judged = _Judged()
    _judge_tested(job, jobs, models, judged)
    named = {
        f"{each.fold}.{name}": module
        for each, found in zip(jobs, models, strict=True)
        for name, module in found.modules().items()
    }
    yield from _judge_external(job, models, learn.FrozenModels(named), judged)
    yield from _headlines(job, judged)
    if job.trial.ranks.leads:
        _save_folds(job, jobs, judged)


def _judge_tested(
    job: _Job[SourceT],
    jobs: Sequence[_Job[SourceT]],
    models: Sequence[learn.Models[SourceT]],
    judged: _Judged,
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


def _save_folds(job: _Job[SourceT], jobs: Sequence[_Job[SourceT]], judged: _Judged) -> None:
    """Write the figures over all folds beside them; ``config.json`` comes last and ends it."""
    target, learner = job.target, job.trial.learner
    of_folds = {each.fold: _read(each.target / BundleFile.CONFIG) for each in jobs}
    weights = {name: config["digests"]["weights"] for name, config in of_folds.items()}
    about = job.about(judged.digests | {"weights": weights})
    figures = {
        "cross_validation": {"folds": len(jobs), "how": FOLDED},
        "folds": [
            {
                "fold": each.fold,
                "evaluations": [
                    found
                    for found in _read(each.target / BundleFile.METRICS)["evaluations"]
                    if found["split"] == "test"
                ],
            }
            for each in jobs
        ],
    }
    _remove_stale(target, [each.fold for each in jobs])
    learn.write_splits(target / BundleFile.FOLDS, job.study.splits)
    write_text(target / BundleFile.HISTORY, _join_histories(jobs))
    _write_figures(target, job, judged, about, None, figures)
    write_json(target / BundleFile.CONFIG, learner.describe(job.study, about))


def _remove_stale(target: Path, folds: Sequence[str]) -> None:
    """Remove what another training left in the folder: folds too many, weights of a single one."""
    (target / BundleFile.CONFIG).unlink(missing_ok=True)
    for file in (BundleFile.WEIGHTS, BundleFile.ENCODER, BundleFile.EPOCHS, BundleFile.SPEED):
        (target / file).unlink(missing_ok=True)
    for folder in target.glob(learn.FOLD.format("*")):
        if folder.name not in folds:
            shutil.rmtree(folder)


def _write_figures(
    folder: Path,
    job: _Job[Any],
    judged: _Judged,
    about: learn.Provenance,
    temperatures: Mapping[str, float] | None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write what was found: who was where, the audit, the metrics, each slide's prediction."""
    kept = ("result", "settings", "splits", job.study.material.what, "weights")
    metrics = {
        "classes": list(job.study.classes),
        "primary": job.trial.learner.primary,
        "digests": {name: about.digests[name] for name in kept},
        "versions": dict(about.versions),
        "accepted_risk": job.audit["accepted_risk"],
        "notes": [*job.study.notes, *risks_of(job.audit)],
        "evaluations": judged.evaluations,
        "differences": _differences(job, judged),
        "drift": judged.drift,
        "sets": learn.describe_sets(judged.predictions, judged.slides, job.study.classes),
        **({} if temperatures is None else {"temperatures": dict(temperatures)}),
        **(more or {}),
    }
    table = learn.predictions_csv(
        judged.slides, judged.predictions, job.study.classes, about.digests["result"]
    )
    learn.write_splits(folder / BundleFile.SPLITS, judged.slides)
    write_json(folder / BundleFile.AUDIT, dict(job.audit))
    write_json(folder / BundleFile.METRICS, metrics)
    write_text(folder / BundleFile.PREDICTIONS, table)


def _differences(job: _Job[Any], judged: _Judged) -> list[dict[str, Any]]:
    """Hold the primary model against each other one, on slides that none was trained on."""
    classes, primary = job.study.classes, job.trial.learner.primary
    rows = []
    for split in HELD_OUT:
        part = [slide for slide in judged.slides if slide.split == split]
        if not part:
            continue
        cases = {
            name: learn.slide_cases(part, found, classes)
            for name, found in judged.predictions.items()
        }
        rows += [
            {
                "split": split,
                "level": "slide",
                "first": primary,
                "second": other,
                "measures": learn.describe_differences(
                    learn.compare_models(cases[primary], cases[other], classes, _bootstrap(job))
                ),
            }
            for other in cases
            if other != primary
        ]
    return rows


def _bootstrap(job: _Job[Any]) -> learn.Bootstrap:
    asked = job.trial.config
    return learn.Bootstrap(resamples=asked.resamples, method=asked.interval, seed=asked.seed)


def _history(epochs: Sequence[tuple[str, learn.Epoch]], result: str) -> str:
    """Return one row an epoch: ``model``, the fields of :class:`learn.Epoch`, ``result``."""
    names = [item.name for item in fields(learn.Epoch)]
    rows = ([model, *asdict(epoch).values(), result] for model, epoch in epochs)
    return to_csv(["model", *names, "result"], rows)


def _join_histories(jobs: Sequence[_Job[Any]]) -> str:
    """Return the folds' histories as one table, the fold before the model's name."""
    tables = [read_table(job.target / BundleFile.HISTORY, error=LearnError) for job in jobs]
    rows = [
        {**row.cells, "model": f"{job.fold} {row.cells['model']}"}
        for job, table in zip(jobs, tables, strict=True)
        for row in table
    ]
    return to_csv(tables[0].columns, rows)


def _stored(target: Path) -> dict[str, Any] | None:
    """Return the identity of the model that is there, if one is.

    Raises:
        LearnError: What is there is no model.
    """
    path = target / BundleFile.CONFIG
    if not path.exists():
        return None
    try:
        identity = dict(_read(path)["digests"]["identity"])
        identity["settings"] = dict(identity["settings"])
    except (ValueError, KeyError, TypeError):
        raise LearnError(f"{path}: not a trained model's; remove the folder") from None
    return identity


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
