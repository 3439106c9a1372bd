"""Models fitted on stored features: the one training loop, and what it is given.

A tile classifier learns from tiles that carry their slide's label, an aggregator from whole bags.
AdamW; same seed, same numbers.

Which epoch is kept is chosen by validation only where that has enough patients of every class: one
or two choose at random. With fewer the schedule is fixed beforehand: so many epochs, the learning
rate falling to nothing along a cosine, and the last one is kept.

Source of the cosine: Loshchilov and Hutter, ICLR 2017. docs/learning.md has what was measured.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wsi_pipeline.errors import LearnError
from wsi_pipeline.features import choose_device
from wsi_pipeline.learn.aggregators import Aggregator, Criterion, Standardise
from wsi_pipeline.learn.bags import FeatureFolder
from wsi_pipeline.learn.bundle_config import ModelSpec
from wsi_pipeline.learn.means import regress_means
from wsi_pipeline.learn.metrics import balanced_accuracy
from wsi_pipeline.learn.models import (
    TileHead,
    bag_scores,
    create_aggregator,
    create_head,
    tile_probabilities,
)
from wsi_pipeline.learn.settings import FitSettings, OptimiserSettings
from wsi_pipeline.learn.splits import Splits, SplitSlide

LEAST_VALIDATED: Final = 10  # patients of each class that may choose an epoch
FIXED_EPOCHS: Final = 10  # where they are fewer …
FIXED_STEPS: Final = 400  # … or as many more as make so many steps
ALONE: Final = 0.5  # of the loss: of an aggregator without the regression that it adds to
TILES_IN_MEMORY: Final = 200_000  # of the training part; 1.6 GB at 2048 features
TILES_OF_BAGS: Final = 200_000  # of all training bags in an epoch, at most
LEAST_OF_BAG: Final = 256  # tiles drawn, however many bags there are
VALIDATED_TILES: Final = 1000  # of a validation slide that judge the tile classifier, at most …
VALIDATED_OF_BAGS: Final = 100_000  # … and of all validation bags an aggregator, or as many of each
TILES_PER_EPOCH: Final = (4_000, 20_000)  # at least and at most; drawn with replacement


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch came to; the last ``best`` one is kept.

    ``best`` says that no earlier one was better on validation, under a fixed schedule that it is
    the last. Without validation slides the last two figures are NaN.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_balanced_accuracy: float
    best: bool


class Task(Protocol):
    """What is fitted: where its losses come from, and how it is judged on validation."""

    steps: int  # of an epoch

    def losses(self, rng: np.random.Generator) -> Iterator[Tensor]:
        """Yield the loss of each optimisation step of one epoch."""

    def validate(self) -> tuple[float, float]:
        """Return loss and balanced accuracy on the validation slides."""


def is_fixed(slides: Splits, settings: OptimiserSettings) -> bool:
    """Whether the schedule is fixed, because validation has too few patients to choose an epoch."""
    if settings.schedule != "auto":
        return settings.schedule == "fixed"
    return fewest_validated(slides) < LEAST_VALIDATED


def fewest_validated(slides: Splits) -> int:
    """Return the number of validation patients of the class that has fewest."""
    patients = {(slide.label, slide.patient_id) for slide in slides if slide.split == "val"}
    counts = Counter(label for label, _ in patients)
    return min(counts[slide.label] for slide in slides)


def fixed_epochs(settings: FitSettings, steps: int) -> int:
    """Return the epochs of a fixed schedule, where one has so many steps."""
    return min(settings.epochs, max(FIXED_EPOCHS, -(-FIXED_STEPS // steps)))


@dataclass(frozen=True, kw_only=True)
class Training:
    """Iterate to the end to train; ``epochs`` is how many there are at most."""

    epochs: int
    run: Iterator[Epoch]

    def __iter__(self) -> Iterator[Epoch]:
        return self.run


def fit(
    model: nn.Module, task: Task, settings: FitSettings, learning_rate: float, *,
    fixed: bool = False,
) -> Training:  # fmt: skip
    """Return what trains ``model`` in place.

    Under a ``fixed`` schedule its learning rate falls along a cosine, and the last epoch is kept.
    """
    epochs = fixed_epochs(settings, task.steps) if fixed else settings.epochs
    return Training(epochs=epochs, run=_epochs(model, task, settings, learning_rate,
                                               epochs if fixed else None))  # fmt: skip


def _epochs(
    model: nn.Module, task: Task, settings: FitSettings, learning_rate: float, fixed: int | None
) -> Iterator[Epoch]:
    """Train ``model`` in place, an epoch for each record asked for.

    When the iterator ends, the model has the weights of its best epoch, or of the last one of the
    ``fixed`` number of them, and is in evaluation mode.

    Raises:
        LearnError: The loss is no longer finite.
    """
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=settings.weight_decay
    )
    epochs = fixed or settings.epochs
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, epochs * task.steps))
    best_score, best_epoch, best_weights = -math.inf, 0, _copy(model)
    for epoch in range(1, epochs + 1):
        with seeded(settings.seed, epoch, choose_device(settings.device)):
            rng = np.random.default_rng([settings.seed, epoch])
            train_loss = _train(model, task, optimiser, rng, rates if fixed else None)
            model.eval()
            val_loss, val_accuracy = task.validate()
        if not math.isfinite(train_loss) or math.isinf(val_loss):
            raise LearnError(
                f"the loss is not finite in epoch {epoch} (training {train_loss}, validation "
                f"{val_loss}); lower the learning rate of {learning_rate:g}"
            )
        score = -val_loss if settings.monitor == "loss" else val_accuracy
        best = epoch == epochs if fixed else score > best_score
        if best:
            best_score, best_epoch, best_weights = score, epoch, _copy(model)
        yield Epoch(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=val_loss,
            val_balanced_accuracy=val_accuracy,
            best=best,
        )
        if not fixed and epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best_weights)
    model.eval()


@contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Run the block with torch's generators seeded; they are put back as they were."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(state[0]))
        yield


def _train(
    model: nn.Module,
    task: Task,
    optimiser: torch.optim.Optimizer,
    rng: np.random.Generator,
    rates: torch.optim.lr_scheduler.LRScheduler | None,
) -> float:
    """Run one epoch; return its mean loss."""
    model.train()
    losses = []
    for loss in task.losses(rng):
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if rates is not None:
            rates.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def balanced_weights(slides: Sequence[SplitSlide]) -> NDArray[np.float64]:
    """Return one weight a slide, (n,) float64, that sum to one.

    Each class has the same sum; a class's sum is shared evenly by its patients, a patient's by its
    slides of that class.
    """
    pairs = [(slide.label, slide.patient_id) for slide in slides]
    counts = Counter(pairs)
    patients = Counter(label for label, _ in counts)
    return np.array(
        [1 / (len(patients) * patients[pair[0]] * counts[pair]) for pair in pairs], dtype=np.float64
    )


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The slides that are trained and validated on, and what stands for them in a loss."""

    folder: FeatureFolder
    train: Splits
    val: Splits
    fixed: bool
    classes: tuple[str, ...]
    device: torch.device

    def targets(self, slides: Splits) -> NDArray[np.int64]:
        return np.array([self.classes.index(slide.label) for slide in slides], dtype=np.int64)


