"""What the training loop is given: tiles that carry their slide's label, or whole bags."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.aggregators import Aggregator, create_aggregator
from wsi_pipeline.learn.bags import FeatureFolder
from wsi_pipeline.learn.balance import balanced_weights
from wsi_pipeline.learn.fit import Epoch, FitSettings, fit, seeded
from wsi_pipeline.learn.heads import TileHead, create_head
from wsi_pipeline.learn.infer import bag_scores, tile_probabilities
from wsi_pipeline.learn.metrics import balanced_accuracy
from wsi_pipeline.learn.spec import ModelSpec
from wsi_pipeline.learn.splits import Splits, SplitSlide

TILES_IN_MEMORY: Final = 200_000  # of the training part; 1.6 GB at 2048 features
TILES_PER_EPOCH: Final = (4_000, 20_000)  # at least and at most; drawn with replacement


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The slides that are trained and validated on, and what stands for them in a loss."""

    folder: FeatureFolder
    train: Splits
    val: Splits
    classes: tuple[str, ...]

    def targets(self, slides: Splits) -> NDArray[np.int64]:
        return np.array([self.classes.index(slide.label) for slide in slides], dtype=np.int64)


def fit_tile_classifier(
    spec: ModelSpec,
    folder: FeatureFolder,
    slides: Splits,
    classes: Sequence[str],
    settings: FitSettings,
) -> tuple[TileHead, Iterator[Epoch]]:
    """Return a tile classifier and the iterator that trains it.

    Tiles carry the label of their slide; every class, and within it every patient, is drawn
    equally often. Validation sees all tiles of the validation slides.

    Args:
        spec: What is built.
        folder: Features of ``slides``.
        slides: Labelled slides; those with split ``train`` and ``val`` are read, no other.
        classes: All labels, in the order of the logits.
        settings: How it is fitted.

    Raises:
        LearnError: A part is empty, or features of different encoders are mixed.
    """
    data = _data(folder, slides, classes)
    tiles, of_slide = _tiles(folder, data.train, settings)
    with seeded(settings.seed, 0, settings.device):
        head = create_head(spec, tiles.shape[1], len(classes))
    head.standardise.fit(tiles)
    head.to(settings.device)
    return head, fit(head, _TileTask(head, data, tiles, of_slide, settings), settings)


def fit_aggregator(
    spec: ModelSpec,
    folder: FeatureFolder,
    slides: Splits,
    classes: Sequence[str],
    settings: FitSettings,
) -> tuple[Aggregator, Iterator[Epoch]]:
    """Return an aggregator and the iterator that trains it; arguments as the tile classifier's.

    Each epoch sees every training bag once, weighted so that classes and patients count the same;
    of a bag with more than ``settings.tiles`` tiles a fresh sample is drawn. Validation sees whole
    bags.
    """
    data = _data(folder, slides, classes)
    tiles, _ = _tiles(folder, data.train, settings)
    with seeded(settings.seed, 0, settings.device):
        model = create_aggregator(spec, tiles.shape[1], len(classes))
    model.standardise.fit(tiles)
    model.to(settings.device)
    return model, fit(model, _BagTask(model, data, settings), settings)


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
        self._val_targets = data.targets(data.val)
        self._val_weights = balanced_weights(data.val)

    def losses(self, rng: np.random.Generator) -> Iterator[Tensor]:
        least, most = TILES_PER_EPOCH
        count = min(max(len(self._tiles), least), most)
        places = rng.random(count) * self._drawn_by[-1]
        drawn = np.minimum(np.searchsorted(self._drawn_by, places, "right"), len(self._tiles) - 1)
        for start in range(0, count, self._settings.batch):
            batch = torch.from_numpy(drawn[start : start + self._settings.batch])
            logits = self._head(self._tiles[batch].to(self._settings.device))
            targets = self._targets[batch].to(self._settings.device)
            yield cross_entropy(logits, targets, label_smoothing=self._settings.label_smoothing)

    def validate(self) -> tuple[float, float]:
        loss, scores = 0.0, []
        for slide, target, weight in zip(
            self._data.val, self._val_targets, self._val_weights, strict=True
        ):
            bag = self._data.folder.bag(slide.slide_id)
            probabilities = tile_probabilities(self._head, bag.features)
            loss -= float(weight * np.log(probabilities[:, target].clip(1e-7)).mean())
            scores.append(probabilities.mean(0))
        predicted = np.stack(scores).argmax(1)
        return loss, balanced_accuracy(self._val_targets, predicted)


class _BagTask:
    def __init__(self, model: Aggregator, data: _Data, settings: FitSettings) -> None:
        self._model, self._data, self._settings = model, data, settings
        self._targets = torch.from_numpy(data.targets(data.train)).to(settings.device)
        self._weights = balanced_weights(data.train) * len(data.train)
        self._val_targets = data.targets(data.val)
        self._val_weights = balanced_weights(data.val)
        self._criterion = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)

    def losses(self, rng: np.random.Generator) -> Iterator[Tensor]:
        order = rng.permutation(len(self._data.train))
        for start in range(0, len(order), self._settings.batch):
            batch = order[start : start + self._settings.batch]
            losses = [float(self._weights[index]) * self._loss(index, rng) for index in batch]
            yield torch.stack(losses).mean()

    def _loss(self, index: int, rng: np.random.Generator) -> Tensor:
        tiles = self._data.folder.sample(
            self._data.train[index].slide_id, self._settings.tiles, rng
        )
        output = self._model(torch.from_numpy(tiles).to(self._settings.device))
        return self._model.loss(output, self._targets[index], self._criterion)

    def validate(self) -> tuple[float, float]:
        scores = np.stack(
            [
                bag_scores(self._model, self._data.folder.bag(s.slide_id).features)[0]
                for s in self._data.val
            ]
        )
        correct = scores[np.arange(len(scores)), self._val_targets]
        loss = -float(self._val_weights @ np.log(correct.clip(1e-7)))
        return loss, balanced_accuracy(self._val_targets, scores.argmax(1))


def _data(folder: FeatureFolder, slides: Splits, classes: Sequence[str]) -> _Data:
    train = tuple(slide for slide in slides if slide.split == "train")
    val = tuple(slide for slide in slides if slide.split == "val")
    if not train or not val:
        raise LearnError(
            f"{len(train)} training and {len(val)} validation slides; both parts are needed"
        )
    return _Data(folder=folder, train=train, val=val, classes=tuple(classes))


def _tiles(
    folder: FeatureFolder, slides: Sequence[SplitSlide], settings: FitSettings
) -> tuple[Tensor, NDArray[np.int64]]:
    """Return tiles of all slides, (T, D), and which slide each is of, (T,)."""
    rng = np.random.default_rng([settings.seed, 0])
    count = max(1, min(settings.tiles, TILES_IN_MEMORY // len(slides)))
    samples = [folder.sample(slide.slide_id, count, rng) for slide in slides]
    widths = {sample.shape[1] for sample in samples}
    if len(widths) > 1:
        raise LearnError(
            f"{folder.folder}: features of {', '.join(map(str, sorted(widths)))} dimensions are "
            "mixed; extract all slides with one encoder"
        )
    of_slide = np.repeat(np.arange(len(slides)), [len(sample) for sample in samples])
    return torch.from_numpy(np.concatenate(samples)), of_slide
