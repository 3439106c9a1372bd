"""What a trial tries: a learner that fits models, which then say something of slides.

:class:`FeatureLearner` fits a tile classifier and aggregators on stored features;
``finetune.PixelLearner`` fits an encoder end to end. Splitting, freezing, judging and saving are
the trial's, and the same for both.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wsi_pipeline.events import EpochDone, Event, Note
from wsi_pipeline.learn.aggregators import Aggregator
from wsi_pipeline.learn.audit import gather
from wsi_pipeline.learn.bags import WIDTH, FeatureFolder
from wsi_pipeline.learn.bundle import TILE, Bundle, load_bundle, write_bundle
from wsi_pipeline.learn.bundle_config import BundleConfig, ModelSpec
from wsi_pipeline.learn.drift import describe_drift
from wsi_pipeline.learn.figures import BY_SCHEDULE
from wsi_pipeline.learn.fit import (
    Epoch,
    Training,
    fewest_validated,
    fit_aggregator,
    fit_tile_classifier,
    is_fixed,
)
from wsi_pipeline.learn.models import TileHead
from wsi_pipeline.learn.novelty import Novelty, fit_novelty
from wsi_pipeline.learn.scores import Scores, fit_temperatures, score_slides
from wsi_pipeline.learn.settings import FitSettings, OptimiserSettings
from wsi_pipeline.learn.splits import Splits
from wsi_pipeline.learn.study import Source, Study
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import find_store, open_tiles

SourceT = TypeVar("SourceT", bound=Source)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a saved model says of how it was made.

    Attributes:
        name: Of the model's folder.
        fold: Name of the fold whose model it is; empty without cross-validation.
        settings, digests, versions: What decides the result, and what it was made with.
    """

    name: str
    fold: str = ""
    settings: Mapping[str, Any]
    digests: Mapping[str, Any]
    versions: Mapping[str, str]

    def said(self, model: str) -> str:
        """Return what a model is called aloud."""
        return f"{self.fold} {model}" if self.fold else model


class Models(ABC, Generic[SourceT]):
    """Models that are fitted and calibrated; ``chosen_by`` says what chose the epoch."""

    chosen_by: str
    temperatures: dict[str, float]
    history: list[tuple[str, Epoch]]

    @abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """Return all networks by name."""

    @abstractmethod
    def score(self, source: SourceT, slides: Splits) -> Scores:
        """Return calibrated scores of ``slides``, which ``source`` may open."""


class Learner(ABC, Generic[SourceT]):
    """Fits models on a study's training and validation slides, and keeps them on disk.

    Attributes:
        models: Names of the models that are fitted one after the other.
        primary: The model that speaks for a slide.
        headline: Level and metric of the one figure that is said aloud, and what a case is.
        packages: Whose versions are kept with a model.
    """

    models: tuple[str, ...]
    primary: str
    headline: tuple[str, str, str]
    packages: tuple[str, ...]

    @abstractmethod
    def fit(
        self, study: Study[SourceT], about: Provenance
    ) -> Generator[Event, None, Models[SourceT]]:
        """Fit on the slides of ``train`` and ``val``, an event an epoch."""

    @abstractmethod
    def describe(self, study: Study[SourceT], about: Provenance) -> dict[str, Any]:
        """Return ``config.json`` as far as it does not depend on what was learned."""

    @abstractmethod
    def write(
        self, folder: Path, models: Models[SourceT], study: Study[SourceT], about: Provenance
    ) -> None:
        """Write weights and ``config.json`` into ``folder``."""

    @abstractmethod
    def load(self, folder: Path, study: Study[SourceT]) -> Models[SourceT]:
        """Read what :meth:`write` wrote.

        Raises:
            LearnError: It is not whole, or not what is described there.
        """

    def finish(self, about: Provenance) -> None:
        """Remove what is needed no longer once a model is in its place."""

    def drift(
        self, study: Study[SourceT], slides: Splits, source: SourceT
    ) -> dict[str, Any] | None:
        """Measure how unlike the opened external ``slides`` are; None where that is unknown."""
        del study, slides, source
        return None


