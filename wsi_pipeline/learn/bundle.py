"""A trained model as a folder: everything needed to use it, judge it and make it again.

``model.safetensors`` (weights), ``config.json`` (:class:`BundleConfig`), ``splits.csv``,
``metrics.json``, ``predictions.csv``, ``history.csv``. The folder appears whole or not at all.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsi_pipeline.atomic import write_json
from wsi_pipeline.errors import LearnError
from wsi_pipeline.features import EXACT
from wsi_pipeline.learn.aggregators import Aggregator
from wsi_pipeline.learn.bags import RECIPE, WIDTH, differs
from wsi_pipeline.learn.bundle_config import BundleConfig, read_bundle_config, read_ensemble_config
from wsi_pipeline.learn.external import tensors_digest
from wsi_pipeline.learn.models import TileHead, create_aggregator, create_head
from wsi_pipeline.learn.novelty import Novelty
from wsi_pipeline.learn.scores import SlideScores, score_slide
from wsi_pipeline.run_folder import BundleFile

NOVELTY: Final = "novelty.bank"  # its name among the weights
TILE: Final = "tile"  # the tile classifier's name among the models of a bundle


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


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """What speaks for a model: its bundle, or under cross-validation those of all folds.

    ``config`` is the model's own; its novelty is the mean of the members'.
    """

    config: BundleConfig
    members: tuple[Bundle, ...]

    def score(self, features: NDArray[np.float32]) -> tuple[SlideScores, dict[str, Any]]:
        """Score one slide's ``features`` (N, D) by the mean of the members.

        Returns:
            The scores; and, of several members, model → standard deviation of their probabilities
            (C,), else nothing.
        """
        found = [
            score_slide(m.tile_classifier, m.aggregators, features, m.config.temperatures)
            for m in self.members
        ]
        if len(found) == 1:
            return found[0], {}
        mean = SlideScores(
            tiles=np.mean([each.tiles for each in found], axis=0),
            slide={k: np.mean([each.slide[k] for each in found], axis=0) for k in found[0].slide},
            attention={
                k: np.mean([each.attention[k] for each in found], axis=0)
                for k in found[0].attention
            },
        )
        spread = {
            k: np.std([each.slide[k] for each in found], axis=0, ddof=1) for k in found[0].slide
        }
        return mean, spread

    def novelty(self, features: NDArray[np.float32]) -> float:
        """Return the novelty of a slide, the mean over the members; NaN where one knows none."""
        return float(
            np.mean([m.novelty.score(features) if m.novelty else np.nan for m in self.members])
        )


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write weights and ``config.json`` into ``folder``, which is the caller's to put in place."""
    weights = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, model in bundle.models().items()
        for key, value in model.state_dict().items()
    }
    config = bundle.config
    if bundle.novelty is not None:
        bank = torch.from_numpy(bundle.novelty.bank.astype(np.float16))
        weights[NOVELTY] = bank
        config = replace(config, digests=config.digests | {"novelty": _digest_of_bank(bank)})
    save_file(weights, folder / BundleFile.WEIGHTS)
    write_json(folder / BundleFile.CONFIG, config.to_json())


def load_ensemble(
    folder: Path, device: str | torch.device = "cpu", own: Collection[str] = ()
) -> Ensemble:
    """Read a model, cross-validated or not; arguments and errors as of :func:`load_bundle`."""
    config = read_ensemble_config(folder)
    if isinstance(config.digests["weights"], str):
        return Ensemble(config=config, members=(load_bundle(folder, device, own),))
    members = []
    for fold, expected in config.digests["weights"].items():
        member = load_bundle(folder / fold, device, own)
        same = (member.config.classes, member.config.encoder, member.config.primary)
        if same != (config.classes, config.encoder, config.primary):
            raise LearnError(f"{folder / fold}: another model's fold; train the model again")
        if member.config.digests["weights"] != expected:
            raise LearnError(f"{folder / fold}: was trained anew after the others; train again")
        members.append(member)
    return Ensemble(config=config, members=tuple(members))


def load_bundle(
    folder: Path, device: str | torch.device = "cpu", own: Collection[str] = ()
) -> Bundle:
    """Read a bundle; its models are in evaluation mode and take no gradients.

    A bundle is data. Code of somebody's own that it names is not imported unless it is among
    ``own``, which the caller got from elsewhere.

    Args:
        folder: The bundle.
        device: Where its models go.
        own: Aggregators named ``module:function`` that may be imported.

    Raises:
        LearnError: A file is missing or damaged, the schema is another, the weights are not those
            that ``config.json`` describes, or it needs code that was not named.
    """
    config, weights = check_bundle(folder)
    strange = [s.name for s in config.aggregators.values() if ":" in s.name and s.name not in own]
    if strange:
        raise LearnError(
            f"{folder}: its aggregator {strange[0]!r} is somebody's own code, which a model's "
            f"folder may not bring along; if you trust it, say --aggregator {strange[0]}"
        )
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
        try:
            model.load_state_dict(_of_model(weights, name))
        except RuntimeError as error:
            path = folder / BundleFile.WEIGHTS
            raise LearnError(f"{path}: the weights do not fit config.json: {error}") from None
        model.to(device).eval().requires_grad_(False)
    return bundle


def check_bundle(folder: Path) -> tuple[BundleConfig, dict[str, Tensor]]:
    """Read a bundle's description and weights, and hold one against the other; build nothing.

    Raises:
        LearnError: A file is missing or damaged, or they are not of one another.
    """
    config = read_bundle_config(folder)
    path = folder / BundleFile.WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LearnError(f"{path}: unreadable weights ({error}); train the model again") from None
    found = {name: _of_model(weights, name) for name in (TILE, *config.aggregators)}
    if config.digests.get("weights") != tensors_digest(found):
        raise LearnError(f"{path}: the weights are not those that config.json was written for")
    bank = weights.get(NOVELTY)
    expected = config.digests.get("novelty")
    if expected is not None and (bank is None or _digest_of_bank(bank) != expected):
        raise LearnError(f"{path}: {NOVELTY} is not what config.json was written for")
    return config, weights


def _of_model(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key[len(prefix) :]: v for key, v in weights.items() if key.startswith(prefix)}


def _digest_of_bank(bank: Tensor) -> str:
    return tensors_digest({"novelty": {"bank": bank}})


def _novelty(config: BundleConfig, bank: Tensor | None) -> Novelty | None:
    if bank is None:
        return None
    return Novelty(
        bank=bank.float().numpy(),
        median=config.novelty["median"] or 0.0,
        limit=config.novelty["limit"],
        patients=int(config.novelty["patients"] or 0),
    )


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
    for name, expected in (config.features | {WIDTH: config.width}).items():
        found = features.get(name)
        if name == WIDTH and name not in features:
            continue
        if name not in ignore and differs(name, expected, found):
            wrong.append(f"{name} {expected!r}, found {found!r}")
    recipe = str(features.get(RECIPE))
    if RECIPE not in config.features and recipe.startswith(EXACT):
        wrong.append(f"tiles resized as before recipes were recorded, found {recipe}")
    if wrong:
        raise LearnError(
            f"model {config.name!r} was trained on other features: {'; '.join(wrong)}. "
            "Tile and extract these slides with the model's settings"
        )
