"""A transformer over the tiles, whose attention costs no more than their number.

Sources: Shao et al., "TransMIL: Transformer based Correlated Multiple Instance Learning for Whole
Slide Image Classification", NeurIPS 2021; Xiong et al., "Nyströmformer: A Nyström-Based Algorithm
for Approximating Self-Attention", AAAI 2021.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_pipeline.errors import LearnError
from wsi_pipeline.learn.aggregators import Aggregator, BagOutput

HEADS: Final = 8
INVERSE_STEPS: Final = 6
PYRAMID: Final = (7, 5, 3)  # kernel sides of the positional encoding


class TransMil(Aggregator):
    """A class token looks at the embedded tiles, laid out as a square in their order.

    Two layers of Nyström attention with a convolutional positional encoding between them
    (algorithm 2). The values' own convolution, which the published code adds to the attention, is
    left out: neither paper's equations have it. The attention returned is that of the class token
    in the last layer, averaged over heads; the approximation may make single weights negative, and
    those count as none.
    """

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(width, classes, hidden, dropout)
        if hidden % HEADS:
            raise LearnError(f"transmil: the hidden width {hidden} is no multiple of {HEADS}")
        self.token = nn.Parameter(torch.randn(1, hidden) * 0.02)
        self.first, self.second = (NystromLayer(hidden, dropout) for _ in "12")
        self.position = PyramidEncoding(hidden)
        self.norm = nn.LayerNorm(hidden)
        self.classify = nn.Linear(hidden, classes)

    def pool(self, embedded: Tensor) -> BagOutput:
        """Score one bag of embedded tiles, (N, H)."""
        count = len(embedded)
        side = _side(count)
        filled = embedded.repeat(-(-(side * side) // count), 1)[: side * side]
        tokens, _ = self.first(torch.cat([self.token, filled]))
        tokens = torch.cat([tokens[:1], self.position(tokens[1:], side)])
        tokens, attention = self.second(tokens)
        own = attention[1 : count + 1].clamp_min(0) + 1e-12
        return BagOutput(self.classify(self.norm(tokens[0])), own / own.sum())


class NystromLayer(nn.Module):
    """Self-attention through landmarks, added to what comes in (equation 5 of TransMIL)."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.landmarks = hidden // 2
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, 3 * hidden, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (T, H) tokens, and the first one's attention to each, (T,)."""
        count = len(tokens)
        empty = -count % self.landmarks  # whole groups; what fills them stands in front
        filled = functional.pad(self.norm(tokens), (0, 0, empty, 0))
        query, key, value = (
            part.unflatten(1, (HEADS, -1)).transpose(0, 1)  # (heads, T, H / heads)
            for part in self.project(filled).chunk(3, dim=1)
        )
        query = query * query.shape[2] ** -0.5
        few_queries, few_keys = (
            each.unflatten(1, (self.landmarks, -1)).mean(2) for each in (query, key)
        )
        to_few = (query @ few_keys.mT).softmax(2)
        among = (few_queries @ few_keys.mT).softmax(2)
        from_few = (few_queries @ key.mT).softmax(2)
        weights = to_few @ inverse(among)
        mixed = (weights @ (from_few @ value)).transpose(0, 1).flatten(1)
        first = (weights[:, empty : empty + 1] @ from_few)[:, 0].mean(0)
        return tokens + self.drop(mixed[empty:]), first[empty:]


class PyramidEncoding(nn.Module):
    """What lies around a tile on the square tells it where it is (PPEG, figure 3)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.convolve = nn.ModuleList(
            nn.Conv2d(hidden, hidden, side, padding=side // 2, groups=hidden) for side in PYRAMID
        )

    def forward(self, tiles: Tensor, side: int) -> Tensor:
        """Add to (side², H) tiles, row by row, what the convolutions make of them."""
        square = tiles.T.reshape(1, -1, side, side)
        largest = max(PYRAMID)  # one pass: smaller kernels stand in the middle of the largest
        kernels = [functional.pad(c.weight, [(largest - c.kernel_size[0]) // 2] * 4)
                   for c in self.layers()]  # fmt: skip
        bias = torch.stack([c.bias for c in self.layers() if c.bias is not None]).sum(0)
        summed = functional.conv2d(
            square, torch.stack(kernels).sum(0), bias, padding=largest // 2, groups=len(bias)
        )
        total: Tensor = square + summed
        return total[0].flatten(1).T

    def layers(self) -> list[nn.Conv2d]:
        """Return the convolutions, the largest first."""
        return [each for each in self.convolve if isinstance(each, nn.Conv2d)]


def inverse(matrices: Tensor, steps: int = INVERSE_STEPS) -> Tensor:
    """Approximate the Moore-Penrose inverse of (heads, m, m) matrices, rows summing to one.

    Source: equation 13 of the Nyströmformer, after Razavi et al., 2014.
    """
    one = torch.eye(matrices.shape[2], dtype=matrices.dtype, device=matrices.device)
    columns, rows = matrices.abs().sum(2).max(), matrices.abs().sum(1).max()
    found = matrices.mT / (columns * rows)
    thirteenth = (13 / 4 * one).expand_as(found)
    for _ in range(steps):  # sums and factors ride with the products: nothing else passes memory
        product = matrices @ found
        inner = torch.baddbmm(torch.sub(15 * one, product, alpha=7), product, product)
        found = found @ torch.baddbmm(thirteenth, product, inner, alpha=-1 / 4)
    return found


def _side(count: int) -> int:
    """Side of the smallest square with room for ``count`` tiles."""
    side = int(count**0.5)
    return side if side * side >= count else side + 1
