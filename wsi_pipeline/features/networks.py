"""Networks of published encoders: built from the table, filled with their weights, pooled.

Weights are loaded strictly: a tensor that is missing, left over or of another shape is a refusal.
"""

import importlib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from wsi_pipeline.errors import EncoderError
from wsi_pipeline.features.encoder import Preprocess, see
from wsi_pipeline.features.published import PublishedEncoder
from wsi_pipeline.features.weights import SEED, Weights, import_timm, read_state

TOLERANCE: Final = 1e-5  # of a normalised pixel, between the publisher's transform and ours
HEADS: Final = ("head.", "fc.", "text_model.", "text_projection.", "logit_scale", "dino_head.")
HEAD_FILES: Final = "position_ids"  # a buffer that older transformers wrote


def preprocess_of(entry: PublishedEncoder) -> Preprocess:
    """Return how tiles reach a published encoder."""
    return Preprocess(
        mean=entry.mean, std=entry.std, input_px=entry.input_px, resize_px=entry.resize_px,
        interpolation=entry.interpolation, resampling=entry.resampling,
    )  # fmt: skip


def build_network(entry: PublishedEncoder, **changes: Any) -> nn.Module:
    """Build a published encoder's network, with random weights and without its pooling.

    Args:
        entry: Of timm's or transformers' classes, or of one here.
        changes: Arguments that differ from the entry's, such as a smaller depth.

    Raises:
        EncoderError: The package that builds it is not installed, or the entry has its own.
    """
    if entry.kind == "timm":
        arguments = {**entry.arguments, **changes}
        timm = import_timm()
        made: nn.Module = timm.create_model(entry.architecture, **_classes(arguments))
        return made
    if entry.install:
        raise EncoderError(
            f"encoder {entry.name!r}: its network is its publisher's own; {_bring(entry)}"
        )
    if entry.kind == "package":
        return TOWERS[entry.architecture](**{**entry.arguments, **changes})
    built: nn.Module = getattr(import_transformers(entry), entry.architecture)(
        transformers_config(entry, **changes), **_unpooled(entry)
    )
    return built


def transformers_config(entry: PublishedEncoder, **changes: Any) -> Any:
    """Return the configuration of an entry of transformers' classes."""
    made = getattr(import_transformers(entry), entry.architecture)
    return made.config_class(**{**entry.arguments, **changes})


def import_transformers(entry: PublishedEncoder) -> Any:
    """Import transformers.

    Raises:
        EncoderError: It is not installed.
    """
    import_timm()  # declares what a torchvision for another torch lacks
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise EncoderError(
            f"encoder {entry.name!r}: needs the package transformers ({error}); "
            "pip install 'wsi-pipeline[transformers]'"
        ) from error


def load_network(entry: PublishedEncoder, weights: Weights, pooling: str) -> nn.Module:
    """Build a published encoder with its weights; takes (B, 3, H, W), returns (B, D).

    Args:
        entry: What to build.
        weights: Where its weights are; without a path they follow from a seed.
        pooling: As :data:`~wsi_pipeline.features.published.POOLINGS`, or the entry's.

    Raises:
        EncoderError: The weights do not fit, or a package is missing.
    """
    if entry.install:
        return PACKAGES[entry.architecture](entry, weights).eval()
    if weights.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            network = build_network(entry)
    else:
        state = _headless(read_state(weights.path))
        fill = _from_transformers if entry.kind == "transformers" else _filled
        network = fill(entry, state, weights)
    return pooled(network, pooling, entry.name).eval()


def pooled(network: nn.Module, pooling: str, name: str) -> nn.Module:
    """Return ``network`` with its tokens made one feature; auto leaves it as it is.

    Raises:
        EncoderError: It cannot be pooled this way.
    """
    if pooling == "auto":
        return network
    if pooling == "projection":
        return Projected(network)
    if not hasattr(network, "forward_features") and not hasattr(network, "embeddings"):
        raise EncoderError(f"encoder {name!r}: --pooling {pooling}: its tokens are out of reach")
    return Pooled(network, pooling, name)


