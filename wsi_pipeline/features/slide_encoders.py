"""Slide encoders: a bag of stored tile features in, one vector for the slide out.

The mean needs nothing, CHIEF's pooling is small enough to be here. The others come with their
publishers' packages or with code on the hub, which runs only if a person allows it. Each takes the
features of one tile encoder with its own weights, of tiles as it was trained on, and those alone. A
user's own is ``module:function`` and takes the same as :class:`SlideEncoder` gives.
"""

import importlib
import io
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from wsi_pipeline.errors import ConfigError, EncoderError, WsiError
from wsi_pipeline.features.published import POOLINGS
from wsi_pipeline.registry import Registry

if TYPE_CHECKING:  # --help lists the names, and waits for no torch
    import torch

Embed = Callable[["torch.Tensor", "torch.Tensor", float], "torch.Tensor"]
"""(N, D) float32 features, (N, 2) int64 level-0 coords, tile's side in level-0 px → (W,)."""
GIGAPATH_TILE_PX: Final = 256  # the grid that Prov-GigaPath's slide encoder counts places in
ANOTHER_MAGNIFICATION: Final = 1.5  # peers cut 128 µm where 112 were trained on; twice is another


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What a slide encoder may use: the device, a file or folder of weights, the hub's code."""

    device: "torch.device"
    weights: Path | None = None
    remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class SlideEncoder:
    """One slide encoder.

    Attributes:
        name: As ``--slide-encoder`` takes it.
        build: Makes what embeds one slide.
        tiles: Beginnings of the tags of the tile encoders whose features it takes, up to a dot;
            empty takes any.
        tile_width: Of those features; None for any.
        tile_um: Side of the tiles that it was trained on, in µm; None where that is not known.
        by_step: Whether it is told the distance between neighbouring tiles, not their side.
        hub: Where its weights are.
        revision: Commit of the hub; empty where none is pinned.
        install: What brings its package or its weights.
        licence: Of its weights.
        paper: Where it is described.
    """

    name: str
    build: Callable[["SlideEncoder", Allowed], Embed]
    tiles: tuple[str, ...] = ()
    tile_width: int | None = None
    tile_um: float | None = None
    by_step: bool = False
    hub: str = ""
    revision: str = ""
    install: str = ""
    licence: str = ""
    paper: str = ""

    def require(self, tag: str, width: int, told: Mapping[str, Any] | None = None) -> None:
        """Refuse features of another tile encoder, or of other tiles, than it was trained on.

        Args:
            tag: Of the tile encoder.
            width: Of a feature.
            told: A store's attributes; what they do not tell of the tiles is not looked at.

        Raises:
            EncoderError: They are.
        """
        fits = any(f"{tag}.".startswith(f"{name}.") for name in self.tiles)
        if self.tiles and not fits:
            raise EncoderError(
                f"slide encoder {self.name!r} takes features of {' or '.join(self.tiles)}, not of "
                f"{tag!r}; extract with --encoder {self.tiles[0]}"
            )
        if self.tiles and ".random-" in tag:
            raise EncoderError(
                f"slide encoder {self.name!r} takes features of trained weights; {tag!r} has "
                "random ones"
            )
        if self.tiles and tag.endswith(tuple(f"-{pooling}" for pooling in POOLINGS[1:])):
            raise EncoderError(
                f"slide encoder {self.name!r} takes features pooled as published; {tag!r} was "
                "extracted with another --pooling"
            )
        if self.tile_width not in (None, width):
            raise EncoderError(
                f"slide encoder {self.name!r} takes features {self.tile_width} wide, not {width}"
            )
        side = _side_um(told or {})
        if self.tile_um and side and not _alike(side, self.tile_um):
            raise EncoderError(
                f"slide encoder {self.name!r} was trained on tiles of {self.tile_um:g} µm, not of "
                f"{side:g} µm; cut tiles of that size"
            )


def _side_um(told: Mapping[str, Any]) -> float | None:
    pixels, mpp = told.get("tile_px") or told.get("patch_size"), told.get("mpp")
    return float(pixels) * float(mpp) if pixels and mpp else None


def _alike(side: float, trained: float) -> bool:
    return 1 / ANOTHER_MAGNIFICATION < side / trained < ANOTHER_MAGNIFICATION


def _mean(_: SlideEncoder, __: Allowed) -> Embed:
    return lambda features, _coords, _side: features.mean(dim=0)


