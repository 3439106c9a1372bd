"""Encoders by name: published ones, every timm model, registered ones, or ``module:function``."""

import copy
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Final, cast

import httpx
import torch
from torch import nn

from wsi_pipeline.errors import ConfigError, EncoderError, UnknownEncoderError
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
from wsi_pipeline.features.networks import load_network, pooled, preprocess_of
from wsi_pipeline.features.published import (
    POOLINGS,
    PUBLISHED,
    PublishedEncoder,
    find_published,
    recipe_digest,
    weights_of,
)
from wsi_pipeline.features.resample import FILTERS
from wsi_pipeline.features.weights import (
    build_model,
    find_published_weights,
    find_weights,
    import_timm,
)
from wsi_pipeline.registry import import_named

DEFAULT: Final = "densenet121"


EncoderFactory = Callable[[str], EncoderModel]  # is given the value of --weights
_REGISTERED: dict[str, EncoderFactory] = {}


def register_encoder(name: str, factory: EncoderFactory) -> None:
    """Make ``factory`` available as ``name`` in this process.

    Worker processes start afresh: for them, name the factory ``module:function`` instead.
    """
    _REGISTERED[name] = factory


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which encoder is asked for.

    Attributes:
        name: A published encoder, a timm model, ``hf-hub:owner/model``, a registered name, or
            ``module:function``.
        weights: ``auto`` or ``hub`` (the hub or its cache), ``package``, ``random``, or a file.
        pooling: ``auto`` (the publisher's or the model's own), ``class``, ``mean``, ``class+mean``.
    """

    name: str = DEFAULT
    weights: str = "auto"
    pooling: str = "auto"

    def __post_init__(self) -> None:
        if self.name.startswith("hf_hub:"):  # timm takes both spellings
            object.__setattr__(self, "name", f"hf-hub:{self.name.removeprefix('hf_hub:')}")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What tells one encoder from another before it is loaded.

    Attributes:
        tag: Names network, weights, and a pooling that is not its own.
        recipe: Digest of what is done to tiles and tokens, and of a published encoder's entry.
        weights: The hub's commit, or the file's SHA-256; empty where neither is known.
    """

    tag: str
    recipe: str
    weights: str = ""


def load_encoder(
    name: str | Asked = DEFAULT,
    weights: str = "auto",
    device: str = "auto",
    *,
    precision: str = "auto",
    batch_size: int | None = None,
    kernels: Kernels = "torch",
) -> Encoder:
    """Load an encoder, ready to encode.

    Args:
        name: A published encoder (``uni``), a timm model (``densenet121``,
            ``densenet121.tv_in1k``, ``hf-hub:owner/model``), a registered name, or
            ``module:function`` for a factory of your own. An :class:`Asked` says more.
        weights: ``auto`` or ``hub`` (the hub or its cache), ``package``, ``random``, or a file.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16``.
        batch_size: Tiles fed at once; None chooses by device.
        kernels: ``torch``, ``compiled`` (by ``torch.compile``) or ``openvino`` (an extra).

    Raises:
        EncoderError: The encoder is unknown, or its weights cannot be had.
    """
    asked = name if isinstance(name, Asked) else Asked(name=name, weights=weights)
    target, entry = choose_device(device), find_published(asked.name)
    runtime = Runtime(
        device=target,
        precision=choose_precision(precision, target, entry.precision if entry else None),
        batch_size=batch_size,
        kernels=kernels,
    )
    built = build_encoder(asked)
    model = _for_inference(built.model, built.preprocess)
    return Encoder(asked.name, replace(built, model=model), runtime)


