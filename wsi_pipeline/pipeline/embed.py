"""The embed stage: one vector a slide from the tile features at hand.

A slide's embedding is a feature store of one row, ``features/<slide encoder>-of-<tag>/<id>.h5``, so
that ``train --encoder titan-of-conch-v15 --aggregator mean`` is the baseline of a linear classifier
on slide embeddings, and everything else that reads features reads it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from wsi_pipeline.digests import artifact_digest, file_digest
from wsi_pipeline.engine import fate_of, is_done
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.events import Event, SlideDone, SlideSkipped, StageStarted, Written
from wsi_pipeline.features import (
    SLIDE_ENCODERS,
    Allowed,
    FeatureBag,
    FeatureMeta,
    choose_device,
    embed_slide,
    find_features,
    load_slide_encoder,
    read_attributes,
    read_features,
    read_shape,
    write_features,
)
from wsi_pipeline.learn import feature_settings, shared_settings
from wsi_pipeline.run_folder import RunFolder, stores_in
from wsi_pipeline.settings import digest
from wsi_pipeline.types import Coords
from wsi_pipeline.verbs.tiles import EmbedConfig

DONE: Final = "embedded earlier"


def run(config: EmbedConfig) -> Iterator[Event]:
    """Embed every slide that has features of one tile encoder.

    Raises:
        ConfigError: There are no feature stores.
        StoreError: There are no such features.
        EncoderError: The slide encoder cannot be had, or takes other features.
        LearnError: The slides' features were made differently.
    """
    entry = SLIDE_ENCODERS.choose(config.slide_encoder)
    folder = find_features(RunFolder(config.run).features, config.encoder)
    stores, tag = stores_in(folder), f"{entry.name}-of-{folder.name}"
    device = choose_device(config.device)
    if not stores:
        raise ConfigError(f"{folder}: no feature stores there; extract the slides first")
    first = next(iter(stores.values()))  # before a model is loaded for nothing
    entry.require(folder.name, read_shape(first)[1], read_attributes(first))
    if prepared := dict(_prepared(stores)):
        shared_settings(prepared)
    yield StageStarted(stage="embed", total=len(stores))
    if config.dry_run:
        return
    allowed = Allowed(device=device, weights=config.weights, remote_code=config.trust_remote_code)
    embed, weights = load_slide_encoder(entry, allowed), _weights(config.weights)
    for slide_id, store in stores.items():
        begun = time.monotonic()
        target = RunFolder(config.run).feature_store(tag, slide_id)
        try:
            asked = {
                "slide_encoder": entry.name,
                "weights": config.weights.name if config.weights else entry.hub,
                "features": artifact_digest(store),
                "weights_digest": weights or entry.revision,
            }
            if is_done(target, _stored(target, asked), asked, overwrite=config.overwrite):
                yield SlideSkipped(slide_id=slide_id, reason=DONE)
                continue
            bag = read_features(store)
            vector = embed_slide(entry, embed, bag, device).numpy()
            about = {"made_from": asked, "licence": entry.licence, "paper": entry.paper}
            write_features(target, vector, _place(bag.coords), _meta(tag, slide_id, bag, about))
        except Exception as error:  # noqa: BLE001  it costs this slide, not the run
            yield fate_of(slide_id, error)
            continue
        yield SlideDone(
            slide_id=slide_id, counts={"tiles embedded": len(bag)},
            seconds=time.monotonic() - begun,
        )  # fmt: skip
    yield Written(path=str(RunFolder(config.run).features_of(tag)), what="slide embeddings")


def _prepared(stores: Mapping[str, Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield how each slide's features were made; a damaged store is told by its slide later."""
    for slide_id, store in stores.items():
        with suppress(StoreError):
            yield slide_id, feature_settings(read_attributes(store))


def _stored(target: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a store was made from; older ones do not tell the digest of the weights.

    Nor do those of weights of which no revision was pinned yet.
    """
    if not target.exists():
        return None
    told = dict(read_attributes(target).get("made_from", {}))
    return told | {"weights_digest": told.get("weights_digest") or asked["weights_digest"]}


def _weights(given: Path | None) -> str:
    """Return the digest of the file of weights, or of the files in the folder; empty without."""
    if given is None:
        return ""
    files = sorted(path for path in given.rglob("*") if path.is_file()) or [given]
    return digest({path.name: file_digest(path) for path in files})


def _place(coords: Coords) -> Coords:
    """Return the place of the tile in the slide's middle: a vector of all of them has none."""
    middle = np.abs(coords - np.median(coords, axis=0)).sum(axis=1).argmin()
    return coords[middle : middle + 1]


def _meta(tag: str, slide_id: str, bag: FeatureBag, about: dict[str, Any]) -> FeatureMeta:
    told = bag.attributes
    return FeatureMeta(
        slide_id=slide_id,
        encoder=tag,
        tile_px=int(told.get("tile_px") or told["patch_size"]),
        tile_px_level0=float(told.get("tile_px_level0") or told["patch_size_level0"]),
        overlap_px=int(told.get("overlap_px", 0)),
        mpp=told.get("mpp"),
        mpp_level0=told.get("mpp_level0"),
        level0_size=(int(told.get("level0_width", 0)), int(told.get("level0_height", 0))),
        folder=RunFolder().features_of(tag).as_posix(),
        provenance={**about, "stain": told.get("stain")},
    )