def _from_hub(entry: SlideEncoder, allowed: Allowed, method: str) -> Any:
    """Load a model whose code comes with its weights, from the hub or a folder of the hub's files.

    Raises:
        EncoderError: Its code may not be run, or model or package cannot be had.
    """
    place = str(allowed.weights or f"https://huggingface.co/{entry.hub}")
    if not allowed.remote_code:
        raise EncoderError(
            f"slide encoder {entry.name!r}: runs its publisher's code from {place}; read it, then "
            "allow it with --trust-remote-code"
        )
    from wsi_pipeline.features.weights import import_timm

    import_timm()  # declares what a torchvision for another torch lacks
    library = _package(entry, "transformers")
    pinned = {"revision": entry.revision} if entry.revision and not allowed.weights else {}
    try:
        model = library.AutoModel.from_pretrained(  # nosec B615 # a person has allowed its code
            str(allowed.weights or entry.hub), trust_remote_code=True, **pinned
        )
    except Exception as error:  # a publisher's code may raise anything
        raise EncoderError(
            f"slide encoder {entry.name!r}: {_told(error)}; ask for access at "
            f"https://huggingface.co/{entry.hub}, then 'hf auth login', or give the folder of its "
            f"files with --weights; {entry.install}"
        ) from error
    if not hasattr(model, method):
        raise EncoderError(
            f"slide encoder {entry.name!r}: {place} holds a {type(model).__name__}, which has no "
            f"{method}(): another model, or another version of it"
        )
    return model.to(allowed.device).eval()


def _titan(entry: SlideEncoder, allowed: Allowed) -> Embed:
    model = _from_hub(entry, allowed, "encode_slide_from_patch_features")
    return lambda features, coords, step: model.encode_slide_from_patch_features(
        features[None], coords[None], round(step)
    )[0]


def _prism(entry: SlideEncoder, allowed: Allowed) -> Embed:
    model = _from_hub(entry, allowed, "slide_representations")
    return lambda features, _coords, _side: model.slide_representations(features[None])[
        "image_embedding"
    ][0]


def _feather(entry: SlideEncoder, allowed: Allowed) -> Embed:
    model = _from_hub(entry, allowed, "forward_features")
    return lambda features, _coords, _side: model.forward_features(features[None])[0].flatten()


def _gigapath(entry: SlideEncoder, allowed: Allowed) -> Embed:
    import numpy as np
    import torch

    package = _package(entry, "gigapath.slide_encoder")
    _require_flash_attention(entry, allowed)
    (path,) = _files(entry, allowed, "slide_encoder.pth")
    # it says that weights are not found, which follow below; and it reads numbers again that it
    # wrote as text, which numpy 2 would write as np.int64(1024)
    with redirect_stdout(io.StringIO()), np.printoptions(legacy="1.25"):
        model = package.create_model("", "gigapath_slide_enc12l768d", 1536, global_pool=True)
    _fill(entry, model, path)
    model.to(allowed.device).eval()

    def embed(features: "torch.Tensor", coords: "torch.Tensor", side: float) -> "torch.Tensor":
        places = torch.floor(coords.double() * (GIGAPATH_TILE_PX / side)).long()
        with torch.autocast("cuda", torch.float16, enabled=features.is_cuda):  # all that it takes
            last: torch.Tensor = model(features[None], places[None], all_layer_embed=True)[-1]
        return last[0]  # of the twelfth layer, as its pipeline.py: asked alone, it is normed twice

    return embed


def _require_flash_attention(entry: SlideEncoder, allowed: Allowed) -> None:
    """See that Prov-GigaPath's attention can run: it has no other than flash-attn's, on CUDA.

    Raises:
        EncoderError: It cannot.
    """
    module = sys.modules.get("torchscale.component.multihead_attention")
    if module is not None and getattr(module, "flash_attn_func", None) is None:
        raise EncoderError(
            f"slide encoder {entry.name!r}: its publisher's code runs on a CUDA device with "
            f"flash-attn alone ('pip install flash-attn'), not on {allowed.device} as it is here"
        )