def fit_tile_classifier(
    spec: ModelSpec,
    folder: FeatureFolder,
    slides: Splits,
    classes: Sequence[str],
    settings: FitSettings,
) -> tuple[TileHead, Training]:
    """Return a tile classifier and what trains it, epoch by epoch.

    Tiles carry the label of their slide; every class, and within it every patient, is drawn
    equally often. Validation sees the same tiles of the validation slides in every epoch.

    Args:
        spec: What is built.
        folder: Features of ``slides``.
        slides: Labelled slides; those with split ``train`` and ``val`` are read, no other.
        classes: All labels, in the order of the logits.
        settings: How it is fitted.

    Raises:
        LearnError: A part is empty (validation may be where the schedule is fixed), or features of
            different encoders are mixed.
    """
    data = _data(folder, slides, classes, settings)
    tiles, of_slide = _tiles(folder, data.train, settings)
    with seeded(settings.seed, 0, data.device):
        head = create_head(spec, tiles.shape[1], len(classes))
    head.standardise.fit(tiles)
    head.to(data.device)
    task = _TileTask(head, data, tiles, of_slide, settings)
    return head, fit(head, task, settings, settings.learning_rate, fixed=data.fixed)


def fit_aggregator(
    spec: ModelSpec,
    folder: FeatureFolder,
    slides: Splits,
    classes: Sequence[str],
    settings: FitSettings,
    like: Standardise | None = None,
) -> tuple[Aggregator, Training]:
    """Return an aggregator and what trains it; arguments as the tile classifier's.

    Under a fixed schedule it is trained on top of a regression on the bags' means. ``like`` is how
    features of the same training slides are standardised, where that is known.

    Each epoch sees every training bag once, weighted so that classes and patients count the same;
    of a bag with more than ``settings.tiles`` tiles a fresh sample is drawn, of many bags one so
    small that an epoch has TILES_OF_BAGS. Validation sees whole bags, or of large ones the same
    tiles in every epoch.
    """
    data = _data(folder, slides, classes, settings)
    drawn = _tiles(folder, data.train, settings) if like is None or data.fixed else None
    if like is None:
        assert drawn is not None
        like = Standardise(drawn[0].shape[1])
        like.fit(drawn[0])
    with seeded(settings.seed, 0, data.device):
        model = create_aggregator(spec, len(like.mean), len(classes))
    model.standardise.load_state_dict(like.state_dict())
    heard = None
    if data.fixed and drawn is not None:
        heard = _start(model, data, *drawn, settings.seed)
    model.to(data.device)
    task = _BagTask(model, data, settings, heard)
    return model, fit(model, task, settings, settings.bag_learning_rate, fixed=data.fixed)


