"""The tables of a prediction: a row per slide, a row per patient.

A patient's probability is the mean over the patient's slides, as in evaluation: where the cohort
table gives them several labels (tumour and normal slides), each label's slides are a row of their
own.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.learn import BundleConfig, SlidePrediction
from wsi_pipeline.pipeline.predict_slide import is_unlike
from wsi_pipeline.tables import to_csv


def slides_csv(
    found: Mapping[str, SlidePrediction],
    cohort: Mapping[str, CohortSlide],
    splits: Mapping[str, str],
    model: BundleConfig,
) -> str:
    """One row per slide and model; ``split`` says on which side of the training the slide was.

    ``spread`` is the standard deviation, between the folds of a cross-validated model, of the
    predicted class's probability. ``novelty`` above ``novelty_limit`` makes a slide
    ``unlike_training``.
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
            rows.append([*who, splits.get(slide_id, ""), name, *scores, between, *novelty])
    first = ["slide_id", "patient_id", "label", "split", "model"]
    last = ["spread", "novelty", "novelty_limit", "unlike_training"]
    return to_csv([*first, *_score_columns(model), *last], rows)


def patients_csv(
    found: Mapping[str, SlidePrediction],
    cohort: Mapping[str, CohortSlide],
    model: BundleConfig,
) -> str:
    """One row per patient, label and model; ``unlike_training`` if one of the slides is."""
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
            rows.append([patient, label, len(slides), name, *_scores(mean, model), unlike])
    who = ["patient_id", "label", "slides", "model"]
    return to_csv([*who, *_score_columns(model), "unlike_training"], rows)


def _score_columns(model: BundleConfig) -> list[str]:
    return ["predicted", *(f"p_{name}" for name in model.classes)]


def _scores(probabilities: NDArray[np.float64], model: BundleConfig) -> list[str]:
    best = model.classes[int(probabilities.argmax())]
    return [best, *(f"{value:.6f}" for value in probabilities)]


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
