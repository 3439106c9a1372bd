"""Slide aggregators: a bag of tile features in, class scores and attention out.

Mean and max pooling are what attention has to beat; the others follow the papers named with them.
TransMIL has a module of its own.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

ATTENTION_WIDTH: Final = 128  # of ABMIL's and DSMIL's attention
ALL_BUT_EQUAL: Final = 0.01  # of its usual initial weights; not 0: CLAM ranks tiles by attention
FITTED_AT_ONCE: Final = 4096  # tiles whose spread is measured
EMBEDDED_AT_ONCE: Final = 512  # tiles of a bag, outside of training
SAMPLED: Final = 8  # of CLAM: tiles of most and of least attention that get a label
BAG_SHARE: Final = 0.7  # of CLAM's loss; the tiles have the rest

Criterion = Callable[[Tensor, Tensor], Tensor]  # (B, C) logits, (B,) targets -> scalar


class BagOutput(NamedTuple):
    """What one bag gives.

    ``logits`` (C,); ``attention`` (N,), not negative, sums to one; ``instance_logits`` (N, …) where
    the method scores tiles in its own way, else None.
    """

    logits: Tensor
    attention: Tensor
    instance_logits: Tensor | None = None


class Standardise(nn.Module):
    """Shift and scale each feature by constants fitted on training tiles; identity until then."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, features: Tensor) -> None:
        """Take mean and standard deviation from ``features`` (N, D); constant features become 0."""
        parts, count = torch.split(features, FITTED_AT_ONCE), len(features)
        mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / count
        squares = [(part.double() - mean).square_().sum(0) for part in parts]
        deviation = (torch.stack(squares).sum(0) / count).sqrt().float()
        mean = mean.float()
        constant = deviation <= 1e-6 * (mean.abs() + 1e-6)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(constant, 0.0, 1 / deviation.clamp_min(1e-12)))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean).mul_(self.scale)  # in place: one pass of memory less