def build_encoder(name: str | Asked, weights: str = "auto") -> EncoderModel:
    """Build the network of an encoder with its weights, as it was published.

    Raises:
        EncoderError: The encoder is unknown, or its weights cannot be had.
    """
    asked = name if isinstance(name, Asked) else Asked(name=name, weights=weights)
    factory = _factory(asked.name)
    if factory is not None:
        built = factory(asked.weights)
        return replace(built, provenance=built.provenance | _recipe(built))
    entry = find_published(asked.name)
    built = _from_timm(asked) if entry is None or entry.of_timm else _from_entry(asked, entry)
    return replace(built, provenance=built.provenance | _recipe(built, entry))


def identify(asked: Asked) -> Identity:
    """Return the tag and the recipe that :func:`load_encoder` would give, without the weights.

    Raises:
        EncoderError: The encoder is unknown, or its weights cannot be had.
    """
    if _factory(asked.name) is not None:
        built = build_encoder(asked)
        return Identity(tag=built.tag, recipe=built.provenance["recipe"])
    entry = find_published(asked.name)
    if entry is not None and not entry.of_timm:
        weights = find_published_weights(entry, asked.weights)
        preprocess, pooling = preprocess_of(entry), _pooling(asked, entry)
        tag = _tag(entry.name, weights.tag, asked.pooling if pooling != entry.pooling else "auto")
        recipe = recipe_digest(preprocess.as_dict(), pooling, entry)
        return Identity(tag=tag, recipe=recipe, weights=weights_of(weights.source))
    _require_known(asked.name)
    weights = find_weights(asked.name, asked.weights)
    preprocess = _timm_preprocess(asked.name, _config(asked.name))
    return Identity(
        tag=_tag(asked.name, weights.tag, asked.pooling),
        recipe=recipe_digest(preprocess.as_dict(), asked.pooling),
        weights=weights_of(weights.source),
    )


def encoder_tag(name: str, weights: str, pooling: str = "auto") -> str:
    """Return the tag that :func:`load_encoder` would give, without loading the weights.

    Raises:
        EncoderError: The encoder is unknown, or its weights cannot be had.
    """
    return identify(Asked(name=name, weights=weights, pooling=pooling)).tag


def _factory(name: str) -> EncoderFactory | None:
    return _REGISTERED.get(name) or _imported(name)


def _recipe(built: EncoderModel, entry: PublishedEncoder | None = None) -> dict[str, str]:
    return {"recipe": recipe_digest(built.preprocess.as_dict(), built.pooling, entry)}


def _pooling(asked: Asked, entry: PublishedEncoder) -> str:
    """Return how tokens become a feature: as asked, or as published.

    Raises:
        EncoderError: A publisher's package pools by itself.
    """
    if asked.pooling == "auto":
        return entry.pooling
    if entry.kind == "package" or entry.pooling == "projection":
        raise EncoderError(
            f"encoder {entry.name!r}: pools by itself; leave out --pooling {asked.pooling}"
        )
    return asked.pooling


def _from_entry(asked: Asked, entry: PublishedEncoder) -> EncoderModel:
    """Build a published encoder whose weights are not timm's own."""
    weights, pooling = find_published_weights(entry, asked.weights), _pooling(asked, entry)
    model = load_network(entry, weights, pooling)
    library = "transformers" if entry.kind == "transformers" else "timm"
    return EncoderModel(
        model=model,
        preprocess=preprocess_of(entry),
        tag=_tag(entry.name, weights.tag, asked.pooling if pooling != entry.pooling else "auto"),
        pooling=pooling,
        provenance={
            "weights": weights.source, "licence": entry.licence,
            library: metadata.version(library),
        },
    )  # fmt: skip


def _from_timm(asked: Asked) -> EncoderModel:
    name = asked.name
    _require_known(name)
    found = find_weights(name, asked.weights)
    _config(name)  # says in a sentence what the hub's client says in a traceback
    model = build_model(name, found)
    preprocess = _timm_preprocess(name, model.pretrained_cfg)  # type: ignore[arg-type]
    versions = {"timm": metadata.version("timm")}
    return EncoderModel(
        model=pooled(model, asked.pooling, name), preprocess=preprocess, pooling=asked.pooling,
        tag=_tag(name, found.tag, asked.pooling),
        provenance={"weights": found.source, **versions},
    )  # fmt: skip


