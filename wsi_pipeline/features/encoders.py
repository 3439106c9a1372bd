"""Encoders by name: every timm model, and those registered here or named ``module:function``."""

import copy
import difflib
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from typing import Final, cast

import torch
from torch import nn

from wsi_pipeline.errors import ConfigError, UnknownEncoderError
from wsi_pipeline.features.encoder import (
    Encoder,
    EncoderModel,
    Kernels,
    Preprocess,
    Runtime,
    choose_device,
    choose_precision,
)
from wsi_pipeline.features.inference import TOLERANCE, fold_batch_norms, relative_difference
from wsi_pipeline.features.weights import build_model, find_weights, import_timm
from wsi_pipeline.registry import import_named

DEFAULT: Final = "densenet121"


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

    if name in _REGISTERED or _imported(name) is not None:
        return build_encoder(name, weights).tag
    _require_known(name)
    return _tag(name, find_weights(name, weights).tag)


def _from_timm(name: str, weights: str) -> EncoderModel:

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
    try:
        return cast("EncoderFactory", import_named("encoder", name))
    except ConfigError as error:
        raise UnknownEncoderError(str(error)) from error


def _for_inference(model: nn.Module, preprocess: Preprocess) -> nn.Module:
    """Freeze, lay out channels last, and fold batch norms where that changes nothing."""

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
