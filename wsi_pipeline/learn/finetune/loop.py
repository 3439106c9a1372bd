"""Fine-tuning, epoch by epoch, each of which a killed process goes on from."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.finetune.augment import Augmentation, augment
from wsi_pipeline.learn.finetune.checkpoint import (
    Progress,
    copied,
    load_progress,
    save_progress,
)
from wsi_pipeline.learn.finetune.network import Built, Scaling, parameter_groups, prepare, scale
from wsi_pipeline.learn.finetune.order import Balance, epoch_order
from wsi_pipeline.learn.finetune.ranks import Ranks
from wsi_pipeline.learn.finetune.reading import read_batches
from wsi_pipeline.learn.finetune.scoring import Viewer, judge_tiles, score_tiles
from wsi_pipeline.learn.finetune.sources import TileSource
from wsi_pipeline.learn.fit import Epoch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings:
    """How a network is fine-tuned.

    Attributes:
        epochs, patience: The most epochs, and how many without a lower validation loss end it.
        warmup_epochs: Epochs at the start in which the head alone learns.
        batch: Tiles of one optimisation step, over all processes.
        micro_batch: Tiles a device holds at a time; their gradients are added up. Halved when
            memory runs out.
        optimiser: ``adam`` or ``adamw``.
        learning_rate, layer_decay, weight_decay: See :func:`network.parameter_groups`.
        label_smoothing: Probability spread over the other classes.
        balance, tiles_per_epoch: See :func:`order.epoch_order`.
        judged_tiles: The most tiles of a slide that validation looks at.
        input_px: Side that tiles are resized to.
        scaling: ``model`` scales pixels as the weights expect, ``unit`` to 0–1.
        augmentation: Of the training tiles.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        seed: Of the order, the augmentation and dropout.
    """

    epochs: int = 10
    patience: int = 3
    warmup_epochs: int = 0
    batch: int = 32
    micro_batch: int = 32
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-4
    layer_decay: float = 1.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    balance: Balance = "patient"
    tiles_per_epoch: int | None = None
    judged_tiles: int | None = 500
    input_px: int = 224
    scaling: Scaling = "model"
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "fp32"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where a training runs: its device, its process, and the checkpoint it goes on from.

    ``identity`` tells one training's checkpoint from another's; None keeps no checkpoint.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ranks: Ranks = field(default_factory=Ranks)
    checkpoint: Path | None = None
    identity: str = ""


class FineTuning:
    """Trains ``built.network`` in place; iterate to the end, then it has its best epoch's weights.

    ``progress`` tells how far it is; with a ``checkpoint`` it starts from there.
    """

    def __init__(
        self,
        built: Built,
        parts: tuple[TileSource, TileSource],
        classes: Sequence[str],
        settings: FineTuneSettings,
        place: Workplace,
    ) -> None:
        self.built = built
        self.settings = settings
        self.train, self.val = parts
        self.classes = classes
        self.device, self.ranks = place.device, place.ranks
        self._checkpoint = place.checkpoint
        self._micro = settings.micro_batch
        self._targets = np.array([classes.index(slide.label) for slide in self.train.slides])
        self._dtype = PRECISIONS[settings.precision]
        network = built.network.to(self.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = _optimiser(built, settings)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.progress = Progress(identity=place.identity)
        if place.checkpoint is not None:
            self.progress = load_progress(place.checkpoint, place.identity)
        if self.progress.epoch:
            self._restore()

    def __iter__(self) -> Iterator[Epoch]:
        network, settings, progress = self.built.network, self.settings, self.progress
        learning: nn.Module | None = None
        while progress.epoch < settings.epochs and not self._exhausted():
            epoch = progress.epoch + 1
            frozen = epoch <= settings.warmup_epochs
            if learning is None or frozen != network.frozen:
                network.freeze_body(frozen=frozen)
                learning = self.ranks.wrap(network)
            train_loss = self._epoch(learning, epoch)
            val_loss, accuracy = self._validate()
            yield self._record(epoch, train_loss, val_loss, accuracy)
        network.freeze_body(frozen=False)
        network.load_state_dict(progress.best)
        network.eval()

    def viewer(self) -> Viewer:
        """Return the network as it looks at tiles it does not learn from."""
        return Viewer(
            network=self.built.network,
            preprocess=self.built.preprocess,
            input_px=self.settings.input_px,
            device=self.device,
            precision=self._dtype,
        )

    def _exhausted(self) -> bool:
        return self.progress.epoch - self.progress.best_epoch >= self.settings.patience

    def _epoch(self, learning: nn.Module, epoch: int) -> float:
        """Show one epoch's tiles; return the mean loss over them."""
        settings = self.settings
        order = epoch_order(
            self.train, settings.balance, settings.tiles_per_epoch, settings.seed, epoch
        )
        learning.train()
        total, seen = 0.0, 0
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for step, (places, tiles) in enumerate(read_batches(self.train, order, settings.batch)):
                if len(tiles) == 1 and seen:
                    break  # batch normalisation cannot learn from one tile
                key = [settings.seed, epoch, step, self.ranks.rank]
                loss = self._step(learning, tiles, self._targets[places[:, 0]], key)
                total, seen = total + loss * len(tiles), seen + len(tiles)
        if not math.isfinite(total):
            raise LearnError(
                f"the loss is not finite in epoch {epoch}; lower the learning rate of "
                f"{settings.learning_rate:g}, or use --precision fp32"
            )
        return total / max(seen, 1)

    def _step(
        self,
        learning: nn.Module,
        tiles: NDArray[np.uint8],
        targets: NDArray[np.int64],
        key: list[int],
    ) -> float:
        """Take one optimisation step, in as many pieces as memory asks for; return its loss."""
        while True:
            try:
                loss = self._gradients(learning, tiles, targets, key)
                break
            except torch.OutOfMemoryError as error:
                if self._micro == 1:
                    raise LearnError(
                        "one tile does not fit into the device's memory; lower --input-px"
                    ) from error
                self._micro = max(1, self._micro // 2)
                torch.cuda.empty_cache()
        self._scaler.step(self._optimiser)
        self._scaler.update()
        return loss

    def _gradients(
        self,
        learning: nn.Module,
        tiles: NDArray[np.uint8],
        targets: NDArray[np.int64],
        key: list[int],
    ) -> float:
        ranks, settings = self.ranks, self.settings
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        drawn = torch.Generator().manual_seed(torch.initial_seed())
        self._optimiser.zero_grad(set_to_none=True)
        own = slice(ranks.rank, None, ranks.world)  # processes share a step's tiles
        mine, wanted = torch.as_tensor(tiles[own]), torch.as_tensor(targets[own])
        total = 0.0
        for start in range(0, len(mine), self._micro):
            part = slice(start, start + self._micro)
            pixels = prepare(mine[part].to(self.device, non_blocking=True), settings.input_px)
            pixels = scale(augment(pixels, settings.augmentation, drawn), self.built.preprocess)
            with torch.autocast(
                self.device.type, self._dtype, enabled=self._dtype != torch.float32
            ):
                logits = learning(pixels)
            loss = functional.cross_entropy(
                logits.float(), wanted[part].to(self.device),
                label_smoothing=settings.label_smoothing, reduction="sum",
            ) / len(tiles)  # fmt: skip
            # gradients are averaged over the processes, each of which has a share of the sum
            self._scaler.scale(loss * ranks.world).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return sum(ranks.gather(total))

    def _validate(self) -> tuple[float, float]:
        tiles, _ = score_tiles(
            self.viewer(), self.val, most=self.settings.judged_tiles, seed=self.settings.seed,
            ranks=self.ranks,
        )  # fmt: skip
        return judge_tiles(tiles, self.val.slides, self.classes)

    def _record(self, epoch: int, train_loss: float, val_loss: float, accuracy: float) -> Epoch:
        """Keep what the epoch made, on disk too."""
        progress, weights = self.progress, copied(self.built.network.state_dict())
        best = -val_loss > progress.best_score
        progress.epoch, progress.network = epoch, weights
        progress.optimiser = self._optimiser.state_dict()
        progress.scaler = self._scaler.state_dict()
        if best:
            progress.best_score, progress.best_epoch, progress.best = -val_loss, epoch, weights
        progress.history.append(
            {"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss,
             "val_balanced_accuracy": accuracy}
        )  # fmt: skip
        if self._checkpoint is not None and self.ranks.leads:
            save_progress(self._checkpoint, progress)
        return Epoch(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=val_loss,
            val_balanced_accuracy=accuracy,
            best=best,
        )

    def _restore(self) -> None:
        self.built.network.load_state_dict(self.progress.network)
        self._optimiser.load_state_dict(self.progress.optimiser)
        if self.progress.scaler:
            self._scaler.load_state_dict(self.progress.scaler)


def _optimiser(built: Built, settings: FineTuneSettings) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = parameter_groups(
        built.network,
        learning_rate=settings.learning_rate,
        layer_decay=settings.layer_decay,
        weight_decay=settings.weight_decay,
    )
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.AdamW
    return kind(groups)