class MeanLogits(nn.Module):
    """Logits of a bag's mean, by constants fitted elsewhere; nothing until then, nor in old models.

    See :mod:`wsi_pipeline.learn.means`.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, width))
        self.register_buffer("bias", torch.zeros(classes))

    def forward(self, mean: Tensor) -> Tensor:
        return self.weight @ mean + self.bias

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        for name, value in self.named_buffers():
            state.setdefault(prefix + name, value)
        super()._load_from_state_dict(state, prefix, *others)


class Aggregator(nn.Module, ABC):
    """Base of all aggregators: standardised, embedded tiles, pooled in the subclass's way.

    What a regression says of the bag's mean is added to the logits, where one was fitted. In
    training it is in the criterion instead, out of fold.

    Args:
        width: Features per tile, D.
        classes: Number of classes, C.
        hidden: Width of the embedding, H.
        dropout: Probability that an embedded value is dropped in training.
    """

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__()
        self.classes = classes
        self.standardise = Standardise(width)
        self.of_mean = MeanLogits(width, classes)
        self.embed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> BagOutput:
        """Score one bag; ``features`` is (N, D) float32 with N ≥ 1."""
        output = self.learned(features)
        regression: Tensor = self.of_mean(self.standardise(features.mean(0)))
        return output._replace(logits=output.logits + regression)

    def learned(self, features: Tensor) -> BagOutput:
        """Score one bag without the regression, which is how it is trained."""
        if self.training:
            return self.pool(self.embed(self.standardise(features)))
        # some rows after the others stay in a processor's cache; nothing is kept for gradients
        parts = [
            self.embed(self.standardise(part)) for part in torch.split(features, EMBEDDED_AT_ONCE)
        ]
        return self.pool(torch.cat(parts))

    @abstractmethod
    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""

    def loss(self, output: BagOutput, target: Tensor, criterion: Criterion) -> Tensor:
        """Return the scalar loss of one bag as :meth:`learned` has it; ``target`` is a scalar."""
        return criterion(output.logits[None], target[None])


class MeanPool(Aggregator):
    """Average the embedded tiles, classify; every tile has the same attention."""

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(width, classes, hidden, dropout)
        self.classify = nn.Linear(hidden, classes)

    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""
        attention = embedded.new_full((len(embedded),), 1 / len(embedded))
        return BagOutput(self.classify(embedded.mean(0)), attention)


class MaxPool(MeanPool):
    """Take the maximum of each dimension, classify.

    A tile's attention is the share of dimensions in which it is the maximum; tiles that tie in a
    dimension share it.
    """

    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""
        pooled = embedded.amax(0)
        with torch.no_grad():
            wins = (embedded == pooled).to(embedded.dtype)
            attention = (wins / wins.sum(0)).mean(1)
        return BagOutput(self.classify(pooled), attention)


class Abmil(Aggregator):
    """A bag is the attention-weighted mean of its embedded tiles (equations 7 and 8).

    ``a = softmax(w · tanh(V h))``, and ``z = Σ a h`` is classified. Attention begins all but equal,
    so that a model of few bags begins as one of their means.

    Source: Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018.
    """

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(width, classes, hidden, dropout)
        self.attention_v = nn.Linear(hidden, ATTENTION_WIDTH)
        self.attention_w = nn.Linear(ATTENTION_WIDTH, 1)
        self.classify = nn.Linear(hidden, classes)
        with torch.no_grad():
            self.attention_w.weight.mul_(ALL_BUT_EQUAL)

    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""
        scores: Tensor = self.attention_w(self.evidence(embedded))
        attention = scores[:, 0].softmax(0)
        return BagOutput(self.classify(attention @ embedded), attention)

    def evidence(self, embedded: Tensor) -> Tensor:
        """Return what attention is a linear function of, (N, A)."""
        hidden: Tensor = self.attention_v(embedded)
        return hidden.tanh()


class GatedAbmil(Abmil):
    """The same with gated attention (equation 9): ``a = softmax(w · (tanh(V h) ⊙ σ(U h)))``."""

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(width, classes, hidden, dropout)
        self.attention_u = nn.Linear(hidden, ATTENTION_WIDTH)

    def evidence(self, embedded: Tensor) -> Tensor:
        """Return what attention is a linear function of, (N, A)."""
        gate: Tensor = self.attention_u(embedded)
        return super().evidence(embedded) * gate.sigmoid()


class ClamSb(GatedAbmil):
    """Gated ABMIL; each class has a binary tile classifier of its own.

    The tiles of most attention count as tiles of the bag's class and of no other class, those of
    least attention as tiles without it. Bags with fewer than 16 tiles lend half of them to either
    side; the only tile of a bag has most attention.

    Sources: Lu et al., "Data-efficient and weakly supervised computational pathology on whole-slide
    images", Nature Biomedical Engineering 2021; the tiles' loss is the smooth top-1 SVM of Berrada,
    Zisserman and Kumar, ICLR 2018.
    """

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(width, classes, hidden, dropout)
        self.judge = nn.ModuleList(nn.Linear(hidden, 2) for _ in range(classes))

    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""
        bag = super().pool(embedded)
        scores = torch.stack([judge(embedded) for judge in self.judge], dim=1)  # (N, C, out/in)
        return bag._replace(instance_logits=scores)

    def loss(self, output: BagOutput, target: Tensor, criterion: Criterion) -> Tensor:
        """Return 0.7 × the bag's loss and 0.3 × its tiles'."""
        bag = super().loss(output, target, criterion)
        return BAG_SHARE * bag + (1 - BAG_SHARE) * self.tile_loss(output, int(target))

    def tile_loss(self, output: BagOutput, target: int) -> Tensor:
        """Return the loss of the labelled tiles, summed over the classes' classifiers."""
        assert output.instance_logits is not None
        order = output.attention.detach().argsort(descending=True)
        count = min(SAMPLED, max(1, len(order) // 2))
        most = output.instance_logits[order[:count]]
        least = output.instance_logits[order[count:][-count:]]
        own = torch.cat([most[:, target], least[:, target]])
        labels = torch.arange(len(own), device=own.device) < count
        total = smooth_svm(own, labels.long())
        for other in range(self.classes):
            if other != target:
                total = total + smooth_svm(most[:, other], torch.zeros_like(labels[:count]).long())
        return total


def smooth_svm(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean smooth top-1 SVM loss of (n, K) scores, margin and temperature one."""
    margins = 1 - one_hot(targets, scores.shape[1])
    return cross_entropy(scores + margins, targets)


class Dsmil(Aggregator):
    """Two streams: the likeliest tile of each class, and every tile by its likeness to that one.

    A class's attention is ``softmax(q · q*)``; ``q*`` is the query of its highest-scored tile.

    As in the published code, inner products are divided by the square root of the query's width,
    values are the embedded tiles themselves, and a slide's logits are the mean of both streams. The
    attention returned is that of the class that both streams find likeliest.

    Source: Li, Li and Eliceiri, "Dual-stream Multiple Instance Learning Network for Whole Slide
    Image Classification with Self-supervised Contrastive Learning", CVPR 2021.
    """

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(width, classes, hidden, dropout)
        self.score = nn.Linear(hidden, classes)
        self.query = nn.Linear(hidden, ATTENTION_WIDTH)
        self.classify = nn.Linear(classes * hidden, classes)

    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""
        tiles: Tensor = self.score(embedded)
        critical = tiles.argmax(0)
        attention = self.attend(embedded, critical)
        logits = (self.by_likeness(attention, embedded) + tiles.amax(0)) / 2
        return BagOutput(logits, attention[int(logits.argmax())], tiles)

    def attend(self, embedded: Tensor, critical: Tensor) -> Tensor:
        """Return each class's attention (C, N); ``critical`` (C,) are the classes' best tiles."""
        queries: Tensor = self.query(embedded)
        return torch.softmax(queries[critical] @ queries.T / math.sqrt(queries.shape[1]), dim=1)

    def by_likeness(self, attention: Tensor, embedded: Tensor) -> Tensor:
        """Return the second stream's logits (C,)."""
        logits: Tensor = self.classify((attention @ embedded).flatten())
        return logits

    def loss(self, output: BagOutput, target: Tensor, criterion: Criterion) -> Tensor:
        """Return the mean of the losses of both streams."""
        assert output.instance_logits is not None
        best_tiles = output.instance_logits.amax(0)
        likeness = 2 * output.logits - best_tiles
        losses = [criterion(stream[None], target[None]) for stream in (best_tiles, likeness)]
        return (losses[0] + losses[1]) / 2
