"""What a model says of itself: ``config.json`` of its folder, read without its weights.

Importing this module imports no torch: pages, checks and searches ask what a model is, and wait for
none of its layers.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from wsi_pipeline.errors import LearnError
from wsi_pipeline.run_folder import BundleFile
from wsi_pipeline.settings import digest

SCHEMA_VERSION: Final = 1
SEAL: Final = "bundle"  # the digest of all else in config.json
TILE_MEAN: Final = "tile_mean"  # the model of slides that is the mean of its tiles' probabilities


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


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """``config.json``: what the model expects and where it comes from.

    ``features`` holds the settings its features were made with (encoder, weights, mpp, tile size,
    stain): new slides must be prepared the same way, and ``tiling`` are the tile stage's settings
    that do so (empty if unknown). ``novelty`` says how unlike each other the
    training patients are, see :class:`Novelty`. ``digests`` has those of the split, the weights,
    the training settings and each slide's features.
    """

    name: str
    classes: tuple[str, ...]
    encoder: str
    width: int
    tile_classifier: ModelSpec
    aggregators: dict[str, ModelSpec]
    primary: str
    seed: int
    features: dict[str, Any] = field(default_factory=dict)
    tiling: dict[str, Any] = field(default_factory=dict)
    novelty: dict[str, float | None] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return what stands in ``config.json``, sealed by a digest of all of it."""
        values = asdict(self)
        values["digests"][SEAL] = _seal(values)
        return values

    @property
    def sealed(self) -> bool:
        """Whether classes, settings and weights have one digest; older bundles have none."""
        return SEAL in self.digests

    @property
    def weights(self) -> str:
        """One digest of all weights, those of every fold."""
        found = self.digests["weights"]
        return found if isinstance(found, str) else digest(found)

    @property
    def temperatures(self) -> dict[str, float]:
        """The temperature of each model that has one."""
        found = {name: spec.temperature for name, spec in self.aggregators.items()}
        return {TILE_MEAN: self.tile_classifier.temperature, **found}


def read_bundle_config(folder: Path) -> BundleConfig:
    """Read ``config.json`` alone.

    Raises:
        LearnError: It is missing, is not ours, or is of another schema version.
    """
    path = folder / BundleFile.CONFIG
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        raise LearnError(f"{folder}: not a model bundle (no readable config.json)") from None
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
        raise LearnError(
            f"{path}: schema version {SCHEMA_VERSION} expected; train the model with this version"
        )
    names = {item.name for item in fields(BundleConfig)}
    if set(values) != names:
        raise LearnError(f"{path}: keys {', '.join(sorted(set(values) ^ names))} are off")
    sealed = values["digests"].get(SEAL) if isinstance(values["digests"], dict) else None
    if sealed is not None and sealed != _seal(values):
        raise LearnError(
            f"{path}: was changed after it was written (classes, settings and weights have one "
            "digest together); train the model again, or bring back the file that was"
        )
    try:
        values["classes"] = tuple(values["classes"])
        values["tile_classifier"] = ModelSpec(**values["tile_classifier"])
        values["aggregators"] = {
            name: ModelSpec(**spec) for name, spec in values["aggregators"].items()
        }
    except (TypeError, AttributeError) as error:
        raise LearnError(f"{path}: a model is described wrongly: {error}") from None
    config = BundleConfig(**values)
    for what in ("name", "encoder"):
        if not is_folder_name(getattr(config, what)):
            raise LearnError(
                f"{path}: {what} {getattr(config, what)!r} is no plain folder's name; this model "
                "was not written by `train`"
            )
    if config.primary not in config.aggregators:
        raise LearnError(f"{path}: primary {config.primary!r} is none of its aggregators")
    return config


def read_ensemble_config(folder: Path) -> BundleConfig:
    """Read ``config.json`` of a model; what is usual of a slide, of folds, is their mean.

    Raises:
        LearnError: It is missing, is not ours, or was changed.
    """
    config = read_bundle_config(folder)
    folds = config.digests["weights"]
    if isinstance(folds, str):
        return config
    wrong = [fold for fold in folds if not re.fullmatch(r"fold-\d+", fold)]
    if wrong:
        raise LearnError(f"{folder / BundleFile.CONFIG}: {wrong[0]!r} is no name of a fold")
    found = [read_bundle_config(folder / fold).novelty for fold in folds]
    keys = found[0].keys()
    means = {
        key: None
        if any(each.get(key) is None for each in found)
        else float(np.mean([each[key] for each in found]))
        for key in keys
    }
    return replace(config, novelty=means)


def is_folder_name(name: object) -> bool:
    """Say whether a name can stand in a path and lead nowhere else; nor is it ``module:name``."""
    return isinstance(name, str) and bool(re.fullmatch(r"[^./\\:\0][^/\\:\0]*", name))


def _seal(values: Mapping[str, Any]) -> str:
    """Return the digest of all of ``config.json`` but the digest itself."""
    digests = {name: value for name, value in values["digests"].items() if name != SEAL}
    return digest({**values, "digests": digests})
