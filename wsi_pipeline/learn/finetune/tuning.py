"""Fine-tuning, epoch by epoch; a killed process goes on from the last finished one.

Where validation has too few patients to choose an epoch, the schedule is fixed: all epochs, at
learning rates that fall from one to the next along a cosine, and the last one is kept.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.finetune.augment import augment
from wsi_pipeline.learn.finetune.network import (
    Built,
    Viewer,
    judge_tiles,
    parameter_groups,
    prepare,
    scale,
    score_tiles,
)
from wsi_pipeline.learn.finetune.ranks import Ranks
from wsi_pipeline.learn.finetune.tiles import TileSource, epoch_order, read_batches
from wsi_pipeline.learn.fit import Epoch, is_fixed
from wsi_pipeline.learn.settings import FineTuneSettings

PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Weights = dict[str, Tensor]


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
    """Trains ``built.network`` in place; iterate to the end, then it has the kept epoch's weights.

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
        self._fixed = is_fixed((*self.train.slides, *self.val.slides), settings)
        self._optimiser = _optimiser(built, settings)
        self._rates = [group["lr"] for group in self._optimiser.param_groups]
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
            self._set_rates(epoch)
            train_loss = self._epoch(learning, epoch)
            val_loss, accuracy = self._validate()
            yield self._record(epoch, train_loss, val_loss, accuracy)
        network.freeze_body(frozen=False)
        network.load_state_dict(progress.best)
        network.eval()

    def epochs(self) -> list[Epoch]:
        """Return what each epoch so far came to, those of a killed process too."""
        rows, least = [], math.inf
        for row in self.progress.history:
            best = self._is_last(row["epoch"]) if self._fixed else row["val_loss"] < least
            least = min(least, row["val_loss"])
            figures = {name: row[name] for name in ("train_loss", "val_loss")}
            rows.append(
                Epoch(
                    epoch=int(row["epoch"]), best=best, **figures,
                    val_balanced_accuracy=row["val_balanced_accuracy"],
                )
            )  # fmt: skip
        return rows

    def _viewer(self) -> Viewer:
        """Return the network as it looks at tiles it does not learn from."""
        return Viewer(
            network=self.built.network,
            preprocess=self.built.preprocess,
            input_px=self.settings.input_px,
            device=self.device,
            precision=self._dtype,
        )

    def _exhausted(self) -> bool:
        if self._fixed:
            return False
        return self.progress.epoch - self.progress.best_epoch >= self.settings.patience

    def _is_last(self, epoch: float) -> bool:
        return epoch == self.settings.epochs

    def _set_rates(self, epoch: int) -> None:
        """Let a fixed schedule's learning rates fall."""
        if not self._fixed:
            return
        share = (1 + math.cos(math.pi * (epoch - 1) / self.settings.epochs)) / 2
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = share * rate

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
            pixels = scale(augment(pixels, settings, drawn), self.built.preprocess)
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
            self._viewer(), self.val, most=self.settings.judged_tiles, seed=self.settings.seed,
            ranks=self.ranks,
        )  # fmt: skip
        return judge_tiles(tiles, self.val.slides, self.classes)

    def _record(self, epoch: int, train_loss: float, val_loss: float, accuracy: float) -> Epoch:
        """Keep what the epoch made, on disk too."""
        progress, weights = self.progress, copied(self.built.network.state_dict())
        better = -val_loss > progress.best_score
        best = self._is_last(epoch) if self._fixed else better
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


@dataclass(kw_only=True)
class Progress:
    """How far a training is.

    Attributes:
        identity: Digest of settings and input; another training's checkpoint is not taken.
        epoch: Finished so far.
        network: Weights after it.
        optimiser, scaler: Their states.
        best_score, best_epoch, best: The best epoch on validation, and its weights.
        history: A row an epoch.
    """

    identity: str
    epoch: int = 0
    network: Weights = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    best_score: float = float("-inf")
    best_epoch: int = 0
    best: Weights = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def save_progress(path: Path, progress: Progress) -> None:
    """Write a checkpoint beside its target, and put it in its place whole.

    Raises:
        DiskError: The disk is full, or fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial, partial.open("wb") as file:
        try:
            torch.save(vars(progress), file)
        except RuntimeError as error:  # torch's own, in whose context the disk's stands
            raise error.__context__ or error from error


def load_progress(path: Path, identity: str) -> Progress:
    """Return where the training with this ``identity`` stands: at its start if nothing is there.

    Raises:
        LearnError: There is a file that is no checkpoint.
    """
    if not path.exists():
        return Progress(identity=identity)
    try:
        values: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = Progress(**values)
    except (RuntimeError, OSError, EOFError, TypeError, ValueError, KeyError) as error:
        raise LearnError(f"{path}: not a readable checkpoint ({error}); remove it") from None
    return found if found.identity == identity else Progress(identity=identity)


def copied(weights: Mapping[str, Tensor]) -> Weights:
    """Return a copy of ``weights`` on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in weights.items()}