def _chief(entry: SlideEncoder, allowed: Allowed) -> Embed:
    """Pool by gated attention: the tiles' own features, weighted (Wang et al., Nature 2024)."""
    import torch
    from torch.nn.functional import linear

    (path,) = _files(entry, allowed, "CHIEF_pretraining.pth")
    widths = {"0": (512, 768), "3.attention_a.0": (256, 512), "3.attention_b.0": (256, 512),
              "3.attention_c": (1, 256)}  # fmt: skip
    held, layers = _state(entry, path), {}
    for name, shape in widths.items():
        weight, bias = (held.get(f"attention_net.{name}.{each}") for each in ("weight", "bias"))
        if weight is None or bias is None or tuple(weight.shape) != shape:
            raise EncoderError(
                f"slide encoder {entry.name!r}: {path.name} is not CHIEF_pretraining.pth: its "
                f"attention_net.{name} is missing or not {shape[0]} × {shape[1]}"
            )
        layers[name] = (weight.to(allowed.device), bias.to(allowed.device))

    def embed(features: "torch.Tensor", _coords: "torch.Tensor", _side: float) -> "torch.Tensor":
        hidden = linear(features, *layers["0"]).relu()
        gate = linear(hidden, *layers["3.attention_b.0"]).sigmoid()
        signal = linear(hidden, *layers["3.attention_a.0"]).tanh() * gate
        weights = torch.softmax(linear(signal, *layers["3.attention_c"]), dim=0)
        return (weights * features).sum(dim=0)

    return embed


def _madeleine(entry: SlideEncoder, allowed: Allowed) -> Embed:
    package = _package(entry, "madeleine.models.Model")
    config, weights = _files(entry, allowed, "model_config.json", "model.pt")
    model = package.create_model(Namespace(**json.loads(config.read_text("utf-8"))), "cpu")
    _fill(entry, model, weights)
    model.to(allowed.device).eval()
    return lambda features, _coords, _side: model.encode_he(features[None], allowed.device)[0]


def _files(entry: SlideEncoder, allowed: Allowed, *names: str) -> tuple[Path, ...]:
    """Return files of weights, from where a person says, or from the hub.

    Raises:
        EncoderError: They are not there, or no hub has them.
    """
    from wsi_pipeline.features.weights import HubError, from_hub

    given = allowed.weights
    if given is None and not entry.hub:
        raise EncoderError(
            f"slide encoder {entry.name!r}: its weights are by hand; {entry.install}"
        )
    if given is None:
        try:
            return tuple(from_hub(entry.hub, (name,), entry.revision) for name in names)
        except HubError as error:
            raise EncoderError(
                f"slide encoder {entry.name!r}: its weights cannot be had: {error}. Ask for access "
                f"at https://huggingface.co/{entry.hub}, then 'hf auth login', or bring "
                f"{' and '.join(names)} and give them with --weights"
            ) from error
    paths = (given,) if len(names) == 1 and given.is_file() else [given / name for name in names]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise EncoderError(
            f"slide encoder {entry.name!r}: --weights {given}: there is no "
            f"{' and no '.join(missing)}"
        )
    return tuple(paths)


def _state(entry: SlideEncoder, path: Path) -> dict[str, "torch.Tensor"]:
    from wsi_pipeline.features.weights import read_state

    try:
        return read_state(path)
    except EncoderError as error:
        raise EncoderError(f"slide encoder {entry.name!r}: {error}") from error


def _fill(entry: SlideEncoder, model: Any, path: Path) -> None:
    """Put weights into a model; what a publisher's file has beyond it is passed over, as there.

    Raises:
        EncoderError: A tensor of the model is not in the file, or of another shape.
    """
    state = _state(entry, path)
    try:
        missing = sorted(model.load_state_dict(state, strict=False).missing_keys)
    except RuntimeError as error:
        raise EncoderError(f"slide encoder {entry.name!r}: {path.name}: {_told(error)}") from error
    if missing:
        raise EncoderError(
            f"slide encoder {entry.name!r}: {path.name} lacks {len(missing)} of its tensors, such "
            f"as {missing[0]}; it holds another model"
        )


