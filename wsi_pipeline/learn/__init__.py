"""Splits, tile classifiers, aggregators, honest evaluation, model bundles."""

from wsi_pipeline.learn.aggregators import AGGREGATORS, Aggregator, BagOutput, create_aggregator
from wsi_pipeline.learn.bags import Bag, FeatureFolder
from wsi_pipeline.learn.balance import balanced_weights
from wsi_pipeline.learn.bootstrap import Estimate, estimate
from wsi_pipeline.learn.bundle import (
    Bundle,
    BundleConfig,
    load_bundle,
    read_bundle_config,
    require_same_features,
    save_bundle,
)
from wsi_pipeline.learn.calibration import apply_temperature, fit_temperature
from wsi_pipeline.learn.evaluate import Cases, evaluate, patient_cases, slide_cases, tile_cases
from wsi_pipeline.learn.external import (
    FrozenModels,
    SealedCohort,
    seal_external,
    weights_digest,
)
from wsi_pipeline.learn.fit import Epoch, FitSettings, fit, resolve_device
from wsi_pipeline.learn.heads import HEADS, TileHead, create_head
from wsi_pipeline.learn.infer import bag_scores, majority_vote, tile_probabilities
from wsi_pipeline.learn.spec import ModelSpec
from wsi_pipeline.learn.splits import (
    Splits,
    SplitSlide,
    assert_no_patient_overlap,
    fold_patients,
    honour_splits,
    labelled,
    read_splits,
    split_patients,
    splits_digest,
    write_splits,
)
from wsi_pipeline.learn.tasks import fit_aggregator, fit_tile_classifier

__all__ = [
    "AGGREGATORS",
    "HEADS",
    "Aggregator",
    "Bag",
    "BagOutput",
    "Bundle",
    "BundleConfig",
    "Cases",
    "Epoch",
    "Estimate",
    "FeatureFolder",
    "FitSettings",
    "FrozenModels",
    "ModelSpec",
    "SealedCohort",
    "SplitSlide",
    "Splits",
    "TileHead",
    "apply_temperature",
    "assert_no_patient_overlap",
    "bag_scores",
    "balanced_weights",
    "create_aggregator",
    "create_head",
    "estimate",
    "evaluate",
    "fit",
    "fit_aggregator",
    "fit_temperature",
    "fit_tile_classifier",
    "fold_patients",
    "honour_splits",
    "labelled",
    "load_bundle",
    "majority_vote",
    "patient_cases",
    "read_bundle_config",
    "read_splits",
    "require_same_features",
    "resolve_device",
    "save_bundle",
    "seal_external",
    "slide_cases",
    "split_patients",
    "splits_digest",
    "tile_cases",
    "tile_probabilities",
    "weights_digest",
    "write_splits",
]