@dataclass(kw_only=True)
class FeatureModels(Models[FeatureFolder]):
    """A tile classifier and its aggregators.

    ``validated`` are the scores of validation slides by models that did not see them, where the
    models themselves were trained on them in the end.
    """

    tile_classifier: TileHead
    aggregators: dict[str, Aggregator] = field(default_factory=dict)
    temperatures: dict[str, float] = field(default_factory=dict)
    history: list[tuple[str, Epoch]] = field(default_factory=list)
    chosen_by: str = ""
    validated: Scores = field(default_factory=Scores)

    def modules(self) -> Mapping[str, nn.Module]:
        return {TILE: self.tile_classifier, **self.aggregators}

    def score(self, source: FeatureFolder, slides: Splits) -> Scores:
        before = self.validated.of(slide.slide_id for slide in slides)
        ids = [slide.slide_id for slide in slides if slide.slide_id not in before.tiles]
        found = score_slides(self.tile_classifier, self.aggregators, source, ids, self.temperatures)
        return found.joined(before)


class FeatureLearner(Learner[FeatureFolder]):
    """Fits a tile classifier and slide aggregators on stored features."""

    headline = ("slide", "balanced_accuracy", "slides")
    packages = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "h5py")

    def __init__(self, settings: FitSettings, run: Path, encoder: str) -> None:
        self._settings, self._run, self._encoder = settings, run, encoder
        self.models = (TILE, *settings.aggregator)
        self.primary = settings.aggregator[0]

    def fit(
        self, study: Study[FeatureFolder], about: Provenance
    ) -> Generator[Event, None, FeatureModels]:
        settings, val = self._settings, study.part("val")
        fixed = is_fixed(study.splits, settings)
        measure = settings.monitor.replace("_", " ")
        how = (f"({measure}), stopping after {settings.patience}",
               "set the temperature, then are trained on too")  # fmt: skip
        chosen = chosen_by(study.splits, settings, how)
        yield Note(text=f"{about.said('models')}: epoch chosen by {chosen}")
        fitted = yield from self._fit(study, study.splits, about)
        scores = fitted.score(study.source, val)
        fitted.temperatures = fit_temperatures(scores, val, study.classes)
        if fixed and val:
            everyone = tuple(
                replace(slide, split="train") if slide.split == "val" else slide
                for slide in study.splits
            )
            final = yield from self._fit(study, everyone, about)
            final.validated = fitted.score(study.source, val)
            final.temperatures, final.history = fitted.temperatures, fitted.history
            fitted = final
        fitted.chosen_by = chosen
        return fitted

    def _fit(
        self, study: Study[FeatureFolder], splits: Splits, about: Provenance
    ) -> Generator[Event, None, FeatureModels]:
        """Fit all models on the slides that ``splits`` calls training slides."""
        settings, data = self._settings, (study.source, splits, study.classes)
        head, training = fit_tile_classifier(self._spec(settings.tile_classifier), *data, settings)
        fitted = FeatureModels(tile_classifier=head)
        yield from _follow(TILE, training, fitted, about)
        for aggregator in settings.aggregator:
            model, training = fit_aggregator(
                self._spec(aggregator), *data, settings, head.standardise
            )
            yield from _follow(aggregator, training, fitted, about)
            fitted.aggregators[aggregator] = model
        return fitted

    def describe(self, study: Study[FeatureFolder], about: Provenance) -> dict[str, Any]:
        return self._config(study, about).to_json()

    def write(
        self,
        folder: Path,
        models: Models[FeatureFolder],
        study: Study[FeatureFolder],
        about: Provenance,
    ) -> None:
        assert isinstance(models, FeatureModels)
        config, found, novelty = self._config(study, about), models.temperatures, _novelty(study)
        config = replace(
            config,
            tile_classifier=replace(config.tile_classifier, temperature=found["tile_mean"]),
            aggregators={
                name: replace(spec, temperature=found[name])
                for name, spec in config.aggregators.items()
            },
            novelty=novelty.facts(),
        )
        bundle = Bundle(
            config=config,
            tile_classifier=models.tile_classifier,
            aggregators=models.aggregators,
            novelty=novelty,
        )
        write_bundle(folder, bundle)

    def load(self, folder: Path, study: Study[FeatureFolder]) -> FeatureModels:
        del study
        bundle = load_bundle(folder, own=self._settings.aggregator)
        return FeatureModels(
            tile_classifier=bundle.tile_classifier,
            aggregators=bundle.aggregators,
            temperatures=bundle.config.temperatures,
        )

    def drift(
        self, study: Study[FeatureFolder], slides: Splits, source: FeatureFolder
    ) -> dict[str, Any] | None:
        ids = [slide.slide_id for slide in (*study.splits, *slides)]
        evidence = gather(self._run, source.folder, ids)
        return describe_drift(study.splits, slides, (study.source, source), evidence)

    def _spec(self, name: str) -> ModelSpec:
        return ModelSpec(name=name, hidden=self._settings.hidden, dropout=self._settings.dropout)

    def _config(self, study: Study[FeatureFolder], about: Provenance) -> BundleConfig:
        settings = self._settings
        return BundleConfig(
            name=about.fold or about.name,
            classes=study.classes,
            encoder=self._encoder,
            width=study.prepared[WIDTH],
            tile_classifier=self._spec(settings.tile_classifier),
            aggregators={name: self._spec(name) for name in settings.aggregator},
            primary=self.primary,
            seed=settings.seed,
            features={name: v for name, v in study.prepared.items() if name != WIDTH},
            tiling=_tiling(self._run, study.splits[0].slide_id),
            settings=dict(about.settings),
            digests=dict(about.digests),
            versions=dict(about.versions),
        )


