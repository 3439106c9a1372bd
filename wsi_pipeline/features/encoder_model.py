"""A network with what must be known to use it; cheap to import."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The way from uint8 tiles to the encoder's input.

    Attributes:
        mean: Subtracted from pixels scaled to [0, 1], one value a channel (RGB).
        std: Divides what is left.
        input_px: Side the tiles are resized to; None feeds them as they are, which convolutional
            networks take at any size. Transformers with fixed position embeddings need their own.
        interpolation: ``bicubic`` or ``bilinear``, antialiased; used only with ``input_px``.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_px: int | None = None
    interpolation: str = "bicubic"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True, kw_only=True)
class EncoderModel:
    """What a factory of encoders returns.

    Attributes:
        model: Takes (B, 3, H, W) float32 and returns (B, D), in eval mode.
        preprocess: How tiles become its input.
        tag: Names network and weights; another tag is another encoder.
        provenance: Anything worth recording, JSON-ready.
    """

    model: nn.Module
    preprocess: Preprocess
    tag: str
    provenance: dict[str, Any] = field(default_factory=dict)
