"""Models by name: tile classifiers and aggregators, made from a spec, asked without gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.aggregators import Aggregator, Standardise
from wsi_pipeline.learn.bundle_config import ModelSpec
from wsi_pipeline.learn.settings import AGGREGATORS, HEADS
from wsi_pipeline.registry import load

CHUNK: Final = 512  # tiles at a time through a tile classifier; they stay in a processor's cache


def create_aggregator(spec: ModelSpec, width: int, classes: int) -> Aggregator:
    """Make an untrained aggregator.

    Args:
        spec: Its name is a key of :data:`AGGREGATORS`, or ``module:function`` for a user's own.
        width: Features per tile, D.
        classes: Number of classes, C.

    Raises:
        ConfigError: There is no such aggregator, or a user's own is none.
    """
    made = load(AGGREGATORS.choose(spec.name))(width, classes, spec.hidden, spec.dropout)
    if not isinstance(made, Aggregator):
        raise ConfigError(
            f"aggregator {spec.name!r}: expected a subclass of wsi_pipeline.learn.Aggregator, made "
            f"with (width, classes, hidden, dropout); found {type(made).__name__}"
        )
    return made


class TileHead(nn.Module):
    """Standardised features (N, D) → logits (N, C)."""

    def __init__(self, width: int, classifier: nn.Module) -> None:
        super().__init__()
        self.standardise = Standardise(width)
        self.classify = classifier

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.standardise(features))
        return logits


def linear(width: int, classes: int, hidden: int, dropout: float) -> list[nn.Module]:
    """Return the layers of logistic regression."""
    del hidden, dropout
    return [nn.Linear(width, classes)]


def mlp(width: int, classes: int, hidden: int, dropout: float) -> list[nn.Module]:
    """Return the layers of a classifier with one hidden layer."""
    return [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)]


def create_head(spec: ModelSpec, width: int, classes: int) -> TileHead:
    """Make an untrained tile classifier.

    Args:
        spec: ``linear`` (logistic regression) or ``mlp`` (one hidden layer).
        width: Features per tile, D.
        classes: Number of classes, C.

    Raises:
        ConfigError: There is no such head.
    """
    layers = load(HEADS.choose(spec.name))(width, classes, spec.hidden, spec.dropout)
    return TileHead(width, nn.Sequential(nn.Dropout(spec.dropout), *layers))


def tile_probabilities(head: TileHead, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return class probabilities (N, C) float32 of the tiles ``features`` (N, D)."""
    device = _device(head)
    with _evaluating(head), torch.inference_mode():
        parts = [
            head(torch.from_numpy(features[start : start + CHUNK]).to(device)).softmax(1).cpu()
            for start in range(0, len(features), CHUNK)
        ]
    probabilities: NDArray[np.float32] = torch.cat(parts).numpy()
    return probabilities


def bag_scores(
    model: Aggregator, features: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return class probabilities (C,) float64 and attention (N,) float32 of one bag (N, D)."""
    with _evaluating(model), torch.inference_mode():
        output = model(torch.from_numpy(features).to(_device(model)))
        probabilities = output.logits.cpu().double().softmax(0).numpy()
        return probabilities, output.attention.float().cpu().numpy()


def majority_vote(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the share of tiles that each class wins, (C,) float64; of ties the first class."""
    classes = probabilities.shape[1]
    votes = np.bincount(probabilities.argmax(1), minlength=classes)
    return votes / len(probabilities)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
