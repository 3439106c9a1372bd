"""Splits, tile classifiers, aggregators, honest evaluation, model bundles."""

from wsi_pipeline.learn.aggregators import AGGREGATORS, Aggregator, BagOutput, create_aggregator
from wsi_pipeline.learn.audit import (
    Audit,
    Finding,
    Subject,
    audit_study,
    audit_table,
    gather,
    identify,
)
from wsi_pipeline.learn.bags import Bag, FeatureFolder, features_digest
from wsi_pipeline.learn.balance import balanced_weights
from wsi_pipeline.learn.bootstrap import Bootstrap, Estimate, estimate
from wsi_pipeline.learn.bundle import (
    Bundle,
    BundleConfig,
    load_bundle,
    read_bundle_config,
    require_same_features,
    save_bundle,
)
from wsi_pipeline.learn.calibration import apply_temperature, fit_temperature
from wsi_pipeline.learn.drift import describe_drift
from wsi_pipeline.learn.evaluate import Cases, evaluate, patient_cases, slide_cases, tile_cases
from wsi_pipeline.learn.external import (
    FrozenModels,
    SealedCohort,
    external_ids,
    seal_external,
    weights_digest,
)
from wsi_pipeline.learn.fit import Epoch, FitSettings, fit, resolve_device
from wsi_pipeline.learn.folds import fold_patients, join_folds, split_sites
from wsi_pipeline.learn.heads import HEADS, TileHead, create_head
from wsi_pipeline.learn.infer import bag_scores, majority_vote, tile_probabilities
from wsi_pipeline.learn.intervals import lower_bound_if_perfect, patients_needed
from wsi_pipeline.learn.novelty import Novelty, fit_novelty
from wsi_pipeline.learn.paired import compare_models, describe_differences
from wsi_pipeline.learn.predictions import SlidePrediction, read_prediction, write_prediction
from wsi_pipeline.learn.prepared import feature_settings, same_setting, shared_settings
from wsi_pipeline.learn.scores import (
    TILE_MEAN,
    TILE_VOTE,
    Probabilities,
    Scores,
    SlideScores,
    evaluate_scores,
    fit_temperatures,
    predictions_csv,
    score_slide,
    score_slides,
)
from wsi_pipeline.learn.spec import ModelSpec
from wsi_pipeline.learn.splits import (
    Splits,
    SplitSlide,
    assert_no_patient_overlap,
    honour_splits,
    labelled,
    read_splits,
    split_patients,
    splits_digest,
    write_splits,
)
from wsi_pipeline.learn.study import SplitPlan, Study, open_external, prepare_study, with_features
from wsi_pipeline.learn.tasks import fit_aggregator, fit_tile_classifier
from wsi_pipeline.learn.training import Recipe, Trained, Training

__all__ = [
    "AGGREGATORS",
    "HEADS",
    "TILE_MEAN",
    "TILE_VOTE",
    "Aggregator",
    "Audit",
    "Bag",
    "BagOutput",
    "Bootstrap",
    "Bundle",
    "BundleConfig",
    "Cases",
    "Epoch",
    "Estimate",
    "FeatureFolder",
    "Finding",
    "FitSettings",
    "FrozenModels",
    "ModelSpec",
    "Novelty",
    "Probabilities",
    "Recipe",
    "Scores",
    "SealedCohort",
    "SlidePrediction",
    "SlideScores",
    "SplitPlan",
    "SplitSlide",
    "Splits",
    "Study",
    "Subject",
    "TileHead",
    "Trained",
    "Training",
    "apply_temperature",
    "assert_no_patient_overlap",
    "audit_study",
    "audit_table",
    "bag_scores",
    "balanced_weights",
    "compare_models",
    "create_aggregator",
    "create_head",
    "describe_differences",
    "describe_drift",
    "estimate",
    "evaluate",
    "evaluate_scores",
    "external_ids",
    "feature_settings",
    "features_digest",
    "fit",
    "fit_aggregator",
    "fit_novelty",
    "fit_temperature",
    "fit_temperatures",
    "fit_tile_classifier",
    "fold_patients",
    "gather",
    "honour_splits",
    "identify",
    "join_folds",
    "labelled",
    "load_bundle",
    "lower_bound_if_perfect",
    "majority_vote",
    "open_external",
    "patient_cases",
    "patients_needed",
    "predictions_csv",
    "prepare_study",
    "read_bundle_config",
    "read_prediction",
    "read_splits",
    "require_same_features",
    "resolve_device",
    "same_setting",
    "save_bundle",
    "score_slide",
    "score_slides",
    "seal_external",
    "shared_settings",
    "slide_cases",
    "split_patients",
    "split_sites",
    "splits_digest",
    "tile_cases",
    "tile_probabilities",
    "weights_digest",
    "with_features",
    "write_prediction",
    "write_splits",
]
