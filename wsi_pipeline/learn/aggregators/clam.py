"""Gated attention whose tiles are also classified: CLAM with a single attention branch.

Source: Lu et al., "Data-efficient and weakly supervised computational pathology on whole-slide
images", Nature Biomedical Engineering 2021; the tiles' loss is the smooth top-1 SVM of Berrada,
Zisserman and Kumar, ICLR 2018.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from wsi_pipeline.learn.aggregators.abmil import GatedAbmil
from wsi_pipeline.learn.aggregators.base import BagOutput, Criterion

SAMPLED: Final = 8  # tiles of most and of least attention that get a label
BAG_SHARE: Final = 0.7  # of the loss; the tiles have the rest


class ClamSb(GatedAbmil):
    """Gated ABMIL; each class has a binary tile classifier of its own.

    The tiles of most attention count as tiles of the bag's class and of no other class, those of
    least attention as tiles without it. Bags with fewer than 16 tiles lend half of them to either
    side; the only tile of a bag has most attention.
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
