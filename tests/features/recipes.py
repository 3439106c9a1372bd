"""How each published encoder is fed and read, written from its card and apart from our table.

``python tests/features/recipes.py`` prints the table of docs/encoders.md: each encoder with the
distance between its card's way and ours; ``--states FILE`` writes the state dicts' digests.
"""

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from wsi_pipeline.features.encoder import Encoder, EncoderModel, Runtime
from wsi_pipeline.features.networks import build_network, pooled, preprocess_of
from wsi_pipeline.features.published import PUBLISHED, PublishedEncoder
from wsi_pipeline.features.weights import import_timm

timm = import_timm()  # before torchvision: it declares what a build for another torch lacks
from timm.layers import SwiGLUPacked  # noqa: E402
from torchvision import transforms as T  # noqa: E402, N812
from torchvision.transforms import v2  # noqa: E402

BICUBIC = T.InterpolationMode.BICUBIC
IMAGENET = T.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
OPTIMUS = T.Normalize(mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517))
LUNIT = T.Normalize(
    mean=(0.70322989, 0.53606487, 0.66096631), std=(0.21716536, 0.26081574, 0.20723464)
)
CLIP = T.Normalize(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)
HALF = T.Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
STATES = Path(__file__).with_name("state_dicts.json")

Transform = Callable[[Image.Image], torch.Tensor]
Read = Callable[[Any, torch.Tensor], torch.Tensor]


def cropped(resize: int, crop: int, norm: Transform, how: Any = BICUBIC) -> Transform:
    """Resize, crop and normalise a Pillow image."""
    return T.Compose([T.Resize(resize, how), T.CenterCrop(crop), T.ToTensor(), norm])


def plain(norm: Transform, *before: Transform) -> Transform:
    """Normalise a Pillow image after what comes ``before``."""
    return T.Compose([*before, T.ToTensor(), norm])


def processed(name: str, **how: Any) -> Transform:
    """Let one of transformers' image processors, on Pillow, do it."""
    import transformers.models.bit.image_processing_pil_bit as bit
    import transformers.models.clip.image_processing_pil_clip as clip
    import transformers.models.vit.image_processing_pil_vit as vit

    classes = {"bit": bit.BitImageProcessorPil, "clip": clip.CLIPImageProcessorPil,
               "vit": vit.ViTImageProcessorPil}  # fmt: skip
    processor = classes[name](**how)
    return lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0]


KAIKO = v2.Compose(
    [v2.ToImage(), v2.Resize(size=224), v2.CenterCrop(size=224),
     v2.ToDtype(torch.float32, scale=True),
     v2.Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))]
)  # fmt: skip


def whole(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixels)


def first(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixels)[:, 0]


def hidden_first(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=pixels).last_hidden_state[:, 0, :]


def pooler(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=pixels).pooler_output


