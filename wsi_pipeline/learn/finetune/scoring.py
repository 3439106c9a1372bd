"""What a network says of every tile, and of the slides they are from."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsi_pipeline.features.encoder_model import Preprocess
from wsi_pipeline.learn.balance import balanced_weights
from wsi_pipeline.learn.calibration import FLOOR, apply_temperature
from wsi_pipeline.learn.finetune.network import prepare, scale
from wsi_pipeline.learn.finetune.order import all_tiles
from wsi_pipeline.learn.finetune.ranks import Ranks
from wsi_pipeline.learn.finetune.reading import read_batches
from wsi_pipeline.learn.finetune.sources import TileSource
from wsi_pipeline.learn.infer import majority_vote
from wsi_pipeline.learn.scores import TILE_MEAN, TILE_VOTE, Scores
from wsi_pipeline.learn.splits import SplitSlide


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
