"""Attention-based multiple instance learning.

Source: Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018.
"""

from typing import Final

from torch import Tensor, nn

from wsi_pipeline.learn.aggregators.base import Aggregator, BagOutput

ATTENTION_WIDTH: Final = 128


class Abmil(Aggregator):
    """A bag is the attention-weighted mean of its embedded tiles (equations 7 and 8).

    ``a = softmax(w · tanh(V h))``, and ``z = Σ a h`` is classified.
    """

    def __init__(self, width: int, classes: int, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(width, classes, hidden, dropout)
        self.attention_v = nn.Linear(hidden, ATTENTION_WIDTH)
        self.attention_w = nn.Linear(ATTENTION_WIDTH, 1)
        self.classify = nn.Linear(hidden, classes)

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
