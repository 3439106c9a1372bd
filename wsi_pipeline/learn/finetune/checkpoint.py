"""What a killed training goes on from: everything that the epochs so far have made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.errors import LearnError

Weights = dict[str, Tensor]


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
    """Write a checkpoint beside its target, and put it in its place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        torch.save(vars(progress), partial)


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
