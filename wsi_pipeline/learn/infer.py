"""Scores from fitted models, always without dropout and without gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsi_pipeline.learn.aggregators import Aggregator
from wsi_pipeline.learn.heads import TileHead

CHUNK: Final = 16_384  # tiles at a time through a tile classifier


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
