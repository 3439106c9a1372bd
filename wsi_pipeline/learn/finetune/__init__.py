"""End-to-end fine-tuning of an encoder on tiles or flat images."""

from wsi_pipeline.learn.finetune.augment import augment
from wsi_pipeline.learn.finetune.learner import PixelLearner, PixelModels
from wsi_pipeline.learn.finetune.material import (
    ImageFolders,
    from_images,
    from_stores,
    image_cohort,
)
from wsi_pipeline.learn.finetune.network import Built, Network, Viewer, build_network, score_tiles
from wsi_pipeline.learn.finetune.ranks import Ranks, join_ranks
from wsi_pipeline.learn.finetune.tiles import ImageSource, StoreSource, TileSource, epoch_order
from wsi_pipeline.learn.finetune.tuning import FineTuning, Progress, Workplace

__all__ = [
    "Built",
    "FineTuning",
    "ImageFolders",
    "ImageSource",
    "Network",
    "PixelLearner",
    "PixelModels",
    "Progress",
    "Ranks",
    "StoreSource",
    "TileSource",
    "Viewer",
    "Workplace",
    "augment",
    "build_network",
    "epoch_order",
    "from_images",
    "from_stores",
    "image_cohort",
    "join_ranks",
    "score_tiles",
]
