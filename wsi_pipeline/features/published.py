"""Published encoders by name: what each one is, and how its publisher feeds it.

The table is data, ``published.toml``; nothing here needs torch. An entry has a digest of all that
decides its features, which every feature store records: stores of two recipes never mix.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any, Final, Literal

from wsi_pipeline.registry import Registry
from wsi_pipeline.settings import digest

COLOURS: Final = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "openai": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "lunit": ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464)),
}
"""Means and standard deviations that several entries share, of pixels in [0, 1]."""
POOLINGS: Final = ("auto", "class", "mean", "class+mean")
"""What ``--pooling`` takes: auto is the entry's own, or the model's own ``global_pool``."""
Pooling = Literal["auto", "class", "mean", "class+mean", "projection"]

EXACT: Final = "exact-"  # begins recipes that there were not before recipes were recorded
IMPORTED: Final = "imported"  # what another tool did to tiles, it did not tell

Colour = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class PublishedEncoder:
    """One published encoder.

    Attributes:
        name: As ``--encoder`` takes it.
        title: As its publishers write it.
        kind: Whose classes build it: timm's, transformers' or the publisher's own, of a package to
            be installed or written anew in :mod:`~wsi_pipeline.features.networks`.
        architecture: timm's model or transformers' class; of a package, the entry's own name.
        arguments: Of timm's model, or of transformers' configuration; classes by their names.
        hub: Where the weights are, ``owner/model``; empty for timm's own, or for a file by hand.
        revision: Commit of the hub; empty where none is pinned.
        pinned_later: Whether recipes were recorded before revision and file were known: they hold
            neither then.
        sha256: Of the weights' file, where it is by hand and known.
        file: The weights' file, where it has a name of its own.
        by_hand: A page that leads to the file, where no hub has it.
        install: The command that brings the publisher's package, where it is needed.
        resize_px: Side tiles are resized to; None leaves them as they are.
        input_px: Side of the centre that the network sees; None sees all.
        interpolation: ``bilinear`` or ``bicubic``, antialiased.
        resampling: ``pillow`` or ``tensor``: whose arithmetic the publisher's transform uses.
        mean: Subtracted from pixels in [0, 1].
        std: Divides what is left.
        pooling: What of the network's tokens is the feature; auto: the network pools itself.
        width: Length of a feature.
        mpp: µm/px it was trained at; None for any.
        tile_px: Side of a tile that needs no resizing, or as its publishers cut; None for any.
        precision: Of the publisher's own inference.
        licence: Of the weights.
        gated: Whether its publisher must first grant access.
        paper: Where it is described.
        note: What a person should know.
    """

    name: str
    title: str
    kind: Literal["timm", "transformers", "package"]
    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hub: str = ""
    revision: str = ""
    pinned_later: bool = False
    sha256: str = ""
    file: str = ""
    by_hand: str = ""
    install: str = ""
    resize_px: int | None = None
    input_px: int | None = None
    interpolation: str = "bicubic"
    resampling: Literal["pillow", "tensor", "float"] = "float"
    mean: Colour
    std: Colour
    pooling: Pooling = "auto"
    width: int
    mpp: float | None = None
    tile_px: int | None = None
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    licence: str
    gated: bool = False
    paper: str
    note: str = ""

    @property
    def of_timm(self) -> bool:
        """Whether timm's own weights are meant, found as for any of its models."""
        return not self.hub and not self.by_hand

    @property
    def page(self) -> str:
        """Where a person reads about the weights and asks for them."""
        return f"https://huggingface.co/{self.hub}" if self.hub else self.by_hand or self.paper

    def architecture_facts(self) -> dict[str, Any]:
        """Return what besides the preprocessing decides the features, JSON-ready."""
        names = ("kind", "architecture", "arguments", "hub", "revision", "file", "width")
        values = asdict(self) | ({"revision": "", "file": ""} if self.pinned_later else {})
        return {name: values[name] for name in names}


def recipe_digest(
    preprocess: Mapping[str, Any], pooling: str = "auto", entry: PublishedEncoder | None = None
) -> str:
    """Return the digest of all but the weights that decides an encoder's features.

    Args:
        preprocess: :meth:`Preprocess.as_dict`, of today or as an older store recorded it.
        pooling: As resolved; auto where the network pools itself.
        entry: Where it is a published encoder with weights of its own.
    """
    facts: dict[str, Any] = {"preprocess": dict(preprocess), "pooling": pooling}
    if preprocess.get("input_px") is None and preprocess.get("resize_px") is None:
        facts["preprocess"].pop("interpolation", None)  # nothing is resized
    if entry is not None and not entry.of_timm:
        facts["entry"] = entry.architecture_facts()
    known_before = "resampling" not in preprocess and pooling == "auto"
    return ("" if known_before else EXACT) + digest(facts)


def recipe_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the recipe that a feature store was made by; None where it does not tell.

    Stores from before recipes were recorded tell what was done to tiles, which is all that it was.
    """
    made_from, about = (attributes.get(name) for name in ("made_from", "encoder_provenance"))
    if isinstance(made_from, Mapping) and {"recipe", IMPORTED} & made_from.keys():
        return str(made_from.get("recipe", IMPORTED))
    preprocess = about.get("preprocess") if isinstance(about, Mapping) else None
    return recipe_digest(preprocess) if isinstance(preprocess, Mapping) else None


def weights_of(source: str) -> str:
    """Return what tells weights from others: the hub's commit, else the file's SHA-256, else none.

    Args:
        source: As :class:`~wsi_pipeline.features.weights.Weights` and provenances tell it.
    """
    found = re.search(r" at ([0-9a-f]{40}),", source) or re.search(r"sha256:([0-9a-f]{64})", source)
    return found[1] if found else ""


def stored_weights(attributes: Mapping[str, Any]) -> str:
    """Return :func:`weights_of` a feature store's encoder; empty where it does not tell."""
    about = attributes.get("encoder_provenance")
    return weights_of(str(about.get("weights", ""))) if isinstance(about, Mapping) else ""


def _read() -> dict[str, PublishedEncoder]:
    text = resources.files("wsi_pipeline.features").joinpath("published.toml").read_text("utf-8")
    return {name: _entry(name, values) for name, values in tomllib.loads(text).items()}


def _entry(name: str, values: dict[str, Any]) -> PublishedEncoder:
    for place, key in enumerate(("mean", "std")):
        given = values[key]
        values[key] = COLOURS[given][place] if isinstance(given, str) else tuple(given)
    return PublishedEncoder(name=name, **values)


PUBLISHED: Final = Registry("published encoder", _read())
"""Name → entry, in the order of the table."""


def find_published(name: str) -> PublishedEncoder | None:
    """Return the entry that ``--encoder NAME`` means; None leaves the name to timm.

    ``uni``, ``uni.hub`` (the tag of its features) and ``hf-hub:MahmoodLab/UNI`` are the same.
    """
    if name.startswith(("hf-hub:", "hf_hub:")):
        hub = name[7:].lower()
        return next((entry for entry in PUBLISHED.values() if entry.hub.lower() == hub), None)
    entry = PUBLISHED.get(name) or PUBLISHED.get(name.removesuffix(".hub"))
    if entry is None and "." in name:  # resnet50.tv_in1k: timm's, with other weights than its first
        entry = PUBLISHED.get(name.split(".", 1)[0])
        return entry if entry is not None and entry.of_timm else None
    return entry
