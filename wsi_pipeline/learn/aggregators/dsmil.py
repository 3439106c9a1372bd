"""Two streams: the likeliest tile of each class, and every tile by its likeness to that one.

Source: Li, Li and Eliceiri, "Dual-stream Multiple Instance Learning Network for Whole Slide Image
Classification with Self-supervised Contrastive Learning", CVPR 2021.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from wsi_pipeline.learn.aggregators.base import Aggregator, BagOutput, Criterion

QUERY_WIDTH: Final = 128


class Dsmil(Aggregator):
    """A class's attention is ``softmax(q · q*)``; ``q*`` is the query of its highest-scored tile.

    As in the published code, inner products are divided by the square root of the query's width,
    values are the embedded tiles themselves, and a slide's logits are the mean of both streams. The
    attention returned is that of the slide's likeliest class.
    """

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(width, classes, hidden, dropout)
        self.score = nn.Linear(hidden, classes)
        self.query = nn.Linear(hidden, QUERY_WIDTH)
        self.classify = nn.Linear(classes * hidden, classes)

    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""
        tiles: Tensor = self.score(embedded)
        critical = tiles.argmax(0)
        attention = self.attend(embedded, critical)
        logits = (self.by_likeness(attention, embedded) + tiles.amax(0)) / 2
        return BagOutput(logits, attention[int(logits.argmax())], tiles)

    def attend(self, embedded: Tensor, critical: Tensor) -> Tensor:
        """Return each class's attention (C, N); ``critical`` (C,) are the classes' best tiles."""
        queries: Tensor = self.query(embedded)
        return torch.softmax(queries[critical] @ queries.T / math.sqrt(queries.shape[1]), dim=1)

    def by_likeness(self, attention: Tensor, embedded: Tensor) -> Tensor:
        """Return the second stream's logits (C,)."""
        logits: Tensor = self.classify((attention @ embedded).flatten())
        return logits

    def loss(self, output: BagOutput, target: Tensor, criterion: Criterion) -> Tensor:
        """Return the mean of the losses of both streams."""
        assert output.instance_logits is not None
        best_tiles = output.instance_logits.amax(0)
        likeness = 2 * output.logits - best_tiles
        losses = [criterion(stream[None], target[None]) for stream in (best_tiles, likeness)]
        return (losses[0] + losses[1]) / 2
