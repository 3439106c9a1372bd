"""A trained model as a folder: everything needed to use it, judge it and make it again.

``model.safetensors`` (weights), ``config.json`` (:class:`BundleConfig`), ``splits.csv``,
``metrics.json``, ``predictions.csv``, ``history.csv``. The folder appears whole or not at all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsi_pipeline.atomic import write_json
from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.aggregators import Aggregator
from wsi_pipeline.learn.bags import same_setting
from wsi_pipeline.learn.external import weights_digest
from wsi_pipeline.learn.models import ModelSpec, TileHead, create_aggregator, create_head
from wsi_pipeline.learn.novelty import Novelty
from wsi_pipeline.learn.scores import TILE_MEAN
from wsi_pipeline.run_folder import BundleFile

SCHEMA_VERSION: Final = 1
NOVELTY: Final = "novelty.bank"  # its name among the weights
TILE: Final = "tile"  # the tile classifier's name among the models of a bundle


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
        """Return what stands in ``config.json``."""
        return asdict(self)

    @property
    def temperatures(self) -> dict[str, float]:
        """The temperature of each model that has one."""
        found = {name: spec.temperature for name, spec in self.aggregators.items()}
        return {TILE_MEAN: self.tile_classifier.temperature, **found}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A trained tile classifier and its aggregators, ready for use."""

    config: BundleConfig
    tile_classifier: TileHead
    aggregators: dict[str, Aggregator]
    novelty: Novelty | None = None

    @property
    def primary(self) -> Aggregator:
        """The aggregator that speaks for the slide."""
        return self.aggregators[self.config.primary]

    def models(self) -> dict[str, nn.Module]:
        """Return all models by name, the tile classifier as ``tile``."""
        return {TILE: self.tile_classifier, **self.aggregators}


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write weights and ``config.json`` into ``folder``, which is the caller's to put in place."""
    weights = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, model in bundle.models().items()
        for key, value in model.state_dict().items()
    }
    if bundle.novelty is not None:
        weights[NOVELTY] = torch.from_numpy(bundle.novelty.bank.astype(np.float16))
    save_file(weights, folder / BundleFile.WEIGHTS)
    write_json(folder / BundleFile.CONFIG, bundle.config.to_json())


def load_bundle(folder: Path, device: str | torch.device = "cpu") -> Bundle:
    """Read a bundle; its models are in evaluation mode and take no gradients.

    Raises:
        LearnError: A file is missing or damaged, the schema is another, or the weights are not
            those that ``config.json`` describes.
    """
    config = read_bundle_config(folder)
    path = folder / BundleFile.WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LearnError(f"{path}: unreadable weights ({error}); train the model again") from None
    sizes = config.width, len(config.classes)
    bundle = Bundle(
        config=config,
        tile_classifier=create_head(config.tile_classifier, *sizes),
        aggregators={
            name: create_aggregator(spec, *sizes) for name, spec in config.aggregators.items()
        },
        novelty=_novelty(config, weights.get(NOVELTY)),
    )
    for name, model in bundle.models().items():
        prefix = f"{name}."
        own = {key[len(prefix) :]: v for key, v in weights.items() if key.startswith(prefix)}
        try:
            model.load_state_dict(own)
        except RuntimeError as error:
            raise LearnError(f"{path}: the weights do not fit config.json: {error}") from None
    expected = config.digests.get("weights")
    if expected != weights_digest(bundle.models()):
        raise LearnError(f"{path}: the weights are not those that config.json was written for")
    for model in bundle.models().values():
        model.to(device).eval().requires_grad_(False)
    return bundle


def _novelty(config: BundleConfig, bank: Tensor | None) -> Novelty | None:
    if bank is None:
        return None
    return Novelty(
        bank=bank.float().numpy(),
        median=config.novelty["median"] or 0.0,
        limit=config.novelty["limit"],
        patients=int(config.novelty["patients"] or 0),
    )


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
    try:
        values["classes"] = tuple(values["classes"])
        values["tile_classifier"] = ModelSpec(**values["tile_classifier"])
        values["aggregators"] = {
            name: ModelSpec(**spec) for name, spec in values["aggregators"].items()
        }
    except (TypeError, AttributeError) as error:
        raise LearnError(f"{path}: a model is described wrongly: {error}") from None
    return BundleConfig(**values)


def require_same_features(
    config: BundleConfig, encoder: str, features: Mapping[str, Any], ignore: Sequence[str] = ()
) -> None:
    """Refuse features that were made another way than those the model was trained on.

    Args:
        config: The bundle's.
        encoder: Tag of the encoder the new features come from.
        features: The settings they were made with; numbers may differ by 2 %.
        ignore: Settings that may differ.

    Raises:
        LearnError: It names each setting, the model's value and the value found.
    """
    wrong = [] if encoder == config.encoder else [f"encoder {config.encoder!r}, found {encoder!r}"]
    for name, expected in config.features.items():
        found = features.get(name)
        if name not in ignore and not same_setting(expected, found):
            wrong.append(f"{name} {expected!r}, found {found!r}")
    if wrong:
        raise LearnError(
            f"model {config.name!r} was trained on other features: {'; '.join(wrong)}. "
            "Tile and extract these slides with the model's settings"
        )
