"""A timm network with a new head: what it is given, how fast its parts learn, what it says."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wsi_pipeline.errors import LearnError
from wsi_pipeline.features import EncoderModel, Preprocess, build_encoder, import_timm
from wsi_pipeline.learn.bundle_config import TILE_MEAN
from wsi_pipeline.learn.calibration import FLOOR, apply_temperature
from wsi_pipeline.learn.finetune.ranks import Ranks
from wsi_pipeline.learn.finetune.tiles import TileSource, all_tiles, read_batches
from wsi_pipeline.learn.fit import balanced_weights
from wsi_pipeline.learn.models import majority_vote
from wsi_pipeline.learn.scores import TILE_VOTE, Scores
from wsi_pipeline.learn.splits import SplitSlide


class Network(nn.Module):
    """``body`` turns (B, 3, H, W) into features (B, D), ``head`` those into logits (B, C)."""

    def __init__(self, body: nn.Module, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))
        self.frozen = False

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(pixels))
        return logits

    def freeze_body(self, *, frozen: bool) -> None:
        """Let the head alone learn, or everything; a frozen body keeps its batch statistics."""
        self.frozen = frozen
        self.body.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "Network":
        """Enter training mode; a frozen body stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self


@dataclass(frozen=True, kw_only=True)
class Built:
    """A network ready to be fine-tuned, and what it was made from."""

    network: Network
    encoder: EncoderModel
    preprocess: Preprocess

    @property
    def parameters(self) -> int:
        """How many numbers it learns, the head's included."""
        return sum(each.numel() for each in self.network.parameters())


def build_network(
    encoder: str,
    weights: str,
    classes: int,
    *,
    dropout: float,
    scaling: Literal["model", "unit"],
    seed: int,
) -> Built:
    """Build the encoder with its weights and a new head, whose weights follow from ``seed``.

    Raises:
        EncoderError: The encoder is unknown, or its weights cannot be had.
        LearnError: It does not return one feature vector a tile.
    """
    found = build_encoder(encoder, weights)
    preprocess = found.preprocess
    if scaling == "unit":
        preprocess = replace(preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = _width(found, encoder)
        network = Network(found.model, width, classes, dropout)
    return Built(network=network, encoder=found, preprocess=preprocess)


def prepare(tiles: Tensor, input_px: int) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, input_px, input_px) float32, grey levels, channels last."""
    planes = tiles.permute(0, 3, 1, 2).float()
    if planes.shape[-2:] != (input_px, input_px):
        size = (input_px, input_px)
        planes = functional.interpolate(planes, size, mode="bilinear", antialias=True)
    return planes.clamp(0, 255).contiguous(memory_format=torch.channels_last)


def scale(planes: Tensor, preprocess: Preprocess) -> Tensor:
    """Grey levels → what the network expects."""
    mean, std = (
        torch.tensor(values, device=planes.device)[None, :, None, None]
        for values in (preprocess.mean, preprocess.std)
    )
    return (planes / 255 - mean) / std


def parameter_groups(
    network: Network, *, learning_rate: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Group parameters for the optimiser: deeper layers learn more slowly.

    Args:
        network: To be fine-tuned.
        learning_rate: Of the head.
        layer_decay: Factor from each layer group to the one below it; 1 treats all alike.
        weight_decay: Of everything but biases and normalisation.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(network.head.parameters()), "lr": learning_rate,
         "weight_decay": weight_decay}
    ]  # fmt: skip
    if layer_decay == 1:
        body = list(network.body.parameters())
        return [*groups, {"params": body, "lr": learning_rate, "weight_decay": weight_decay}]
    import_timm()
    from timm.optim import param_groups_layer_decay

    for group in param_groups_layer_decay(
        network.body, weight_decay=weight_decay, layer_decay=layer_decay
    ):
        factor = float(group.get("lr_scale", 1.0)) * layer_decay
        groups.append(
            {"params": group["params"], "lr": learning_rate * factor,
             "weight_decay": group["weight_decay"]}
        )  # fmt: skip
    return groups


def _width(found: EncoderModel, encoder: str) -> int:
    side = found.preprocess.input_px or 64
    with torch.inference_mode():
        features = found.model(torch.zeros(1, 3, side, side))
    if features.ndim != 2:
        raise LearnError(
            f"encoder {encoder!r} returns {tuple(features.shape)} for one tile; fine-tuning needs "
            "one that returns pooled features"
        )
    found.model.train()
    return int(features.shape[1])


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """How tiles reach a network that judges them."""

    network: nn.Module
    preprocess: Preprocess
    input_px: int
    device: torch.device
    batch: int = 64
    precision: torch.dtype = torch.float32

    def probabilities(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, H, W, 3) uint8 → (B, C) float32."""
        with (
            torch.inference_mode(),
            torch.autocast(
                self.device.type, self.precision, enabled=self.precision != torch.float32
            ),
        ):
            pixels = prepare(torch.as_tensor(tiles).to(self.device), self.input_px)
            logits = self.network(scale(pixels, self.preprocess))
        found: NDArray[np.float32] = logits.float().softmax(1).cpu().numpy()
        return found


