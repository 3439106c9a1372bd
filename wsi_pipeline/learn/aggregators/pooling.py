"""Mean and max pooling of embedded tiles: what attention has to beat."""

import torch
from torch import Tensor, nn

from wsi_pipeline.learn.aggregators.base import Aggregator, BagOutput


class MeanPool(Aggregator):
    """Average the embedded tiles, classify; every tile has the same attention."""

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(width, classes, hidden, dropout)
        self.classify = nn.Linear(hidden, classes)

    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""
        attention = embedded.new_full((len(embedded),), 1 / len(embedded))
        return BagOutput(self.classify(embedded.mean(0)), attention)


class MaxPool(MeanPool):
    """Take the maximum of each dimension, classify.

    A tile's attention is the share of dimensions in which it is the maximum; tiles that tie in a
    dimension share it.
    """

    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""
        pooled = embedded.amax(0)
        with torch.no_grad():
            wins = (embedded == pooled).to(embedded.dtype)
            attention = (wins / wins.sum(0)).mean(1)
        return BagOutput(self.classify(pooled), attention)
