"""End-to-end fine-tuning of an encoder on tiles."""

from wsi_pipeline.learn.finetune.augment import Augmentation, augment
from wsi_pipeline.learn.finetune.checkpoint import Progress
from wsi_pipeline.learn.finetune.loop import FineTuneSettings, FineTuning, Workplace
from wsi_pipeline.learn.finetune.network import Built, Network, build_network
from wsi_pipeline.learn.finetune.order import epoch_order
from wsi_pipeline.learn.finetune.ranks import Ranks, join_ranks
from wsi_pipeline.learn.finetune.scoring import Viewer, score_tiles, to_scores
from wsi_pipeline.learn.finetune.sources import (
    ImageSource,
    StoreSource,
    TileSource,
    image_cohort,
    source_digest,
    with_tiles,
)

__all__ = [
    "Augmentation",
    "Built",
    "FineTuneSettings",
    "FineTuning",
    "ImageSource",
    "Network",
    "Progress",
    "Ranks",
    "StoreSource",
    "TileSource",
    "Viewer",
    "Workplace",
    "augment",
    "build_network",
    "epoch_order",
    "image_cohort",
    "join_ranks",
    "score_tiles",
    "source_digest",
    "to_scores",
    "with_tiles",
]