def _config(name: str) -> dict[str, Any]:
    """Return a timm model's ``pretrained_cfg`` without building it.

    Raises:
        EncoderError: It is the hub's and cannot be had, or is none of timm's.
    """
    timm = import_timm()
    if name.startswith("hf-hub:"):
        from timm.models import load_model_config_from_hf

        hub_id = name.removeprefix("hf-hub:")
        try:
            config: dict[str, Any] = load_model_config_from_hf(hub_id)[0]
        except (OSError, ValueError, KeyError, TypeError, httpx.HTTPError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise EncoderError(
                f"encoder {name!r}: its configuration, which names network and transform, cannot "
                f"be had from https://huggingface.co/{hub_id}: {reason}. Where there is a network: "
                f"'hf download {hub_id}'; a model that is not timm's is no encoder by this name"
            ) from error
        return config
    known = timm.get_pretrained_cfg(name)
    return {} if known is None else dict(known.to_dict())


def _timm_preprocess(name: str, config: dict[str, Any]) -> Preprocess:
    """Return what timm's own transform for evaluation does, as data.

    The convolutional networks of the table see tiles as they are, at their own resolution.

    Raises:
        EncoderError: It resizes in a way that is not known here.
    """
    resolved = import_timm().data.resolve_data_config(pretrained_cfg=config)
    mean, std = tuple(resolved["mean"]), tuple(resolved["std"])
    how = str(resolved["interpolation"])
    if find_published(name) is not None:
        kept = how if how == "bilinear" else "bicubic"
        return Preprocess(mean=mean, std=std, interpolation=kept)
    side = int(resolved["input_size"][-1])
    if how not in FILTERS:
        raise EncoderError(
            f"encoder {name!r}: its transform resizes by {how!r}; known are {', '.join(FILTERS)}"
        )
    return Preprocess(
        mean=mean, std=std, input_px=side, interpolation=how, resampling="pillow",
        resize_px=math.floor(side / float(resolved["crop_pct"])),
    )  # fmt: skip


def _tag(name: str, weights_tag: str, pooling: str = "auto") -> str:
    """``densenet121`` and ``densenet121.ra_in1k`` with hub weights are the same encoder."""
    base = name.removeprefix("hf-hub:").replace("/", "_")
    if not name.startswith("hf-hub:"):
        base = base.split(".", 1)[0]
    return f"{base}.{weights_tag}" + ("" if pooling == "auto" else f"-{pooling}")


def encoder_of(tag: str) -> Asked:
    """Return the encoder, ``--weights`` and ``--pooling`` that lead to features with this tag.

    Weights from a file are the user's to name.
    """
    base, _, rest = tag.partition(".")
    pooling = next((each for each in POOLINGS[:0:-1] if rest.endswith(f"-{each}")), "auto")
    weights = rest.removesuffix(f"-{pooling}")
    if weights in ("package", "random") or weights.startswith("random-"):
        return Asked(name=base, weights=weights.partition("-")[0], pooling=pooling)
    if weights.startswith("file-") or weights == "hub":
        return Asked(name=base, pooling=pooling)
    return Asked(name=tag.removesuffix(f"-{pooling}"), pooling=pooling)


def _require_known(name: str) -> None:

    timm = import_timm()
    base, _, tag = name.partition(".")
    if name.startswith("hf-hub:"):
        return
    if not timm.is_model(base):
        known = [*PUBLISHED, *timm.list_models(), *_REGISTERED]
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists them"
        if "/" in name:
            hint = f"a model of the hub is hf-hub:{name}"
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
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model
    folded = copy.deepcopy(model)
    if fold_batch_norms(folded) == 0:
        return model
    side = preprocess.input_px or 256
    probe = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = relative_difference(model(probe), folded(probe))
    return folded if difference <= TOLERANCE else model
