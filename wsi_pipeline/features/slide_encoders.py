"""Slide encoders: a bag of stored tile features in, one vector for the slide out.

The mean needs nothing. The published ones come with their publishers' packages or with code on the
hub, which runs only if a person allows it; each takes the features of one tile encoder, and those
alone. A user's own is ``module:function`` and takes the same as :class:`SlideEncoder` gives.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from wsi_pipeline.errors import ConfigError, EncoderError
from wsi_pipeline.registry import Registry

if TYPE_CHECKING:  # --help lists the names, and waits for no torch
    import torch

Embed = Callable[["torch.Tensor", "torch.Tensor", float], "torch.Tensor"]
"""(N, D) float32 features, (N, 2) int64 level-0 coords, tile's side in level-0 px → (W,)."""
GIGAPATH_TILE_PX: Final = 256  # the grid that Prov-GigaPath's slide encoder counts places in


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What a slide encoder may use: the device, a file of weights by hand, the hub's code."""

    device: "torch.device"
    weights: Path | None = None
    remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class SlideEncoder:
    """One slide encoder.

    Attributes:
        name: As ``--slide-encoder`` takes it.
        build: Makes what embeds one slide.
        tiles: Tags' first parts of the tile encoders whose features it takes; empty takes any.
        tile_width: Of those features; None for any.
        hub: Where its weights are.
        install: What brings its package.
        licence: Of its weights.
        paper: Where it is described.
    """

    name: str
    build: Callable[["SlideEncoder", Allowed], Embed]
    tiles: tuple[str, ...] = ()
    tile_width: int | None = None
    hub: str = ""
    install: str = ""
    licence: str = ""
    paper: str = ""

    def require(self, tag: str, width: int) -> None:
        """Refuse features of another tile encoder than it was trained on.

        Raises:
            EncoderError: They are.
        """
        if self.tiles and tag.split(".", 1)[0] not in self.tiles:
            raise EncoderError(
                f"slide encoder {self.name!r} takes features of {' or '.join(self.tiles)}, not of "
                f"{tag!r}; extract with --encoder {self.tiles[0]}"
            )
        if self.tile_width not in (None, width):
            raise EncoderError(
                f"slide encoder {self.name!r} takes features {self.tile_width} wide, not {width}"
            )


def _mean(_: SlideEncoder, __: Allowed) -> Embed:
    return lambda features, _coords, _side: features.mean(dim=0)


def _from_hub(entry: SlideEncoder, allowed: Allowed) -> Any:
    """Load a model whose code is on the hub.

    Raises:
        EncoderError: Its code may not be run, or model or package cannot be had.
    """
    if not allowed.remote_code:
        raise EncoderError(
            f"slide encoder {entry.name!r}: runs its publisher's code from "
            f"https://huggingface.co/{entry.hub}; read it, then allow it with --trust-remote-code"
        )
    library = _package(entry, "transformers")
    try:
        model = library.AutoModel.from_pretrained(  # nosec B615 # a person has allowed its code
            entry.hub, trust_remote_code=True
        )
    except (OSError, ImportError, ValueError) as error:
        told = " ".join(str(error).split())[:300]
        raise EncoderError(
            f"slide encoder {entry.name!r}: {told}; ask for access at "
            f"https://huggingface.co/{entry.hub}, then 'hf auth login'; {entry.install}"
        ) from error
    return model.to(allowed.device).eval()


def _titan(entry: SlideEncoder, allowed: Allowed) -> Embed:
    model = _from_hub(entry, allowed)
    return lambda features, coords, side: model.encode_slide_from_patch_features(
        features[None], coords[None], round(side)
    )[0]


def _prism(entry: SlideEncoder, allowed: Allowed) -> Embed:
    model = _from_hub(entry, allowed)
    return lambda features, _coords, _side: model.slide_representations(features[None])[
        "image_embedding"
    ][0]


def _feather(entry: SlideEncoder, allowed: Allowed) -> Embed:
    model = _from_hub(entry, allowed)
    return lambda features, _coords, _side: model.forward_features(features[None])[0].flatten()


def _gigapath(entry: SlideEncoder, allowed: Allowed) -> Embed:
    package = _package(entry, "gigapath.slide_encoder")
    model = package.create_model(
        f"hf_hub:{entry.hub}", "gigapath_slide_enc12l768d", 1536, global_pool=True
    )
    import torch

    model.to(allowed.device).eval()

    def embed(features: "torch.Tensor", coords: "torch.Tensor", side: float) -> "torch.Tensor":
        places = torch.floor(coords.double() * (GIGAPATH_TILE_PX / side)).long()
        layers = model(features[None], places[None])
        last: torch.Tensor = layers[-1] if isinstance(layers, list | tuple) else layers
        return last[0]

    return embed


