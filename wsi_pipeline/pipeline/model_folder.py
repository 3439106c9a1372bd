"""One model of a trial: what decides it, whether it is there, what was found, and its folder.

A fold is a whole model; the figures over all folds are written beside them. A folder appears whole
or not at all, and ``config.json`` comes last.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from wsi_pipeline import learn
from wsi_pipeline.atomic import atomic_folder, remove, write_json, write_text
from wsi_pipeline.engine import is_done, provenance
from wsi_pipeline.errors import LearnError
from wsi_pipeline.events import Event
from wsi_pipeline.learn import with_defaults
from wsi_pipeline.pipeline.audit import risks_of
from wsi_pipeline.run_folder import BundleFile, RunFolder
from wsi_pipeline.settings import digest
from wsi_pipeline.tables import read_table, to_csv
from wsi_pipeline.verbs.models import TrialConfig

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
class Job(Generic[SourceT]):
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

    def let_go(self) -> None:
        """Remove what an interrupted training went on from; its model may be there since."""
        if self.trial.ranks.leads:
            self.trial.learner.finish(self.about())

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
class Judged:
    """Figures as they grow, part by part."""

    slides: list[learn.SplitSlide] = field(default_factory=list)
    predictions: dict[str, learn.Probabilities] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    drift: dict[str, Any] | None = None
    digests: dict[str, Any] = field(default_factory=dict)

    def add(self, job: Job[Any], scores: learn.Scores, slides: Sequence[learn.SplitSlide]) -> None:
        """Evaluate ``slides``; an empty part adds nothing."""
        for model, found in scores.slides.items():
            self.predictions.setdefault(model, {}).update(found)
        self.slides += slides
        self.evaluations += learn.evaluate_scores(
            scores, slides, job.study.classes, _bootstrap(job)
        )


@dataclass(frozen=True, kw_only=True)
class Fitted(Generic[SourceT]):
    """Models of one job, frozen, and their figures so far."""

    job: Job[SourceT]
    models: learn.Models[SourceT]
    frozen: learn.FrozenModels
    judged: Judged


def save(fitted: Fitted[SourceT]) -> None:
    """Write the model's folder, whole or not at all."""
    job, judged = fitted.job, fitted.judged
    trial, study = job.trial, job.study
    fitted.frozen.check()
    about = job.about(judged.digests | {"weights": fitted.frozen.digest})
    if trial.ranks.leads:
        with atomic_folder(job.target) as partial:
            trial.learner.write(partial, fitted.models, study, about)
            models = fitted.models
            of_models = {
                "epoch_chosen_by": models.chosen_by,
                "temperatures": dict(models.temperatures),
            }
            _write_figures(partial, job, judged, about, of_models)
            history = _history(fitted.models.history, about.digests["result"])
            write_text(partial / BundleFile.HISTORY, history)
        trial.learner.finish(about)
    trial.ranks.from_leader(None)  # nobody goes on before it is there


def save_folds(job: Job[SourceT], jobs: Sequence[Job[SourceT]], judged: Judged) -> None:
    """Write the figures over all folds beside them; ``config.json`` comes last and ends it."""
    target, learner = job.target, job.trial.learner
    of_folds = {each.fold: _read(each.target / BundleFile.CONFIG) for each in jobs}
    judged_folds = {each.fold: _read(each.target / BundleFile.METRICS) for each in jobs}
    weights = {name: config["digests"]["weights"] for name, config in of_folds.items()}
    about = job.about(judged.digests | {"weights": weights})
    figures = {
        "cross_validation": {"folds": len(jobs), "how": FOLDED},
        "folds": [
            {
                "fold": fold,
                "epoch_chosen_by": found.get("epoch_chosen_by"),  # None of a fold of before
                "evaluations": [each for each in found["evaluations"] if each["split"] == "test"],
            }
            for fold, found in judged_folds.items()
        ],
    }
    _remove_stale(target, [each.fold for each in jobs])
    learn.write_splits(target / BundleFile.FOLDS, job.study.splits)
    write_text(target / BundleFile.HISTORY, _join_histories(jobs))
    _write_figures(target, job, judged, about, figures)
    write_json(target / BundleFile.CONFIG, learner.describe(job.study, about))


def _remove_stale(target: Path, folds: Sequence[str]) -> None:
    """Remove what another training left in the folder: folds too many, weights of a single one."""
    remove(target / BundleFile.CONFIG)
    for file in (BundleFile.WEIGHTS, BundleFile.ENCODER, BundleFile.EPOCHS, BundleFile.SPEED):
        remove(target / file)
    for folder in target.glob(learn.FOLD.format("*")):
        if folder.name not in folds:
            remove(folder)


def _write_figures(
    folder: Path,
    job: Job[Any],
    judged: Judged,
    about: learn.Provenance,
    more: Mapping[str, Any],
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
        **more,
    }
    table = learn.predictions_csv(
        judged.slides, judged.predictions, job.study.classes, about.digests["result"]
    )
    learn.write_splits(folder / BundleFile.SPLITS, judged.slides)
    write_json(folder / BundleFile.AUDIT, dict(job.audit))
    write_json(folder / BundleFile.METRICS, metrics)
    write_text(folder / BundleFile.PREDICTIONS, table)


def _differences(job: Job[Any], judged: Judged) -> list[dict[str, Any]]:
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


def _bootstrap(job: Job[Any]) -> learn.Bootstrap:
    asked = job.trial.config
    return learn.Bootstrap(resamples=asked.resamples, method=asked.interval, seed=asked.seed)


def _history(epochs: Sequence[tuple[str, learn.Epoch]], result: str) -> str:
    """Return one row an epoch: ``model``, the fields of :class:`learn.Epoch`, ``result``."""
    names = [item.name for item in fields(learn.Epoch)]
    rows = ([model, *asdict(epoch).values(), result] for model, epoch in epochs)
    return to_csv(["model", *names, "result"], rows)


def _join_histories(jobs: Sequence[Job[Any]]) -> str:
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