def _start(
    model: Aggregator, data: _Data, tiles: Tensor, of_slide: NDArray[np.int64], seed: int
) -> Tensor | None:
    """Let ``model`` start from a regression on means; return its logits out of fold, (n, C)."""
    counts = np.bincount(of_slide).tolist()
    means = torch.stack([part.double().mean(0) for part in torch.split(tiles, counts)])
    rows = model.standardise(means).numpy()
    targets, shares = data.targets(data.train), balanced_weights(data.train)
    found = None
    if len(np.unique(targets)) == len(data.classes):
        found = regress_means(rows, targets, data.train, shares, seed)
    if found is None:
        return None
    model.of_mean.weight.copy_(torch.from_numpy(found.weight))
    model.of_mean.bias.copy_(torch.from_numpy(found.bias))
    return torch.from_numpy(found.out_of_fold).float()


class _TileTask:
    def __init__(
        self,
        head: TileHead,
        data: _Data,
        tiles: Tensor,
        of_slide: NDArray[np.int64],
        settings: FitSettings,
    ) -> None:
        self._head, self._data, self._settings = head, data, settings
        self._tiles = tiles
        self._targets = torch.from_numpy(data.targets(data.train)[of_slide])
        share = balanced_weights(data.train) / np.bincount(of_slide, minlength=len(data.train))
        self._drawn_by = np.cumsum(share[of_slide])
        least, most = TILES_PER_EPOCH
        self._count = min(max(len(tiles), least), most)
        self.steps = -(-self._count // settings.batch)
        self._val_targets = data.targets(data.val)
        self._val_weights = balanced_weights(data.val)

    def losses(self, rng: np.random.Generator) -> Iterator[Tensor]:
        count = self._count
        places = rng.random(count) * self._drawn_by[-1]
        drawn = np.minimum(np.searchsorted(self._drawn_by, places, "right"), len(self._tiles) - 1)
        for start in range(0, count, self._settings.batch):
            batch = torch.from_numpy(drawn[start : start + self._settings.batch])
            logits = self._head(self._tiles[batch].to(self._data.device).float())
            targets = self._targets[batch].to(self._data.device)
            yield cross_entropy(logits, targets, label_smoothing=self._settings.label_smoothing)

    def validate(self) -> tuple[float, float]:
        if not self._data.val:
            return math.nan, math.nan
        loss, scores = 0.0, []
        for slide, target, weight in zip(
            self._data.val, self._val_targets, self._val_weights, strict=True
        ):
            rng = np.random.default_rng([self._settings.seed, 0])
            tiles = self._data.folder.sample(slide.slide_id, VALIDATED_TILES, rng)
            probabilities = tile_probabilities(self._head, tiles)
            loss -= float(weight * np.log(probabilities[:, target].clip(1e-7)).mean())
            scores.append(probabilities.mean(0))
        predicted = np.stack(scores).argmax(1)
        return loss, balanced_accuracy(self._val_targets, predicted)


class _BagTask:
    def __init__(
        self, model: Aggregator, data: _Data, settings: FitSettings, heard: Tensor | None
    ) -> None:
        self._model, self._data, self._settings = model, data, settings
        self._heard = None if heard is None else heard.to(data.device)
        self._targets = torch.from_numpy(data.targets(data.train)).to(data.device)
        self._weights = balanced_weights(data.train) * len(data.train)
        self._val_targets = data.targets(data.val)
        self._val_weights = balanced_weights(data.val)
        self.steps = -(-len(data.train) // settings.bag_batch)
        share = max(LEAST_OF_BAG, TILES_OF_BAGS // len(data.train))
        self._tiles = min(settings.tiles, share)
        self._val_tiles = max(VALIDATED_TILES, VALIDATED_OF_BAGS // max(1, len(data.val)))
        self._criterion = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)

    def losses(self, rng: np.random.Generator) -> Iterator[Tensor]:
        order = rng.permutation(len(self._data.train))
        for start in range(0, len(order), self._settings.bag_batch):
            batch = order[start : start + self._settings.bag_batch]
            losses = [float(self._weights[index]) * self._loss(index, rng) for index in batch]
            yield torch.stack(losses).mean()

    def _loss(self, index: int, rng: np.random.Generator) -> Tensor:
        tiles = self._data.folder.sample(self._data.train[index].slide_id, self._tiles, rng)
        output = self._model.learned(torch.from_numpy(tiles).to(self._data.device))
        return self._model.loss(output, self._targets[index], self._with(index))

    def _with(self, index: int) -> Criterion:
        """Return the loss of the model alone and of what it adds to what the regression says.

        Alone it must hold too: a mere correction may look at tiles that say nothing of the class.
        """
        if self._heard is None:
            return self._criterion
        said = self._heard[index]
        return lambda logits, target: (
            ALONE * self._criterion(logits, target)
            + (1 - ALONE) * self._criterion(logits + said, target)
        )

    def validate(self) -> tuple[float, float]:
        if not self._data.val:
            return math.nan, math.nan
        rng = np.random.default_rng([self._settings.seed, 0])
        samples = (
            self._data.folder.sample(slide.slide_id, self._val_tiles, rng)
            for slide in self._data.val
        )
        scores = np.stack([bag_scores(self._model, tiles)[0] for tiles in samples])
        correct = scores[np.arange(len(scores)), self._val_targets]
        loss = -float(self._val_weights @ np.log(correct.clip(1e-7)))
        return loss, balanced_accuracy(self._val_targets, scores.argmax(1))


def _data(
    folder: FeatureFolder, slides: Splits, classes: Sequence[str], settings: FitSettings
) -> _Data:
    train = tuple(slide for slide in slides if slide.split == "train")
    val = tuple(slide for slide in slides if slide.split == "val")
    fixed = is_fixed(slides, settings)
    if not train or not (val or fixed):
        raise LearnError(
            f"{len(train)} training and {len(val)} validation slides; both parts are needed"
        )
    device = choose_device(settings.device)
    return _Data(
        folder=folder, train=train, val=val, fixed=fixed, classes=tuple(classes), device=device
    )


def _tiles(
    folder: FeatureFolder, slides: Sequence[SplitSlide], settings: FitSettings
) -> tuple[Tensor, NDArray[np.int64]]:
    """Return tiles of all slides, (T, D), and which slide each is of, (T,).

    They are half precision where all bags are kept so, else single.
    """
    rng = np.random.default_rng([settings.seed, 0])
    count = max(1, min(settings.tiles, TILES_IN_MEMORY // len(slides)))
    lengths = [min(count, folder.tile_count(slide.slide_id)) for slide in slides]
    tiles, end = np.empty((0, 0), np.float32), 0
    for slide, length in zip(slides, lengths, strict=True):
        drawn: NDArray[np.floating[Any]] = folder.sample_kept(slide.slide_id, count, rng)
        if not end:
            tiles = np.empty((sum(lengths), drawn.shape[1]), drawn.dtype)
        elif drawn.dtype.itemsize > tiles.dtype.itemsize:
            tiles = tiles.astype(drawn.dtype)
        if drawn.shape[1] != tiles.shape[1]:
            raise LearnError(
                f"{folder.folder}: features of {tiles.shape[1]} and {drawn.shape[1]} dimensions "
                "are mixed; extract all slides with one encoder"
            )
        tiles[end : end + length] = drawn
        end += length
    return torch.from_numpy(tiles), np.repeat(np.arange(len(slides)), lengths)
