"""What every aggregator is: a bag of tile features in, class scores and attention out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

Criterion = Callable[[Tensor, Tensor], Tensor]  # (B, C) logits, (B,) targets -> scalar


class BagOutput(NamedTuple):
    """What one bag gives.

    ``logits`` (C,); ``attention`` (N,), not negative, sums to one; ``instance_logits`` (N, …) where
    the method scores tiles in its own way, else None.
    """

    logits: Tensor
    attention: Tensor
    instance_logits: Tensor | None = None


class Standardise(nn.Module):
    """Shift and scale each feature by constants fitted on training tiles; identity until then."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, features: Tensor) -> None:
        """Take mean and standard deviation from ``features`` (N, D); constant features become 0."""
        deviation, mean = torch.std_mean(features, dim=0, correction=0)
        constant = deviation <= 1e-6 * (mean.abs() + 1e-6)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(constant, 0.0, 1 / deviation.clamp_min(1e-12)))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.scale


class Aggregator(nn.Module, ABC):
    """Base of all aggregators: standardised, embedded tiles, pooled in the subclass's way.

    Args:
        width: Features per tile, D.
        classes: Number of classes, C.
        hidden: Width of the embedding, H.
        dropout: Probability that an embedded value is dropped in training.
    """

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__()
        self.classes = classes
        self.standardise = Standardise(width)
        self.embed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> BagOutput:
        """Score one bag; ``features`` is (N, D) float32 with N ≥ 1."""
        return self.pool(self.embed(self.standardise(features)))

    @abstractmethod
    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""

    def loss(self, output: BagOutput, target: Tensor, criterion: Criterion) -> Tensor:
        """Return the scalar loss of one bag; ``target`` is a scalar class index."""
        return criterion(output.logits[None], target[None])