def _chief(entry: SlideEncoder, allowed: Allowed) -> Embed:
    import torch

    package = _package(entry, "models.CHIEF")
    if allowed.weights is None:
        raise EncoderError(
            f"slide encoder {entry.name!r}: its weights are by hand; get CHIEF_pretraining.pth as "
            "its page says, and give it with --weights"
        )
    try:
        model = package.CHIEF(size_arg="small", dropout=True, n_classes=2)
        state = torch.load(allowed.weights, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except (OSError, RuntimeError) as error:
        told = " ".join(str(error).split())[:300]
        raise EncoderError(f"slide encoder {entry.name!r}: {told}; {entry.install}") from error
    model.to(allowed.device).eval()
    return lambda features, _coords, _side: model(features, torch.tensor([0]))["WSI_feature"][0]


def _madeleine(entry: SlideEncoder, allowed: Allowed) -> Embed:
    package = _package(entry, "madeleine.models.factory")
    folder = allowed.weights or Path.home() / ".cache" / "madeleine"
    model, _ = package.create_model_from_pretrained(str(folder))
    model.to(allowed.device).eval()
    return lambda features, _coords, _side: model.encode_he(features[None], allowed.device)[0]


def _package(entry: SlideEncoder, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EncoderError(f"slide encoder {entry.name!r}: {entry.install} ({error})") from error


def _own(name: str, found: object) -> SlideEncoder:
    if not callable(found):
        raise ConfigError(f"slide encoder {name!r}: is no function, found {found!r}")
    embed = cast("Embed", found)
    return SlideEncoder(name=name.replace(":", "_"), build=lambda _entry, _allowed: embed)


NON_COMMERCIAL: Final = "CC-BY-NC-ND-4.0"
TRANSFORMERS: Final = "pip install 'wsi-pipeline[transformers]'"
SLIDE_ENCODERS: Final[Registry[SlideEncoder]] = Registry(
    "slide encoder",
    cast(
        "Mapping[str, SlideEncoder]",
        {
            entry.name: entry
            for entry in (
                SlideEncoder(name="mean", build=_mean),
                SlideEncoder(
                    name="titan", build=_titan, tiles=("conch-v15", "conch_v15"), tile_width=768,
                    hub="MahmoodLab/TITAN", install=TRANSFORMERS, licence=NON_COMMERCIAL,
                    paper="https://arxiv.org/abs/2411.19666",
                ),
                SlideEncoder(
                    name="prism", build=_prism, tiles=("virchow",), tile_width=2560,
                    hub="paige-ai/Prism", install=f"{TRANSFORMERS} environs sacremoses",
                    licence=NON_COMMERCIAL, paper="https://arxiv.org/abs/2405.10254",
                ),
                SlideEncoder(
                    name="gigapath", build=_gigapath, tiles=("prov-gigapath", "gigapath"),
                    tile_width=1536, hub="prov-gigapath/prov-gigapath",
                    install="pip install fairscale git+https://github.com/prov-gigapath/"
                    "prov-gigapath.git",
                    licence="Apache-2.0", paper="https://doi.org/10.1038/s41586-024-07441-w",
                ),
                SlideEncoder(
                    name="chief", build=_chief, tiles=("ctranspath",), tile_width=768,
                    install="clone https://github.com/hms-dbmi/CHIEF, work in its folder with it "
                    "on PYTHONPATH, and pip install addict",
                    licence="AGPL-3.0", paper="https://doi.org/10.1038/s41586-024-07894-z",
                ),
                SlideEncoder(
                    name="madeleine", build=_madeleine, tiles=("conch", "conch_v1"),
                    tile_width=512, hub="MahmoodLab/madeleine",
                    install="pip install git+https://github.com/mahmoodlab/MADELEINE.git",
                    licence=NON_COMMERCIAL, paper="https://arxiv.org/abs/2408.02859",
                ),
                SlideEncoder(
                    name="feather", build=_feather, tiles=("conch-v15", "conch_v15"),
                    tile_width=768, hub="MahmoodLab/abmil.base.conch_v15.pc108-24k",
                    install=TRANSFORMERS, licence=NON_COMMERCIAL,
                    paper="https://arxiv.org/abs/2506.09022",
                ),
            )
        },
    ),
    _own,
)  # fmt: skip
"""Name → slide encoder; what they take and give was read from their publishers' and peers' code."""


def embed_slide(
    entry: SlideEncoder, embed: Embed, bag: Any, device: "torch.device"
) -> "torch.Tensor":
    """Embed one slide.

    Args:
        entry: The slide encoder.
        embed: What its ``build`` made.
        bag: A :class:`~wsi_pipeline.features.store.FeatureBag`.
        device: Where it runs.

    Returns:
        (1, W) float32 on the CPU.

    Raises:
        EncoderError: The features are not those it takes, or what it returns is no vector.
    """
    import torch

    entry.require(str(bag.attributes.get("encoder", "")), bag.features.shape[1])
    side = float(bag.attributes.get("tile_px_level0") or bag.attributes["patch_size_level0"])
    with torch.inference_mode():
        found = embed(
            torch.from_numpy(bag.features).to(device), torch.from_numpy(bag.coords).to(device), side
        )
    if found.ndim != 1:
        raise EncoderError(
            f"slide encoder {entry.name!r}: returns {tuple(found.shape)} for a slide, not a vector"
        )
    return found.float().cpu()[None]