class Pooled(nn.Module):
    """A network whose tokens are pooled here.

    ``class`` is the first token, ``mean`` that of the patches' tokens, without class token and
    registers; ``class+mean`` joins both. A map (B, C, H, W) or (B, H, W, C) has only patches.
    """

    def __init__(self, body: nn.Module, pooling: str, name: str) -> None:
        super().__init__()
        self.body = body
        self.pooling = pooling
        self.name = name
        registers = getattr(getattr(body, "config", None), "num_register_tokens", 0) or 0
        self.prefix = int(getattr(body, "num_prefix_tokens", 1 + registers))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) → (B, D)."""
        tokens = self._tokens(pixels)
        first, patches = tokens[:, 0], tokens[:, self.prefix :].mean(1)
        if self.pooling == "mean":
            return patches
        return first if self.pooling == "class" else torch.cat([first, patches], dim=-1)

    def _tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        if not hasattr(self.body, "forward_features"):
            hidden: torch.Tensor = self.body(pixel_values=pixels).last_hidden_state
            return hidden
        tokens: torch.Tensor = self.body.forward_features(pixels)  # type: ignore[operator]
        if tokens.ndim == 4:
            tokens = tokens.flatten(1, 2) if self._channels_last() else tokens.flatten(2).mT
            self.prefix = 0
        elif isinstance(norm := getattr(self.body, "fc_norm", None), nn.Module):
            tokens = norm(tokens)
        if self.prefix == 0 and self.pooling != "mean":
            raise EncoderError(
                f"encoder {self.name!r}: has no class token; --pooling mean is what it can"
            )
        return tokens

    def _channels_last(self) -> bool:
        return getattr(self.body, "output_fmt", "NCHW") == "NHWC"


class Projected(nn.Module):
    """A CLIP image tower: its projected embedding, before it is scaled to length one."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) → (B, D)."""
        embedded: torch.Tensor = self.body(pixel_values=pixels).image_embeds
        return embedded


class ConvStem(nn.Module):
    """CTransPath's patch embedding: two strided convolutions and a pointwise one, by 4.

    Source: Wang et al., Medical Image Analysis 2022. Built by timm's Swin Transformer.
    """

    def __init__(
        self, img_size: int | tuple[int, int] = 224, patch_size: int = 4, in_chans: int = 3,
        embed_dim: int = 96, norm_layer: Callable[[int], nn.Module] | None = None, **_: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        size = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size, self.patch_size = size, (patch_size, patch_size)
        self.grid_size = (size[0] // patch_size, size[1] // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        narrow, wide = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, narrow, 3, 2, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU(),
            nn.Conv2d(narrow, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(),
            nn.Conv2d(wide, embed_dim, 1),
        )  # fmt: skip
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) → (B, H / 4, W / 4, D)."""
        tokens: torch.Tensor = self.norm(self.proj(pixels).permute(0, 2, 3, 1))
        return tokens


class AttentionPool(nn.Module):
    """One learned query that attends to all tokens, by several heads."""

    def __init__(self, tokens: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, width))
        self.ln_k, self.ln_q = nn.LayerNorm(tokens), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(tokens, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, C) → (B, D)."""
        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), 1, -1)
        key, value = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)
        heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                 for part in (query, key, value))  # fmt: skip
        seen = nn.functional.scaled_dot_product_attention(*heads)
        pooled: torch.Tensor = self.to_out(seen.transpose(1, 2).flatten(1))
        return pooled


