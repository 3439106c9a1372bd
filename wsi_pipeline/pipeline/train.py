"""Train a tile classifier and slide aggregators on stored features, and validate them."""

from collections.abc import Iterator
from dataclasses import replace

from wsi_pipeline import learn
from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.events import Event
from wsi_pipeline.features import find_features
from wsi_pipeline.pipeline.model_folder import Trial
from wsi_pipeline.pipeline.trial import run_trial
from wsi_pipeline.run_cohort import hand_edits, unmatched_features
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.verbs.models import TrainConfig


def run(config: TrainConfig) -> Iterator[Event]:
    """Audit, train, validate, write ``models/<name>/``; see :mod:`trial` for the order.

    Raises:
        CohortError: The run folder's cohort table is unusable.
        LearnError: The audit forbids training, or the slides cannot be split or trained on.
        StoreError: There are no features of this encoder.
        StoreMismatchError: The model exists and was trained on something else.
    """
    folder = RunFolder(config.run)
    stores = find_features(folder.features, config.encoder)
    target = folder.model(config.name or stores.name)
    material = learn.from_features(read_cohort(folder.cohort), config.run, stores, config.external)
    material = learn.pose(material, config)
    material = replace(material, notes=(*material.notes, *hand_edits(folder)))
    trial = Trial(
        stage="train",
        config=config,
        settings=config.identity() | {"encoder": stores.name},
        learner=learn.FeatureLearner(config, config.run, stores.name),
        material=material,
        target=target,
        splits=target.name,
        ranks=learn.Ranks(),
        unmatched=tuple(unmatched_features(folder, stores)),
    )
    yield from run_trial(trial)
