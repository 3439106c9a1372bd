"""The one training loop: AdamW, early stopping on validation, same seed, same numbers."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from wsi_pipeline.errors import LearnError

Monitor = Literal["loss", "balanced_accuracy"]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a model is fitted.

    ``epochs`` is the most; training stops after ``patience`` epochs in which ``monitor``, measured
    on the validation slides, did not improve. ``batch`` counts tiles or bags per step, ``tiles``
    the most tiles drawn from a slide (an aggregator draws anew each epoch).
    """

    epochs: int = 40
    patience: int = 8
    monitor: Monitor = "loss"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.05
    batch: int = 256
    tiles: int = 2000
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch came to; ``best`` says that no earlier one was better on validation."""

    epoch: int
    train_loss: float
    val_loss: float
    val_balanced_accuracy: float
    best: bool


class Task(Protocol):
    """What is fitted: where its losses come from, and how it is judged on validation."""

    def losses(self, rng: np.random.Generator) -> Iterator[Tensor]:
        """Yield the loss of each optimisation step of one epoch."""

    def validate(self) -> tuple[float, float]:
        """Return loss and balanced accuracy on the validation slides."""


def fit(model: nn.Module, task: Task, settings: FitSettings) -> Iterator[Epoch]:
    """Train ``model`` in place, an epoch for each record asked for.

    When the iterator ends, the model has the weights of its best epoch and is in evaluation mode.

    Raises:
        LearnError: The loss is no longer finite.
    """
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    best_score, best_epoch, best_weights = -math.inf, 0, _copy(model)
    for epoch in range(1, settings.epochs + 1):
        with seeded(settings.seed, epoch, settings.device):
            train_loss = _train(
                model, task, optimiser, np.random.default_rng([settings.seed, epoch])
            )
            model.eval()
            val_loss, val_accuracy = task.validate()
        if not math.isfinite(train_loss + val_loss):
            raise LearnError(
                f"the loss is not finite in epoch {epoch} (training {train_loss}, validation "
                f"{val_loss}); lower the learning rate of {settings.learning_rate:g}"
            )
        score = -val_loss if settings.monitor == "loss" else val_accuracy
        best = score > best_score
        if best:
            best_score, best_epoch, best_weights = score, epoch, _copy(model)
        yield Epoch(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=val_loss,
            val_balanced_accuracy=val_accuracy,
            best=best,
        )
        if epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best_weights)
    model.eval()


@contextmanager
def seeded(seed: int, step: int, device: str = "cpu") -> Iterator[None]:
    """Run the block with torch's generators seeded; they are put back as they were."""
    devices = [torch.cuda.current_device()] if device.startswith("cuda") else []
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(state[0]))
        yield


def resolve_device(name: str) -> str:
    """Return ``cpu``, ``cuda`` or ``mps``; ``auto`` takes the best there is.

    Raises:
        LearnError: The device is not to be had here.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there.get(name.partition(":")[0], False):
        raise LearnError(
            f"device {name!r} is not to be had here; there are "
            f"{', '.join(device for device in there if there[device])}"
        )
    return name


def _train(
    model: nn.Module, task: Task, optimiser: torch.optim.Optimizer, rng: np.random.Generator
) -> float:
    """Run one epoch; return its mean loss."""
    model.train()
    losses = []
    for loss in task.losses(rng):
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