class ConchV15(nn.Module):
    """CONCH v1.5's image tower: a ViT-L/16 whose tokens one query pools.

    Its file holds places of 14 × 14 tokens, and its publishers stretch them to the 28 × 28 of
    448 px whenever it runs: bicubic, not antialiased, by (28 + 0.1) / 14. Here it is done once.

    Source: Ding et al., Nature Medicine 2025 (TITAN), and the code that comes with its weights.
    """

    def __init__(self, side_px: int = 448, **changes: Any) -> None:
        super().__init__()
        self.trunk: Any = import_timm().create_model(
            "vit_large_patch16_224", img_size=side_px, init_values=1.0, num_classes=0, **changes
        )
        self.attn_pool_contrast = AttentionPool(int(self.trunk.embed_dim), 768, heads=8)
        self.ln_contrast = nn.LayerNorm(768)
        self.register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
            ConchV15._stretched
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, 448, 448) → (B, 768)."""
        tokens = self.trunk.forward_features(pixels)
        feature: torch.Tensor = self.ln_contrast(self.attn_pool_contrast(tokens))
        return feature

    def _stretched(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Put places as many as this network's tokens into the tensors of a file."""
        places = state.get(f"{prefix}trunk.pos_embed")
        side = int(self.trunk.patch_embed.grid_size[0])
        if places is None or places.shape[1] == 1 + side**2:
            return
        held = math.isqrt(places.shape[1] - 1)
        grid = places[:, 1:].unflatten(1, (held, held)).permute(0, 3, 1, 2)
        wide = nn.functional.interpolate(grid, scale_factor=(side + 0.1) / held, mode="bicubic")
        placed = torch.cat([places[:, :1], wide.flatten(2).mT], dim=1)
        state[f"{prefix}trunk.pos_embed"] = placed


TOWERS: Final[Mapping[str, Callable[..., nn.Module]]] = {"conch-v15": ConchV15}
"""Networks that no library has, and that are small enough to be here."""


def _classes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Put classes in the place of their names."""
    import_timm()
    from timm.layers import SwiGLUPacked

    known = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU, "ConvStem": ConvStem}
    return {
        name: known[value] if isinstance(value, str) and value in known else value
        for name, value in arguments.items()
    }


def _headless(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out classifiers, text towers and what training wraps around the network."""
    plain = {re.sub(r"^(teacher\.)?(backbone\.)", "", key): value for key, value in state.items()}
    return {
        key: value
        for key, value in plain.items()
        if not key.startswith(HEADS) and HEAD_FILES not in key
    }


def _filled(entry: PublishedEncoder, state: dict[str, torch.Tensor], weights: Weights) -> nn.Module:
    network = build_network(entry, **_size_of(entry, state))
    if entry.architecture.startswith("swin"):
        from timm.models.swin_transformer import checkpoint_filter_fn

        state = checkpoint_filter_fn(state, network)
    if "mask_token" not in network.state_dict():
        state.pop("mask_token", None)  # of training by masked patches
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise _misfit(entry, weights, str(error)) from error
    return network


