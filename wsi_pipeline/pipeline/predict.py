"""Score slides with a trained model: probabilities, attention, heatmaps, tiles for QuPath.

From stored features this takes moments. New slides are tiled and encoded first, with the settings
that the model's own slides were prepared with.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.atomic import try_lock, write_text
from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.engine import NO_TISSUE, SlideTask, map_slides
from wsi_pipeline.errors import ConfigError, StoreError, named
from wsi_pipeline.events import (
    Event,
    Note,
    Planned,
    SlideFailed,
    SlideSkipped,
    StageStarted,
    Written,
)
from wsi_pipeline.features import encoder_of, encoder_tag
from wsi_pipeline.journal import read_outcomes
from wsi_pipeline.learn import (
    FOLD,
    BundleConfig,
    Figures,
    SlidePrediction,
    classes_in_set,
    read_bundle_config,
    read_ensemble_config,
    read_figures,
    read_prediction,
    read_splits,
)
from wsi_pipeline.pipeline.extract_jobs import DROPPED, TILING
from wsi_pipeline.pipeline.predict_slide import PredictTask, is_unlike, predict_slide
from wsi_pipeline.reporting import NONE_OF_THESE
from wsi_pipeline.run_cohort import rows_of, unmatched_features
from wsi_pipeline.run_folder import BundleFile, RunFolder, store_in, stores_in
from wsi_pipeline.settings import digest
from wsi_pipeline.tables import to_csv
from wsi_pipeline.tiles import read_decisions
from wsi_pipeline.verbs import VERBS
from wsi_pipeline.verbs.models import PredictConfig

PATIENCE_S: Final = 600.0  # another shard has the tables for as long as it reads predictions
SET_COLUMNS: Final = ("set", "set_coverage")


def run(config: PredictConfig) -> Iterator[Event]:
    """Write ``predictions/<model>/`` and ``heatmaps/<model>-*/``.

    Raises:
        ConfigError: No model is named, or none is there.
        LearnError: The model is not whole.
        CohortError: The run folder's cohort table is unusable.
    """
    folder, model = find_model(config)
    if not model.sealed:
        yield Note(
            text=f"{folder}: made before a model's classes and settings had a digest; that they "
            "are as they were written cannot be checked"
        )
    if config.new_slides is not None:
        yield from _prepare(config, model)
    everyone = list(_tasks(config, folder, model))
    tasks = [task for task in everyone if config.shard.holds(task.slide_id)]
    part = config.shard.of([task.slide_id for task in everyone])
    yield StageStarted(stage="predict", total=len(tasks), part=part)
    run = RunFolder(config.run)
    if not part:
        yield from unmatched_features(run, run.features_of(model.encoder))
    present = [task for task in tasks if task.features.exists()]
    if config.dry_run:
        yield from (Planned(row={"slide": t.slide_id, "model": model.name}) for t in present)
        return
    lost = {task.slide_id for task in tasks if not task.features.exists()}
    yield from _without_features(run, model, sorted(lost))
    for event in map_slides(
        predict_slide,
        [
            SlideTask(
                slide_id=task.slide_id,
                lock=RunFolder(config.run).lock(f"predict-{model.name}", task.slide_id),
                payload=task,
            )
            for task in present
        ],
        config,
    ):
        if isinstance(event, SlideFailed):
            lost.add(event.slide_id)
        yield event
    if not part:
        found = [task for task in present if task.slide_id not in lost]
        yield from _summarise(config, folder, model, found)
        return
    with try_lock(run.lock(f"predict-{model.name}", ".tables"), wait_s=PATIENCE_S) as mine:
        if not mine:
            raise StoreError(
                f"{run.predicted_slides(model.name)}: another process has been writing it for "
                f"{PATIENCE_S:.0f} s; the predictions are there, run this again"
            )
        found = [task for task in everyone if task.slide_id not in lost and task.is_done]
        yield Note(text=f"{part}; the tables hold the {len(found):,} slides predicted so far")
        yield from _summarise(config, folder, model, found)


def _without_features(
    run: RunFolder, model: BundleConfig, slide_ids: Sequence[str]
) -> Iterator[SlideSkipped | SlideFailed]:
    """Tell the fate of rows that cannot be scored: lost, unless that was chosen or seen.

    A person dropped the slide, or it was cut and has no tissue; all else is a failure, as it was
    asked for and has no prediction.
    """
    decisions = read_decisions(run.decisions) if slide_ids else None
    outcomes = read_outcomes(run.journal) if slide_ids else {}
    for slide_id in slide_ids:
        told = outcomes.get((slide_id, TILING))
        if decisions is not None and decisions.drops_slide(slide_id):
            yield SlideSkipped(slide_id=slide_id, reason=DROPPED)
        elif told is not None and told.fate == "skipped" and told.words.startswith(NO_TISSUE):
            yield SlideSkipped(slide_id=slide_id, reason=NO_TISSUE)
        else:
            yield SlideFailed(
                slide_id=slide_id,
                error=f"has no prediction: there are no features of {model.encoder}; tile and "
                f"extract it, or drop it in {run.decisions}",
            )


def find_model(config: PredictConfig) -> tuple[Path, BundleConfig]:
    """Return the folder of the model, or of the fold, that is asked for, and what it is.

    Raises:
        ConfigError: There is none, or several and nothing says which.
        LearnError: The model is not whole.
    """
    folder = find_bundle(config)
    if config.fold is not None:
        folds = folder
        folder = folds / FOLD.format(config.fold)
        if not (folder / BundleFile.CONFIG).exists():
            there = sorted(path.name for path in folds.glob(FOLD.format("*")))
            raise ConfigError(f"--fold {config.fold}: {folds} has {', '.join(there) or 'no folds'}")
    model = read_ensemble_config(folder)
    if (folder.parent / BundleFile.FOLDS).exists():  # a fold's own name is not unique
        model = replace(model, name=f"{folder.parent.name}-{folder.name}")
    return folder, model


def find_bundle(config: PredictConfig) -> Path:
    """Return the model's folder.

    Raises:
        ConfigError: There is none, or several and nothing says which.
    """
    models = RunFolder(config.run).models
    if config.model is not None:
        for path in (config.model, models / config.model):
            if (path / BundleFile.CONFIG).exists():
                return path
        raise ConfigError(f"--model {config.model}: no model there; train one first")
    found = RunFolder(config.run).bundles()
    if config.encoder is not None:
        found = [path for path in found if _is_of(path, config.encoder)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(f"{models}: one model expected, found {names}; choose with --model")
    return found[0]


def _is_of(bundle: Path, encoder: str) -> bool:
    tag = read_bundle_config(bundle).encoder
    return tag == encoder or tag.startswith(f"{encoder}.")


def _prepare(config: PredictConfig, model: BundleConfig) -> Iterator[Event]:
    """Tile and encode new slides as the model's own were.

    Raises:
        ConfigError: The run folder has a model trained in it, so it has slides of its own; or the
            model does not know how its slides were tiled.
    """
    if RunFolder(config.run).bundles():
        raise ConfigError(
            f"{config.run}: models were trained here; predict new slides into a run folder of "
            "their own"
        )
    if not model.tiling:
        raise ConfigError(
            f"model {model.name!r} does not know how its slides were tiled; tile and extract the "
            "new ones yourself, then predict without --new-slides"
        )
    how = {
        "workers": config.workers,
        "scheduler": config.scheduler,
        "dry_run": config.dry_run,
        "overwrite": config.overwrite,
        "run": config.run,
        "shard": config.shard,
        "stall_s": config.stall_s,
        "max_memory_share": config.max_memory_share,
    }
    source = f"model {model.name}"
    tile, extract = VERBS["tile"], VERBS["extract"]
    chosen = _encoder(config, model)
    settings = model.tiling | how
    settings |= {"cohort": config.new_slides, "mpp_override": config.mpp_override}
    settings |= {"cache": config.cache, "cache_gb": config.cache_gb}
    yield from tile.run(tile.config_class.from_mapping(settings, source))
    if config.dry_run:
        return
    yield from extract.run(extract.config_class.from_mapping(how | chosen, source))


def _encoder(config: PredictConfig, model: BundleConfig) -> dict[str, str]:
    """Return the settings that make features as the model's own were, before anything is done.

    Raises:
        ConfigError: Those given, or those that the tag leads to, make others.
        EncoderError: The encoder or its weights cannot be had.
    """
    meant = encoder_of(model.encoder)
    encoder, weights = config.encoder or meant.name, config.weights or meant.weights
    tag = encoder_tag(encoder, weights, meant.pooling)
    if tag != model.encoder:
        raise ConfigError(
            f"model {model.name!r} was trained on features of {model.encoder}, and --encoder "
            f"{encoder} --weights {weights} makes those of {tag}; give the model's own"
        )
    chosen = {"encoder": encoder, "weights": weights, "device": config.device}
    return chosen | ({} if meant.pooling == "auto" else {"pooling": meant.pooling})


def _tasks(config: PredictConfig, folder: Path, model: BundleConfig) -> Iterator[PredictTask]:
    features = RunFolder(config.run).features_of(model.encoder)
    ids = [row.slide_id for row in rows_of(RunFolder(config.run))] or list(stores_in(features))
    for slide_id in ids:
        yield PredictTask(
            slide_id=slide_id,
            run=config.run,
            features=store_in(features, slide_id),
            bundle=folder,
            name=model.name,
            weights=model.weights,
            novelty=digest(model.novelty),
            device=config.device,
            own=config.aggregator,
            heatmaps=config.heatmaps,
            every_class=config.heatmap_classes == "all",
            geojson=config.geojson,
            overwrite=config.overwrite,
        )


def _summarise(
    config: PredictConfig, folder: Path, model: BundleConfig, tasks: list[PredictTask]
) -> Iterator[Event]:
    """Write the tables of slides and patients."""
    found = {task.slide_id: read_prediction(task.target) for task in tasks}
    column, classes = model.settings.get("label_column", "label"), model.settings.get("label_map")
    cohort = {}  # labels as the model's task has them, beside which its predictions can be read
    for row in rows_of(RunFolder(config.run)):
        label = getattr(row, column)
        cohort[row.slide_id] = replace(row, label=(classes or {}).get(label, label))
    splits = {slide.slide_id: slide.split for slide in read_splits(folder / BundleFile.SPLITS)}
    if not isinstance(model.digests["weights"], str):  # all folds but one were trained on each
        splits = {k: split if split == "external" else "train" for k, split in splits.items()}
    sets = ClassSets.of(folder, model.classes)
    target = RunFolder(config.run).predicted_slides(model.name)
    write_text(target, slides_csv(found, cohort, splits, model, sets))
    patients = RunFolder(config.run).predicted_patients(model.name)
    write_text(patients, patients_csv(found, cohort, model, sets))
    yield from _warn(found, model)
    yield from _tell_sets(found, model, sets)
    known = sum(splits.get(slide_id) in ("train", "val") for slide_id in found)
    if known:
        yield Note(
            text=f"{known} of {len(found)} slides were trained on; the split column says which"
        )
    yield Written(path=str(target.parent), what="predictions")
    if config.heatmaps:
        yield Written(path=str(RunFolder(config.run).heatmaps), what="heatmaps")


def _warn(found: Mapping[str, SlidePrediction], model: BundleConfig) -> Iterator[Note]:
    """Name the slides whose probabilities mean little, as the model has seen nothing like them."""
    unlike = [name for name, it in found.items() if is_unlike(model, it.novelty)]
    if unlike:
        yield Note(
            text=f"{len(unlike)} of {len(found)} slides are unlike those trained on, do not trust "
            f"their scores: {named(unlike)}"
        )


@dataclass(frozen=True, kw_only=True)
class ClassSets:
    """Sets of classes that hold the right one as often as was asked, as a model calibrated them.

    Attributes:
        classes: The model's.
        figures: What was found of it; no sets of a model from before them, or of folds together,
            which no validation patients calibrate.
    """

    classes: tuple[str, ...]
    figures: Figures

    @classmethod
    def of(cls, folder: Path, classes: tuple[str, ...]) -> Self:
        """Read those of the model in ``folder``."""
        there = (folder / BundleFile.METRICS).exists()
        return cls(
            classes=classes, figures=read_figures(folder) if there else Figures(evaluations=())
        )

    def cells(self, probabilities: NDArray[np.float64], name: str, level: str) -> list[str]:
        """Return the set of one slide or patient, and the coverage that was asked of it, as text.

        Both are empty where nothing calibrates it.
        """
        lack = self.figures.lack(name, level)
        if lack is None:
            return ["", ""]
        inside = classes_in_set(probabilities, self.classes, lack)
        return ["|".join(inside) or NONE_OF_THESE, f"{self.asked:g}"]

    @property
    def asked(self) -> float:
        return self.figures.sets[0].asked


def _tell_sets(
    found: Mapping[str, SlidePrediction], model: BundleConfig, sets: ClassSets
) -> Iterator[Note]:
    """Say how many slides the primary model is sure of, and name those that are none of these."""
    said = {name: sets.cells(it.slide[model.primary], model.primary, "slide")[0]
            for name, it in found.items()}  # fmt: skip
    if not any(said.values()):
        return
    none = [name for name, words in said.items() if words == NONE_OF_THESE]
    several = sum("|" in words for words in said.values())
    text = (
        f"sets of classes at {sets.asked:.0%}: {len(said) - several - len(none)} slides of one "
        f"class, {several} of several, {len(none)} {NONE_OF_THESE}"
    )
    yield Note(text=f"{text}: {named(none)}" if none else text)


def slides_csv(
    found: Mapping[str, SlidePrediction],
    cohort: Mapping[str, CohortSlide],
    splits: Mapping[str, str],
    model: BundleConfig,
    sets: ClassSets,
) -> str:
    """One row per slide and model; ``split`` says on which side of the training the slide was.

    ``primary`` marks the model that training chose to be judged by.
    ``spread`` is the standard deviation, between the folds of a cross-validated model, of the
    predicted class's probability. ``novelty`` above ``novelty_limit`` makes a slide
    ``unlike_training``. ``set`` holds the classes that cannot be excluded, the likeliest first, or
    says ``none of these``; ``set_coverage`` is how often such a set shall hold the right one.
    """
    limit = model.novelty.get("limit")
    usual = "" if limit is None else f"{limit:.4f}"
    rows: list[list[Any]] = []
    for slide_id, prediction in found.items():
        slide = cohort.get(slide_id)
        who: list[Any] = [slide_id, *((slide.patient_id, slide.label) if slide else ("", ""))]
        unlike = _yes(is_unlike(model, prediction.novelty))
        novelty = [f"{prediction.novelty:.4f}", usual, unlike]
        for name, probabilities in prediction.slide.items():
            scores = _scores(probabilities, model)
            spread = prediction.spread.get(name)
            between = "" if spread is None else f"{spread[probabilities.argmax()]:.6f}"
            found_set = sets.cells(probabilities, name, "slide")
            which = [splits.get(slide_id, ""), name, _yes(name == model.primary)]
            rows.append([*who, *which, *scores, between, *novelty, *found_set])
    first = ["slide_id", "patient_id", "label", "split", "model", "primary"]
    last = ["spread", "novelty", "novelty_limit", "unlike_training", *SET_COLUMNS]
    return to_csv([*first, *_score_columns(model), *last], rows)


def patients_csv(
    found: Mapping[str, SlidePrediction],
    cohort: Mapping[str, CohortSlide],
    model: BundleConfig,
    sets: ClassSets,
) -> str:
    """One row per patient, label and model; ``unlike_training`` if one of the slides is.

    A patient's probability is the mean over the patient's slides, as in evaluation: where the
    cohort table gives them several labels (tumour and normal slides), each label's slides are a row
    of their own.
    """
    grouped: dict[tuple[str, str], list[SlidePrediction]] = defaultdict(list)
    for slide_id, prediction in found.items():
        slide = cohort.get(slide_id)
        if slide is not None and slide.patient_id is not None:
            grouped[slide.patient_id, slide.label or ""].append(prediction)
    rows: list[list[Any]] = []
    for (patient, label), slides in grouped.items():
        unlike = _yes(any(is_unlike(model, slide.novelty) for slide in slides))
        for name in slides[0].slide:
            mean = np.mean([slide.slide[name] for slide in slides], axis=0)
            told = [*_scores(mean, model), unlike, *sets.cells(mean, name, "patient")]
            rows.append([patient, label, len(slides), name, _yes(name == model.primary), *told])
    who = ["patient_id", "label", "slides", "model", "primary"]
    return to_csv([*who, *_score_columns(model), "unlike_training", *SET_COLUMNS], rows)


def _score_columns(model: BundleConfig) -> list[str]:
    return ["predicted", *(f"p_{name}" for name in model.classes)]


def _scores(probabilities: NDArray[np.float64], model: BundleConfig) -> list[str]:
    best = model.classes[int(probabilities.argmax())]
    return [best, *(f"{value:.6f}" for value in probabilities)]


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