def midnight(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    tokens = model(pixels).last_hidden_state
    return torch.cat([tokens[:, 0, :], tokens[:, 1:, :].mean(1)], dim=-1)


def paige(skipped: int) -> Read:
    def read(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        tokens = model(pixels)
        return torch.cat([tokens[:, 0], tokens[:, skipped:].mean(1)], dim=-1)

    return read


def vit(name: str, **how: Any) -> Callable[..., nn.Module]:
    """Build timm's model with a card's arguments, and ``depth`` as told."""
    return lambda **changes: timm.create_model(name, **how, **changes)


def hugging(name: str, **config: Any) -> Callable[..., nn.Module]:
    """Build one of transformers' models with a card's configuration."""

    def build(**changes: Any) -> nn.Module:
        import transformers

        made = getattr(transformers, name)
        how = {"add_pooling_layer": False} if name == "ViTModel" else {}
        return made(made.config_class(**config, **changes), **how)

    return build


DEEP, LAYERS = {"depth": 1}, {"num_hidden_layers": 1}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A card: how its model is built, what it is fed, and what is read from it.

    Attributes:
        transform: Pillow image → (3, h, w) float32.
        build: Takes ``shallow`` and returns the network.
        read: Network and batch → (B, D).
        shallow: What makes it small enough to run here; the rest is as published.
    """

    transform: Callable[[], Transform]
    build: Callable[..., nn.Module]
    read: Read = whole
    shallow: dict[str, Any] = field(default_factory=lambda: DEEP)


def imagenet(name: str, norm: Transform = IMAGENET, **shallow: Any) -> Recipe:
    build = vit(name, num_classes=0)
    return Recipe(transform=lambda: plain(norm), build=build, shallow=shallow)


def kaiko(name: str, **how: Any) -> Recipe:
    build = vit(name, num_classes=0, dynamic_img_size=True, **how)
    return Recipe(transform=lambda: KAIKO, build=build)


def lunit(name: str) -> Recipe:
    return Recipe(transform=lambda: cropped(224, 224, LUNIT), build=vit(name, num_classes=0))


SWIGLU: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
OPENAI_SIZES = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
BIT: dict[str, Any] = {**OPENAI_SIZES, "resample": 3, "do_center_crop": True}
HIBOU: dict[str, Any] = {
    **BIT, "image_mean": [0.7068, 0.5755, 0.722], "image_std": [0.195, 0.2316, 0.1816],
}  # fmt: skip
IMAGENET_LISTS: dict[str, Any] = {
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip
OPTIMUS_RECIPE = Recipe(
    # the card feeds tiles of 224 px as they are; those of other sizes are resized by our own rule
    transform=lambda: plain(OPTIMUS, T.Resize(224, BICUBIC)),
    build=vit("vit_giant_patch14_reg4_dinov2", img_size=224, init_values=1e-5, num_classes=0,
              dynamic_img_size=False),
)  # fmt: skip


class Stem(nn.Module):
    """CTransPath's first layers, as its authors' ctran.py describes them.

    Twice a convolution of 3 × 3 by steps of two, without bias, normalised over the batch and cut at
    zero, the second twice as wide as the first; then a product at each place, and a norm over what
    it gives.
    """

    def __init__(self, *, embed_dim: int, norm_layer: Any, **_: Any) -> None:
        super().__init__()
        self.grid_size, self.num_patches = (56, 56), 56 * 56
        layers: list[nn.Module] = []
        wide = [3, embed_dim // 8, embed_dim // 4]
        for seen, made in itertools.pairwise(wide):
            layers += [
                nn.Conv2d(seen, made, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(made), nn.ReLU(inplace=True),
            ]  # fmt: skip
        self.proj = nn.Sequential(*layers, nn.Conv2d(wide[-1], embed_dim, kernel_size=1))
        self.norm = norm_layer(embed_dim)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.proj(pixels).flatten(2).transpose(1, 2)  # as the authors' Swin took them
        return self.norm(tokens).unflatten(1, self.grid_size)  # as today's takes them


def ctranspath(**changes: Any) -> nn.Module:
    return timm.create_model(
        "swin_tiny_patch4_window7_224", embed_layer=Stem, num_classes=0, **changes
    )


CTRANSPATH = Recipe(
    transform=lambda: plain(IMAGENET, T.Resize(224)), build=ctranspath,
    shallow={"depths": (1, 1, 1, 1)},
)  # fmt: skip


class Trunk(nn.Module):
    """Lunit's ResNet-50: torchvision's without its head, which gives a map; its mean is taken."""

    def __init__(self, layers: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        from torchvision.models.resnet import Bottleneck, ResNet

        for name, part in ResNet(Bottleneck, list(layers)).named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, part)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        for part in self.children():
            pixels = part(pixels)
        return pixels.mean(dim=(2, 3))


LUNIT_RESNET = Recipe(
    transform=lambda: cropped(224, 224, LUNIT), build=Trunk,
    shallow={"layers": (1, 1, 1, 1)},
)  # fmt: skip


class Queried(nn.Module):
    """CONCH v1.5's pooling: one query looks at all tokens with eight pairs of eyes.

    Query and tokens are each normalised; keys and values come from one product, the keys first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 768))
        self.ln_k, self.ln_q = nn.LayerNorm(1024), nn.LayerNorm(768)
        self.to_q = nn.Linear(768, 768, bias=False)
        self.to_kv = nn.Linear(1024, 1536, bias=False)
        self.to_out = nn.Linear(768, 768, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        asked = self.to_q(self.ln_q(self.query[0]))
        keys, values = self.to_kv(self.ln_k(tokens)).split(768, dim=2)
        seen = []
        for first in range(0, 768, 96):
            part = slice(first, first + 96)
            weight = torch.softmax(keys[..., part] @ asked[part] / 96**0.5, dim=1)
            seen.append((weight[..., None] * values[..., part]).sum(1))
        return self.to_out(torch.cat(seen, dim=1))


class ConchV15Card(nn.Module):
    """TITAN's conch_v1_5: a ViT-L of 224 px that is shown 448, its places stretched as it runs."""

    def __init__(self, depth: int = 24) -> None:
        super().__init__()
        self.trunk = timm.create_model(
            "vit_large_patch16_224", init_values=1e-6, num_classes=0, depth=depth
        )
        self.attn_pool_contrast = Queried()
        self.ln_contrast = nn.LayerNorm(768)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        trunk, places = self.trunk, self.trunk.pos_embed
        patches = trunk.patch_embed.proj(pixels)
        side = patches.shape[-1] + 0.1  # as DINO's code has it, lest a rounding lose a token
        grid = places[0, 1:].T.reshape(1, 1024, 14, 14)
        grid = nn.functional.interpolate(grid, scale_factor=(side / 14, side / 14), mode="bicubic")
        first = (trunk.cls_token + places[:, :1]).expand(len(pixels), -1, -1)
        tokens = torch.cat([first, (patches + grid).flatten(2).transpose(1, 2)], dim=1)
        for block in trunk.blocks:
            tokens = block(tokens)
        return self.ln_contrast(self.attn_pool_contrast(trunk.norm(tokens)))


RECIPES: dict[str, Recipe] = {
    "densenet121": imagenet("densenet121"),
    "resnet50": imagenet("resnet50"),
    "resnet101": imagenet("resnet101", layers=(1, 1, 1, 1)),
    "resnet152": imagenet("resnet152", layers=(1, 1, 1, 1)),
    "vgg16": imagenet("vgg16", mlp_ratio=0.05),
    "tf_efficientnet_lite0": imagenet("tf_efficientnet_lite0", HALF),
    "ctranspath": CTRANSPATH,
    "chief-ctranspath": CTRANSPATH,
    "phikon": Recipe(
        transform=lambda: processed("vit", size={"height": 224, "width": 224}, resample=2,
                                    **IMAGENET_LISTS),
        build=hugging("ViTModel", hidden_size=768, num_attention_heads=12, patch_size=16,
                      layer_norm_eps=1e-6),
        read=hidden_first, shallow=LAYERS,
    ),
    "phikon-v2": Recipe(
        transform=lambda: processed("bit", **BIT, **IMAGENET_LISTS),
        build=hugging("Dinov2Model", hidden_size=1024, num_attention_heads=16, patch_size=16,
                      image_size=224),
        read=hidden_first, shallow=LAYERS,
    ),
    "uni": Recipe(
        transform=lambda: plain(IMAGENET, T.Resize(224)),
        build=vit("vit_large_patch16_224", img_size=224, patch_size=16, init_values=1e-5,
                  num_classes=0, dynamic_img_size=True),
    ),
    "uni2-h": Recipe(
        transform=lambda: cropped(224, 224, IMAGENET, T.InterpolationMode.BILINEAR),
        build=vit("vit_giant_patch14_224", img_size=224, patch_size=14, num_heads=24,
                  init_values=1e-5, embed_dim=1536, mlp_ratio=2.66667 * 2, num_classes=0,
                  no_embed_class=True, reg_tokens=8, dynamic_img_size=True, **SWIGLU),
    ),
    "conch-v15": Recipe(
        transform=lambda: cropped(448, 448, IMAGENET, T.InterpolationMode.BILINEAR),
        build=ConchV15Card,
    ),
    "virchow": Recipe(
        transform=lambda: cropped(224, 224, IMAGENET),
        build=vit("vit_huge_patch14_224", img_size=224, init_values=1e-5, num_classes=0,
                  mlp_ratio=5.3375, global_pool="", dynamic_img_size=True, **SWIGLU),
        read=paige(1),
    ),
    "virchow2": Recipe(
        transform=lambda: cropped(224, 224, IMAGENET),
        build=vit("vit_huge_patch14_224", img_size=224, init_values=1e-5, num_classes=0,
                  reg_tokens=4, mlp_ratio=5.3375, global_pool="", dynamic_img_size=True, **SWIGLU),
        read=paige(5),
    ),
    "prov-gigapath": Recipe(
        transform=lambda: cropped(256, 224, IMAGENET),
        build=vit("vit_giant_patch14_dinov2", img_size=224, in_chans=3, patch_size=16,
                  embed_dim=1536, num_heads=24, init_values=1e-5, mlp_ratio=5.33334, num_classes=0),
    ),
    "h-optimus-0": OPTIMUS_RECIPE,
    "h-optimus-1": OPTIMUS_RECIPE,
    "h0-mini": Recipe(
        transform=lambda: cropped(224, 224, OPTIMUS),
        build=vit("vit_base_patch14_reg4_dinov2", img_size=224, init_values=1e-5, num_classes=0,
                  mlp_ratio=5.33334, global_pool="", dynamic_img_size=True, **SWIGLU),
        read=first,
    ),
    "hibou-b": Recipe(
        transform=lambda: processed("bit", **HIBOU),
        build=hugging("Dinov2WithRegistersModel", hidden_size=768, num_attention_heads=12,
                      patch_size=14, image_size=224, num_register_tokens=4, use_swiglu_ffn=True),
        read=pooler, shallow=LAYERS,
    ),
    "hibou-l": Recipe(
        transform=lambda: processed("bit", **HIBOU),
        build=hugging("Dinov2WithRegistersModel", hidden_size=1024, num_attention_heads=16,
                      patch_size=14, image_size=224, num_register_tokens=4, use_swiglu_ffn=True),
        read=pooler, shallow=LAYERS,
    ),
    "midnight": Recipe(
        transform=lambda: cropped(224, 224, HALF, T.InterpolationMode.BILINEAR),
        build=hugging("Dinov2Model", hidden_size=1536, num_attention_heads=24, patch_size=14,
                      image_size=224, use_swiglu_ffn=True),
        read=midnight, shallow=LAYERS,
    ),
    "gpfm": Recipe(
        transform=lambda: plain(IMAGENET, T.Resize(224)),
        build=vit("vit_large_patch14_dinov2", img_size=224, patch_size=14, init_values=1e-5,
                  qkv_bias=True, num_classes=0, dynamic_img_size=True),
    ),
    "lunit-rn50-bt": LUNIT_RESNET,
    "lunit-rn50-mocov2": LUNIT_RESNET,
    "lunit-rn50-swav": LUNIT_RESNET,
    "lunit-vits8": lunit("vit_small_patch8_224"),
    "lunit-vits16": lunit("vit_small_patch16_224"),
    "kaiko-vits8": kaiko("vit_small_patch8_224"),
    "kaiko-vits16": kaiko("vit_small_patch16_224"),
    "kaiko-vitb8": kaiko("vit_base_patch8_224"),
    "kaiko-vitb16": kaiko("vit_base_patch16_224"),
    "kaiko-vitl14": kaiko("vit_large_patch14_reg4_dinov2", img_size=518),
    "plip": Recipe(
        transform=lambda: processed("clip", **OPENAI_SIZES, resample=3,
                                    image_mean=[0.48145466, 0.4578275, 0.40821073],
                                    image_std=[0.26862954, 0.26130258, 0.27577711]),
        build=hugging("CLIPVisionModelWithProjection", hidden_size=768, num_attention_heads=12,
                      intermediate_size=3072, patch_size=32, projection_dim=512),
        read=lambda model, pixels: model.visual_projection(
            model.vision_model(pixel_values=pixels).pooler_output),
        shallow=LAYERS,
    ),
}  # fmt: skip

PACKAGED: dict[str, Callable[[], Transform]] = {
    "conch": lambda: T.Compose(
        [T.Resize(448, BICUBIC), T.CenterCrop(448), lambda image: image.convert("RGB"),
         T.ToTensor(), CLIP]
    ),
    "musk": lambda: T.Compose(
        [T.Resize(384, interpolation=3, antialias=True), T.CenterCrop((384, 384)), T.ToTensor(),
         HALF]
    ),
}  # fmt: skip
"""Those whose networks come with their publishers' packages: pixels alone are held against."""


def tiles_of(side: int, count: int = 2, seed: int = 0) -> np.ndarray:
    """Return noise, and a picture with hard edges and flat white: both hard for a resizer."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    edges = np.full((side, side, 3), 255, np.uint8)
    edges[side // 3 :, : side // 2] = (190, 90, 160)
    edges[:: max(side // 9, 2)] = (60, 20, 90)
    return np.stack([noise, edges])[:count]


def plant(network: nn.Module, seed: int = 0) -> None:
    """Give every parameter and statistic a seeded value that its part of the output shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            if value.is_floating_point():
                scale = 1 / max(value[0].numel(), 1) ** 0.5 if value.ndim > 1 else 0.5
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.abs_().add_(0.5)


@dataclass(frozen=True, kw_only=True)
class Distance:
    """The largest difference between a card's way and ours: normalised pixels, and features.

    ``features`` is relative to the largest feature; None where the network is not to be had.
    """

    pixels: float
    features: float | None
    width: int | None


def shown(entry: PublishedEncoder, tiles: np.ndarray, network: nn.Module) -> Encoder:
    """Return our encoder around ``network``."""
    preprocess = preprocess_of(entry)
    if entry.of_timm:  # without its weights, timm's own way decides
        preprocess = replace(preprocess, input_px=None)
    built = EncoderModel(model=network, preprocess=preprocess, tag=entry.name)
    runtime = Runtime(device=torch.device("cpu"), batch_size=len(tiles))
    return Encoder(entry.name, built, runtime)


class Seen(nn.Module):
    """Returns the pixels that reach the network."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)


def pixel_distance(entry: PublishedEncoder, transform: Transform, tiles: np.ndarray) -> float:
    """Return the largest difference of a normalised pixel."""
    expected = torch.stack([transform(Image.fromarray(tile)) for tile in tiles])
    found = torch.from_numpy(shown(entry, tiles, Seen()).encode(tiles)).reshape(expected.shape)
    return float((found - expected).abs().max())


def epsilons(network: nn.Module) -> list[float]:
    """Return what the norms add before they divide: too little to show in planted features."""
    return [
        module.eps for module in network.modules() if isinstance(getattr(module, "eps", 0), float)
    ]


MEASURED: dict[Any, Distance] = {}


def measure(name: str) -> Distance:
    """Hold one published encoder against its card; those that differ in weights alone, once."""
    entry = PUBLISHED[name]
    if name in PACKAGED:
        return _measure(name)
    facts = (entry.kind, entry.architecture, str(entry.arguments), entry.pooling, entry.of_timm)
    key = (id(RECIPES[name]), facts, preprocess_of(entry))
    if key not in MEASURED:
        MEASURED[key] = _measure(name)
    return MEASURED[key]


def _measure(name: str) -> Distance:
    """Measure on tiles of 256 px; of 128 where nothing is resized and no map has a fixed size."""
    entry = PUBLISHED[name]
    tiles = tiles_of(128 if entry.of_timm and name != "vgg16" else 256)
    if name in PACKAGED:
        apart = pixel_distance(entry, PACKAGED[name](), tiles)
        return Distance(pixels=apart, features=None, width=None)
    recipe = RECIPES[name]
    transform = recipe.transform()
    card = recipe.build(**recipe.shallow).eval()
    plant(card)
    if entry.of_timm:
        network = card  # the very same class: there is one timm
    else:
        network = build_network(entry, **recipe.shallow).eval()
        network.load_state_dict(card.state_dict())
        assert epsilons(network) == epsilons(card)
    encoder = shown(entry, tiles, pooled(network, entry.pooling, name).eval())
    found = torch.from_numpy(encoder.encode(tiles))
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.fromarray(tile)) for tile in tiles])
        expected = recipe.read(card, pixels)
    assert found.shape == expected.shape
    apart = float((found - expected).abs().max() / expected.abs().max())
    return Distance(
        pixels=pixel_distance(entry, transform, tiles), features=apart, width=found.shape[1]
    )


def state_of(entry: PublishedEncoder) -> dict[str, Any]:
    """Return count, size and digest of the names and shapes of a full network's tensors."""
    with torch.device("meta"):
        state = build_network(entry, **({"num_classes": 0} if entry.of_timm else {})).state_dict()
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in state.items())
    return {
        "tensors": len(lines),
        "values": sum(value.numel() for value in state.values()),
        "digest": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32],
    }


def table() -> str:
    """Return the table of published encoders with each one's distance, in Markdown."""
    lines = [
        "| Encoder | Input px | Pooling | Width | Weights | Licence | Pixels | Features |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in PUBLISHED.items():
        found = measure(name)
        apart = "package" if found.features is None else f"{found.features:.0e}"
        where = entry.hub or ("timm" if entry.of_timm else "by hand")
        gate = ", gated" if entry.gated else ""
        side = f"{entry.resize_px} → {entry.input_px}" if entry.input_px else "as cut"
        lines.append(
            f"| `{name}` | {side} | {entry.pooling} | {entry.width} | {where}{gate} | "
            f"{entry.licence} | {found.pixels:.0e} | {apart} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=Path)
    path = parser.parse_args().states
    if path:
        found = {n: state_of(e) for n, e in PUBLISHED.items() if not e.install}
        path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        return 0
    sys.stdout.write(table() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
