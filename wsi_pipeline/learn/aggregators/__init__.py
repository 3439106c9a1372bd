"""Aggregators by name. Each takes one bag (N, D) and returns a :class:`BagOutput`."""

from typing import Final

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.aggregators.abmil import Abmil, GatedAbmil
from wsi_pipeline.learn.aggregators.base import Aggregator, BagOutput, Standardise
from wsi_pipeline.learn.aggregators.clam import ClamSb
from wsi_pipeline.learn.aggregators.dsmil import Dsmil
from wsi_pipeline.learn.aggregators.pooling import MaxPool, MeanPool
from wsi_pipeline.learn.aggregators.transmil import TransMil
from wsi_pipeline.learn.spec import ModelSpec

AGGREGATORS: Final[dict[str, type[Aggregator]]] = {
    "mean": MeanPool,
    "max": MaxPool,
    "abmil": Abmil,
    "gated_abmil": GatedAbmil,
    "clam_sb": ClamSb,
    "dsmil": Dsmil,
    "transmil": TransMil,
}

__all__ = [
    "AGGREGATORS",
    "Abmil",
    "Aggregator",
    "BagOutput",
    "ClamSb",
    "Dsmil",
    "GatedAbmil",
    "MaxPool",
    "MeanPool",
    "Standardise",
    "TransMil",
    "create_aggregator",
]


def create_aggregator(spec: ModelSpec, width: int, classes: int) -> Aggregator:
    """Make an untrained aggregator.

    Args:
        spec: Its name is a key of :data:`AGGREGATORS`.
        width: Features per tile, D.
        classes: Number of classes, C.

    Raises:
        LearnError: There is no such aggregator.
    """
    if spec.name not in AGGREGATORS:
        raise LearnError(f"unknown aggregator {spec.name!r}; known are {', '.join(AGGREGATORS)}")
    return AGGREGATORS[spec.name](width, classes, spec.hidden, spec.dropout)
