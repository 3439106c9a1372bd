"""Encoders by name: every timm model, and those registered here or named ``module:function``."""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from wsi_pipeline.errors import UnknownEncoderError

if TYPE_CHECKING:  # torch takes seconds to import: only those who load an encoder pay for it
    from torch import nn

    from wsi_pipeline.features.encoder import Encoder, Kernels

DEFAULT: Final = "densenet121"


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


EncoderFactory = Callable[[str], EncoderModel]  # is given the value of --weights
_REGISTERED: dict[str, EncoderFactory] = {}


def register_encoder(name: str, factory: EncoderFactory) -> None:
    """Make ``factory`` available as ``name`` in this process.

    Worker processes start afresh: for them, name the factory ``module:function`` instead.
    """
    _REGISTERED[name] = factory


def load_encoder(
    name: str = DEFAULT,
    weights: str = "auto",
    device: str = "auto",
    *,
    precision: str = "auto",
    batch_size: int | None = None,
    kernels: Kernels = "torch",
) -> Encoder:
    """Load an encoder, ready to encode.

    Args:
        name: A timm model (``densenet121``, ``densenet121.tv_in1k``, ``hf-hub:owner/model``), a
            registered name, or ``module:function`` for a factory of your own.
        weights: ``auto`` or ``hub`` (the hub or its cache), ``package``, ``random``, or a file.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16``.
        batch_size: Tiles fed at once; None chooses by device.
        kernels: ``torch``, ``compiled`` (by ``torch.compile``) or ``openvino`` (an extra).

    Raises:
        EncoderError: The encoder is unknown, or its weights cannot be had.
    """
    from wsi_pipeline.features.encoder import (
        Encoder,
        Runtime,
        choose_device,
        choose_precision,
    )

    target = choose_device(device)
    runtime = Runtime(
        device=target, precision=choose_precision(precision, target),
        batch_size=batch_size, kernels=kernels,
    )  # fmt: skip
    built = build_encoder(name, weights)
    model = _for_inference(built.model, built.preprocess)
    return Encoder(name, replace(built, model=model), runtime)


def build_encoder(name: str, weights: str) -> EncoderModel:
    """Build the network of an encoder with its weights, as it was published.

    Raises:
        EncoderError: The encoder is unknown, or its weights cannot be had.
    """
    factory = _REGISTERED.get(name) or _imported(name)
    if factory is not None:
        return factory(weights)
    return _from_timm(name, weights)


def encoder_tag(name: str, weights: str) -> str:
    """Return the tag that :func:`load_encoder` would give, without loading the weights.

    Raises:
        EncoderError: The encoder is unknown, or its weights cannot be had.
    """
    from wsi_pipeline.features.weights import find_weights

    if name in _REGISTERED or _imported(name) is not None:
        return build_encoder(name, weights).tag
    _require_known(name)
    return _tag(name, find_weights(name, weights).tag)


def _from_timm(name: str, weights: str) -> EncoderModel:
    from wsi_pipeline.features.weights import build_model, find_weights, import_timm

    timm = import_timm()
    _require_known(name)
    found = find_weights(name, weights)
    model = build_model(name, found)
    config = timm.data.resolve_model_data_config(model)
    fixed = model.pretrained_cfg.get("fixed_input_size", False)  # type: ignore[union-attr, operator]
    preprocess = Preprocess(
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        input_px=int(config["input_size"][-1]) if fixed else None,
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )
    versions = {"timm": metadata.version("timm")}
    return EncoderModel(
        model=model, preprocess=preprocess, tag=_tag(name, found.tag),
        provenance={"weights": found.source, **versions},
    )  # fmt: skip


def _tag(name: str, weights_tag: str) -> str:
    """``densenet121`` and ``densenet121.ra_in1k`` with hub weights are the same encoder."""
    base = name.removeprefix("hf-hub:").replace("/", "_")
    if not name.startswith("hf-hub:"):
        base = base.split(".", 1)[0]
    return f"{base}.{weights_tag}"


def _require_known(name: str) -> None:
    from wsi_pipeline.features.weights import import_timm

    timm = import_timm()
    base, _, tag = name.partition(".")
    if name.startswith("hf-hub:"):
        return
    if not timm.is_model(base):
        close = difflib.get_close_matches(base, [*timm.list_models(), *_REGISTERED], n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists them"
        raise UnknownEncoderError(f"encoder {name!r}: timm has no such model; {hint}")
    known = timm.list_pretrained(f"{base}.*") if tag else []
    if tag and name not in known:
        offer = ", ".join(known) or "none"
        raise UnknownEncoderError(f"encoder {name!r}: no such weights; published are {offer}")


def _imported(name: str) -> EncoderFactory | None:
    if ":" not in name or name.startswith("hf-hub:"):
        return None
    module, _, function = name.partition(":")
    try:
        factory: EncoderFactory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownEncoderError(f"encoder {name!r}: cannot import it: {error}") from error
    return factory


def _for_inference(model: nn.Module, preprocess: Preprocess) -> nn.Module:
    """Freeze, lay out channels last, and fold batch norms where that changes nothing."""
    import torch

    from wsi_pipeline.features.inference import TOLERANCE, fold_batch_norms, relative_difference

    model.eval().requires_grad_(False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    folded = copy.deepcopy(model)
    if fold_batch_norms(folded) == 0:
        return model
    side = preprocess.input_px or 256
    probe = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = relative_difference(model(probe), folded(probe))
    return folded if difference <= TOLERANCE else model
