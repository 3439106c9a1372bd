"""Fine-tune an encoder end to end, and validate it as `train` validates its models.

Under ``torchrun`` several processes share the work; the first one writes and speaks.
"""

from collections.abc import Iterator
from dataclasses import replace

from wsi_pipeline import learn
from wsi_pipeline.cohort import read_cohort
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import Event
from wsi_pipeline.pipeline.model_folder import Trial
from wsi_pipeline.pipeline.trial import run_trial
from wsi_pipeline.run_cohort import hand_edits, rows_of, unmatched
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import stores_of
from wsi_pipeline.verbs.models import FinetuneConfig


def run(config: FinetuneConfig) -> Iterator[Event]:
    """Fine-tune, validate, write ``finetuned/<name>/``; see :mod:`trial` for the order.

    Raises:
        ConfigError: Images and tile stores are mixed up.
        CohortError: The run folder's cohort table is unusable.
        EncoderError: The encoder is unknown, or its weights cannot be had.
        LearnError: The slides cannot be split or trained on.
        StoreMismatchError: The model exists and was trained on something else.
    """
    target = RunFolder(config.run).finetuned(config.name or config.encoder)
    with learn.join_ranks() as ranks:
        trial = Trial(
            stage="finetune",
            config=config,
            settings=config.identity(),
            learner=learn.PixelLearner(config, config.encoder, config.weights, config.run, ranks),
            material=learn.pose(_material(config), config),
            target=target,
            splits=f"finetuned-{target.name}",
            ranks=ranks,
            unmatched=() if config.images else _unmatched(RunFolder(config.run)),
        )
        yield from run_trial(trial)


def _unmatched(run: RunFolder) -> tuple[Event, ...]:
    rows = [row.slide_id for row in rows_of(run)]
    return tuple(unmatched(run, rows, stores_of(run.tiles), "tile store"))


def _material(config: FinetuneConfig) -> learn.Material[learn.TileSource]:
    if config.images is None:
        if config.external_images or config.patient_pattern:
            raise ConfigError("--external-images and --patient-pattern go with --images")
        cohort = read_cohort(RunFolder(config.run).cohort)
        found = learn.from_stores(cohort, config.run, config.external)
        return replace(found, notes=(*found.notes, *hand_edits(RunFolder(config.run))))
    for folder in (config.images, config.external_images):
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder of images")
    if config.external is not None:
        raise ConfigError("--external names a cohort; with --images use --external-images")
    return learn.from_images(
        learn.ImageFolders(
            internal=config.images,
            external=config.external_images,
            pattern=config.patient_pattern,
            side=config.input_px,
        )
    )