def _package(entry: SlideEncoder, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EncoderError(f"slide encoder {entry.name!r}: {entry.install} ({error})") from error


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _own(name: str, found: object) -> SlideEncoder:
    if not callable(found):
        raise ConfigError(f"slide encoder {name!r}: is no function, found {found!r}")
    embed = cast("Embed", found)
    return SlideEncoder(name=name.replace(":", "_"), build=lambda _entry, _allowed: embed)


NON_COMMERCIAL: Final = "CC-BY-NC-ND-4.0"
CHIEFS_TILE_ENCODER: Final = "1646f230"  # of the SHA-256 of CHIEF_CTransPath.pth
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
                    tile_um=256, by_step=True, hub="MahmoodLab/TITAN",
                    revision="dac6773d9961cfc75503440676ff157a2c6e8d2e",
                    install=TRANSFORMERS, licence=NON_COMMERCIAL,
                    paper="https://arxiv.org/abs/2411.19666",
                ),
                SlideEncoder(
                    name="prism", build=_prism, tiles=("virchow",), tile_width=2560,
                    tile_um=112, hub="paige-ai/Prism",
                    revision="adeb3376909b4fb3fba5a5243a1df05d42d57fdd",
                    install=f"{TRANSFORMERS} environs sacremoses",
                    licence=NON_COMMERCIAL, paper="https://arxiv.org/abs/2405.10254",
                ),
                SlideEncoder(
                    name="gigapath", build=_gigapath, tiles=("prov-gigapath", "gigapath"),
                    tile_width=1536, tile_um=128, hub="prov-gigapath/prov-gigapath",
                    revision="eba85dd46097c3eedfcc2a3a9a930baecb6bcc19",
                    install="pip install fairscale git+https://github.com/prov-gigapath/"
                    "prov-gigapath.git",
                    licence="Apache-2.0", paper="https://doi.org/10.1038/s41586-024-07441-w",
                ),
                SlideEncoder(
                    name="chief", build=_chief, tile_width=768,
                    tiles=("chief-ctranspath", f"ctranspath.file-{CHIEFS_TILE_ENCODER}"),
                    install="get CHIEF_pretraining.pth as https://github.com/hms-dbmi/CHIEF says, "
                    "and give it with --weights",
                    licence="AGPL-3.0", paper="https://doi.org/10.1038/s41586-024-07894-z",
                ),
                SlideEncoder(
                    name="madeleine", build=_madeleine, tiles=("conch", "conch_v1"),
                    tile_width=512, tile_um=256, hub="MahmoodLab/madeleine",
                    install="pip install git+https://github.com/mahmoodlab/MADELEINE.git",
                    licence=NON_COMMERCIAL, paper="https://arxiv.org/abs/2408.02859",
                ),
                SlideEncoder(
                    name="feather", build=_feather, tiles=("conch-v15", "conch_v15"),
                    tile_width=768, tile_um=256, hub="MahmoodLab/abmil.base.conch_v15.pc108-24k",
                    revision="423c894c738294e8b0ac38938108180a2c21dd43",
                    install=TRANSFORMERS, licence=NON_COMMERCIAL,
                    paper="https://arxiv.org/abs/2506.09022",
                ),
            )
        },
    ),
    _own,
)  # fmt: skip
"""Name → slide encoder; what they take and give was read from their publishers' and peers' code."""


def load_slide_encoder(entry: SlideEncoder, allowed: Allowed) -> Embed:
    """Make what embeds a slide.

    Raises:
        EncoderError: Weights or package cannot be had, or the publisher's code does not run here.
    """
    try:
        return entry.build(entry, allowed)
    except WsiError:
        raise
    except Exception as error:
        raise EncoderError(
            f"slide encoder {entry.name!r}: its publisher's code stops with "
            f"{type(error).__name__}: {_told(error)}; {entry.install}"
        ) from error


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

    told = bag.attributes
    entry.require(str(told.get("encoder", "")), bag.features.shape[1], told)
    side = float(told.get("tile_px_level0") or told["patch_size_level0"])
    pixels = told.get("tile_px") or told.get("patch_size")
    overlap = float(told.get("overlap_px") or told.get("overlap") or 0)
    if entry.by_step and overlap and pixels:
        side *= 1 - overlap / float(pixels)
    with torch.inference_mode():
        found = embed(
            torch.from_numpy(bag.features).to(device), torch.from_numpy(bag.coords).to(device), side
        )
    if found.ndim != 1:
        raise EncoderError(
            f"slide encoder {entry.name!r}: returns {tuple(found.shape)} for a slide, not a vector"
        )
    return found.float().cpu()[None]


def is_embedding(store: Path) -> bool:
    """Say whether a feature store is a slide's embedding, not its tiles' features.

    Raises:
        StoreError: It cannot be read.
    """
    from wsi_pipeline.features.store import read_attributes

    made_from = read_attributes(store).get("made_from")
    return isinstance(made_from, Mapping) and "slide_encoder" in made_from