def score_tiles(
    viewer: Viewer,
    source: TileSource,
    *,
    most: int | None = None,
    seed: int = 0,
    ranks: Ranks | None = None,
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Judge the tiles of every slide; several processes share them.

    Args:
        viewer: The network and how it sees.
        source: The slides.
        most: The most tiles of a slide; None judges all.
        seed: Of the choice.
        ranks: The processes; this one alone if not given.

    Returns:
        Slide → (N, C) float32, in every process, and tiles a second of this process.
    """
    ranks = ranks or Ranks()
    viewer.network.eval()
    places = all_tiles(source, most, seed)
    own = places[places[:, 0] % ranks.world == ranks.rank]
    parts: dict[int, list[NDArray[np.float32]]] = {}
    begun = time.perf_counter()
    for at, tiles in read_batches(source, own, viewer.batch):
        found = viewer.probabilities(tiles)
        for slide in np.unique(at[:, 0]):
            parts.setdefault(int(slide), []).append(found[at[:, 0] == slide])
    speed = len(own) / max(time.perf_counter() - begun, 1e-9)
    mine = {source.slides[slide].slide_id: np.concatenate(rows) for slide, rows in parts.items()}
    merged: dict[str, NDArray[np.float32]] = {}
    for each in ranks.gather(mine):
        merged |= each
    return {slide.slide_id: merged[slide.slide_id] for slide in source.slides}, speed


def to_scores(tiles: dict[str, NDArray[np.float32]], temperature: float = 1.0) -> Scores:
    """Return the tiles' scores with the slides' mean, tempered, and their vote."""
    scores = Scores(tiles=tiles, slides={TILE_MEAN: {}, TILE_VOTE: {}})
    for slide_id, found in tiles.items():
        mean = found.mean(0, dtype=np.float64)
        scores.slides[TILE_MEAN][slide_id] = apply_temperature(mean[None], temperature)[0]
        scores.slides[TILE_VOTE][slide_id] = majority_vote(found)
    return scores


def judge_tiles(
    tiles: dict[str, NDArray[np.float32]], slides: Sequence[SplitSlide], classes: Sequence[str]
) -> tuple[float, float]:
    """Return the tiles' log loss, every class and patient alike, and slides' balanced accuracy."""
    targets = np.array([classes.index(slide.label) for slide in slides])
    losses = [
        -np.log(tiles[slide.slide_id][:, target].clip(FLOOR)).mean(dtype=np.float64)
        for slide, target in zip(slides, targets, strict=True)
    ]
    won = np.array([tiles[slide.slide_id].mean(0).argmax() for slide in slides]) == targets
    recalls = [won[targets == label].mean() for label in np.unique(targets)]
    return float(balanced_weights(slides) @ np.array(losses)), float(np.mean(recalls))
