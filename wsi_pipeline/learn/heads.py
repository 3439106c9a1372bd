"""Tile classifiers: a linear layer or a small MLP on stored features."""

from typing import Final

from torch import Tensor, nn

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.aggregators.base import Standardise
from wsi_pipeline.learn.spec import ModelSpec

HEADS: Final = ("linear", "mlp")


class TileHead(nn.Module):
    """Standardised features (N, D) → logits (N, C)."""

    def __init__(self, width: int, classifier: nn.Module) -> None:
        super().__init__()
        self.standardise = Standardise(width)
        self.classify = classifier

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.standardise(features))
        return logits


def create_head(spec: ModelSpec, width: int, classes: int) -> TileHead:
    """Make an untrained tile classifier.

    Args:
        spec: ``linear`` (logistic regression) or ``mlp`` (one hidden layer).
        width: Features per tile, D.
        classes: Number of classes, C.

    Raises:
        LearnError: There is no such head.
    """
    match spec.name:
        case "linear":
            layers: list[nn.Module] = [nn.Linear(width, classes)]
        case "mlp":
            layers = [
                nn.Linear(width, spec.hidden),
                nn.ReLU(),
                nn.Dropout(spec.dropout),
                nn.Linear(spec.hidden, classes),
            ]
        case name:
            raise LearnError(f"unknown tile classifier {name!r}; known are {', '.join(HEADS)}")
    return TileHead(width, nn.Sequential(nn.Dropout(spec.dropout), *layers))
