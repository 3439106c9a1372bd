"""What every model of a bundle says about slides, as numbers and as a table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.cohort import SPLITS
from wsi_pipeline.learn.aggregators import Aggregator
from wsi_pipeline.learn.bags import FeatureFolder
from wsi_pipeline.learn.bootstrap import DEFAULT, Bootstrap
from wsi_pipeline.learn.bundle_config import TILE_MEAN
from wsi_pipeline.learn.calibration import apply_temperature, fit_temperature
from wsi_pipeline.learn.evaluate import Cases, evaluate, patient_cases, slide_cases, tile_cases
from wsi_pipeline.learn.models import TileHead, bag_scores, majority_vote, tile_probabilities
from wsi_pipeline.learn.splits import SplitSlide

TILE_VOTE: Final = "tile_vote"  # share of tiles that each class wins

Probabilities = dict[str, NDArray[np.float64]]  # slide_id -> (C,)


@dataclass(kw_only=True)
class Scores:
    """``tiles``: slide → (N, C) float32; ``slides``: model → slide → (C,); and so ``attention``."""

    tiles: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    slides: dict[str, Probabilities] = field(default_factory=dict)
    attention: dict[str, dict[str, NDArray[np.float32]]] = field(default_factory=dict)

    def of(self, slide_ids: Iterable[str]) -> "Scores":
        """Return those of some slides, as far as they are here."""
        kept = self.tiles.keys() & set(slide_ids)
        return Scores(
            tiles={name: self.tiles[name] for name in sorted(kept)},
            slides={m: {k: v for k, v in f.items() if k in kept} for m, f in self.slides.items()},
            attention={
                m: {k: v for k, v in f.items() if k in kept} for m, f in self.attention.items()
            },
        )

    def joined(self, other: "Scores") -> "Scores":
        """Return the scores of these slides and others, by the same models."""
        return Scores(
            tiles=self.tiles | other.tiles,
            slides={m: f | other.slides.get(m, {}) for m, f in self.slides.items()},
            attention={m: f | other.attention.get(m, {}) for m, f in self.attention.items()},
        )


@dataclass(frozen=True, kw_only=True)
class SlideScores:
    """``tiles`` (N, C) float32; ``slide``: model → (C,); ``attention``: aggregator → (N,)."""

    tiles: NDArray[np.float32]
    slide: dict[str, NDArray[np.float64]]
    attention: dict[str, NDArray[np.float32]]


def score_slides(
    head: TileHead,
    aggregators: Mapping[str, Aggregator],
    folder: FeatureFolder,
    slide_ids: Sequence[str],
    temperatures: Mapping[str, float] | None = None,
) -> Scores:
    """Score slides with the tile classifier and each aggregator.

    Args:
        head: The tile classifier; it gives the models ``tile_mean`` and ``tile_vote``.
        aggregators: By name.
        folder: Features of the slides.
        slide_ids: Which slides.
        temperatures: Of the models that are calibrated; the others stay as they are.
    """
    scores = Scores(
        slides={name: {} for name in (TILE_MEAN, TILE_VOTE, *aggregators)},
        attention={name: {} for name in aggregators},
    )
    for slide_id in slide_ids:
        found = score_slide(head, aggregators, folder.bag(slide_id).features, temperatures)
        scores.tiles[slide_id] = found.tiles
        for name, probabilities in found.slide.items():
            scores.slides[name][slide_id] = probabilities
        for name, attention in found.attention.items():
            scores.attention[name][slide_id] = attention
    return scores


def score_slide(
    head: TileHead,
    aggregators: Mapping[str, Aggregator],
    features: NDArray[np.float32],
    temperatures: Mapping[str, float] | None = None,
) -> SlideScores:
    """Score one slide's ``features`` (N, D); arguments as for :func:`score_slides`."""
    tiles = tile_probabilities(head, features)
    slide = {TILE_MEAN: tiles.mean(0, dtype=np.float64), TILE_VOTE: majority_vote(tiles)}
    attention = {}
    for name, model in aggregators.items():
        slide[name], attention[name] = bag_scores(model, features)
    for name, temperature in (temperatures or {}).items():
        slide[name] = apply_temperature(slide[name][None], temperature)[0]
    return SlideScores(tiles=tiles, slide=slide, attention=attention)


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Return the mean probabilities of several models for the same slides."""
    if len(scores) == 1:
        return scores[0]
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


def fit_temperatures(
    scores: Scores, slides: Sequence[SplitSlide], classes: Sequence[str]
) -> dict[str, float]:
    """Return each model's temperature, fitted on the validation ``slides``; votes have none."""
    temperatures = {}
    for name, found in scores.slides.items():
        if name != TILE_VOTE:
            cases = slide_cases(slides, found, classes)
            temperatures[name] = fit_temperature(cases.probabilities, cases.targets)
    return temperatures


def evaluate_scores(
    scores: Scores,
    slides: Sequence[SplitSlide],
    classes: Sequence[str],
    bootstrap: Bootstrap = DEFAULT,
) -> Iterator[dict[str, Any]]:
    """Yield an evaluation for every model, split and level that there is.

    Each has ``model``, ``split`` and ``level`` before what :func:`evaluate` returns. The tile
    classifier's tiles are the model ``tile``.
    """

    def judged(model: str, split: str, level: str, cases: Cases) -> dict[str, Any]:
        measures = evaluate(cases, classes, bootstrap, level)
        return {"model": model, "split": split, "level": level, **measures}

    for split in SPLITS:
        part = [slide for slide in slides if slide.split == split]
        if not part:
            continue
        yield judged("tile", split, "tile", tile_cases(part, scores.tiles, classes))
        for name, found in scores.slides.items():
            yield judged(name, split, "slide", slide_cases(part, found, classes))
            yield judged(name, split, "patient", patient_cases(part, found, classes))
