"""What has to be known to build a model again."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model: the name of a tile classifier or an aggregator, and its sizes.

    ``hidden`` is the width of its hidden layer, ``dropout`` the probability that a value is dropped
    in training, and ``temperature`` divides the logarithms of its slide probabilities.
    """

    name: str
    hidden: int = 256
    dropout: float = 0.25
    temperature: float = 1.0