def epoch_done(model: str, epoch: Epoch, epochs: int) -> EpochDone:
    """Return the event that an epoch is; without validation it has no figures of that."""
    figures = {
        "train_loss": epoch.train_loss,
        "val_loss": epoch.val_loss,
        "val_balanced_accuracy": epoch.val_balanced_accuracy,
    }
    known = {name: value for name, value in figures.items() if math.isfinite(value)}
    return EpochDone(model=model, epoch=epoch.epoch, epochs=epochs, metrics=known)


def chosen_by(slides: Splits, settings: OptimiserSettings, how: tuple[str, str]) -> str:
    """Say what chooses the epoch that is kept.

    Args:
        slides: Those of training and validation.
        settings: How a model learns.
        how: What is looked at where validation chooses, and what becomes of its patients where
            they are too few to.
    """
    if not is_fixed(slides, settings):
        return f"validation {how[0]} epochs without progress"
    fewest = fewest_validated(slides)
    few = f"validation has {fewest} patient{'s' * (fewest != 1)} of some class"
    return f"{BY_SCHEDULE}: {few}, too few to choose by; they {how[1]}"


def _follow(
    model: str, training: Training, fitted: FeatureModels, about: Provenance
) -> Iterator[Event]:
    for epoch in training:
        fitted.history.append((model, epoch))
        yield epoch_done(about.said(model), epoch, training.epochs)


def _tiling(run: Path, slide_id: str) -> dict[str, Any]:
    """Return the tile stage's settings, empty where the tiles are not at hand."""
    store = find_store(RunFolder(run).tiles, slide_id)
    found: dict[str, Any] = {} if store is None else open_tiles(store).attributes.get("config", {})
    return found


def _novelty(study: Study[FeatureFolder]) -> Novelty:
    """Return what the slides trained on look like."""
    return fit_novelty(_PatientBags(study.source, study.part("train")))


class _PatientBags(Mapping[str, Sequence[NDArray[np.float32]]]):
    """Patient → the features of each of its slides, read when they are asked for."""

    def __init__(self, folder: FeatureFolder, slides: Splits) -> None:
        self._folder = folder
        self._slides: dict[str, list[str]] = {}
        for slide in slides:
            self._slides.setdefault(slide.patient_id, []).append(slide.slide_id)

    def __getitem__(self, patient: str) -> list[NDArray[np.float32]]:
        return [self._folder.vectors(slide_id) for slide_id in self._slides[patient]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slides)

    def __len__(self) -> int:
        return len(self._slides)