def _size_of(entry: PublishedEncoder, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Read from the position embeddings for which input the weights are; timm adapts them."""
    places = state.get("pos_embed")
    if places is None or not entry.arguments.get("dynamic_img_size"):
        return {}
    with torch.device("meta"):
        network: Any = build_network(entry)
    patches = places.shape[1] - network.pos_embed.shape[1] + network.patch_embed.num_patches
    return {"img_size": math.isqrt(patches) * int(network.patch_embed.patch_size[0])}


def _from_transformers(
    entry: PublishedEncoder, state: dict[str, torch.Tensor], weights: Weights
) -> nn.Module:
    made = getattr(import_transformers(entry), entry.architecture)
    state = {key: value for key, value in state.items() if not key.startswith("pooler.")}
    try:
        network, told = made.from_pretrained(
            None, config=transformers_config(entry), state_dict=state, output_loading_info=True,
            dtype=torch.float32, **_unpooled(entry),
        )  # fmt: skip
    except RuntimeError as error:
        raise _misfit(entry, weights, str(error)) from error
    wrong = {
        what.removesuffix("_keys"): sorted(map(str, told[what]))[:3]
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys") if told[what]
    }  # fmt: skip
    if wrong:
        raise _misfit(entry, weights, "; ".join(f"{k}: {', '.join(v)}" for k, v in wrong.items()))
    loaded: nn.Module = network
    return loaded


def _unpooled(entry: PublishedEncoder) -> dict[str, bool]:
    """Leave out the layer that transformers' ViT puts on the class token; it is not published."""
    return {"add_pooling_layer": False} if entry.architecture == "ViTModel" else {}


def _misfit(entry: PublishedEncoder, weights: Weights, reason: str) -> EncoderError:
    assert weights.path is not None
    told = " ".join(reason.split())[:400]
    return EncoderError(
        f"{weights.path.name}: these weights do not fit the encoder {entry.name!r}: {told}"
    )


def _bring(entry: PublishedEncoder) -> str:
    return f"it comes with its publisher's package: {entry.install}"


class Called(nn.Module):
    """A publisher's model, and the call that its authors advise for features."""

    def __init__(self, body: nn.Module, call: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body = body
        self.call = call

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) → (B, D)."""
        return self.call(self.body, pixels)


def _conch(entry: PublishedEncoder, weights: Weights) -> nn.Module:
    package = _package(entry, "conch.open_clip_custom")
    path = _required(entry, weights)
    model, transform = package.create_model_from_pretrained("conch_ViT-B-16", str(path))
    _require_filled(entry, model, path, ("visual.",))
    require_same_transform(entry, transform)
    return Called(model, lambda body, x: body.encode_image(x, proj_contrast=False, normalize=False))


def _musk(entry: PublishedEncoder, weights: Weights) -> nn.Module:
    utils = _package(entry, "musk.utils")
    _package(entry, "musk.modeling")  # tells timm of the model
    path = _required(entry, weights)
    model = import_timm().create_model("musk_large_patch16_384")
    utils.load_model_and_may_interpolate(str(path), model, "model|module", "")
    _require_filled(entry, model, path, ("beit3.vision_embed.", "beit3.encoder.layers."))
    how = {"with_head": False, "out_norm": False, "ms_aug": True, "return_global": True}
    return Called(model, lambda body, x: body(image=x, **how)[0])


PACKAGES: Final[Mapping[str, Callable[[PublishedEncoder, Weights], nn.Module]]] = {
    "conch": _conch, "musk": _musk,
}  # fmt: skip
"""Entry → what builds it from its publisher's package."""


def _package(entry: PublishedEncoder, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EncoderError(f"encoder {entry.name!r}: {_bring(entry)} ({error})") from error


def _require_filled(
    entry: PublishedEncoder, model: nn.Module, path: Path, parts: tuple[str, ...]
) -> None:
    """See that a file holds all tensors of some parts: publishers' loaders pass over missing ones.

    Raises:
        EncoderError: It does not.
    """
    wanted = [name for name in model.state_dict() if name.startswith(parts)]
    held = read_state(path) if wanted else {}
    missing = [name for name in wanted if name not in held]
    if missing:
        raise EncoderError(
            f"{path.name}: these weights do not fit the encoder {entry.name!r}: they lack "
            f"{len(missing)} of its {len(wanted)} tensors, such as {missing[0]}"
        )


def _required(entry: PublishedEncoder, weights: Weights) -> Path:
    if weights.path is None:
        raise EncoderError(f"encoder {entry.name!r}: has no random weights; --weights auto or FILE")
    return weights.path


def require_same_transform(entry: PublishedEncoder, transform: Callable[[Any], Any]) -> None:
    """See that the transform which comes with the weights is the entry's.

    Raises:
        EncoderError: It is another.
    """
    from PIL import Image

    side = (entry.resize_px or entry.input_px or 224) + 32
    tile = np.random.default_rng(SEED).integers(0, 256, (side, side, 3), dtype=np.uint8)
    theirs = torch.as_tensor(transform(Image.fromarray(tile)))
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (entry.mean, entry.std))
    ours = (see(torch.from_numpy(tile)[None], preprocess_of(entry))[0] / 255 - mean) / std
    apart = float((theirs - ours).abs().max()) if theirs.shape == ours.shape else float("inf")
    if not apart <= TOLERANCE:
        raise EncoderError(
            f"encoder {entry.name!r}: the transform that comes with its weights gives other pixels "
            f"than the one known here (by {apart:.2g}); it has been changed by its publisher, or "
            "the package is of another version"
        )
