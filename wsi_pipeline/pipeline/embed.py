"""The embed stage: one vector a slide from the tile features at hand.

A slide's embedding is a feature store of one row, ``features/<slide encoder>-of-<tag>/<id>.h5``, so
that ``train --encoder titan-of-conch-v15 --aggregator mean`` is the baseline of a linear classifier
on slide embeddings, and everything else that reads features reads it.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from wsi_pipeline.digests import artifact_digest
from wsi_pipeline.engine import fate_of, is_done
from wsi_pipeline.events import Event, SlideDone, SlideSkipped, StageStarted, Written
from wsi_pipeline.features import (
    SLIDE_ENCODERS,
    Allowed,
    FeatureBag,
    FeatureMeta,
    choose_device,
    embed_slide,
    find_features,
    read_attributes,
    read_features,
    write_features,
)
from wsi_pipeline.run_folder import RunFolder, stores_in
from wsi_pipeline.types import Coords
from wsi_pipeline.verbs.tiles import EmbedConfig

DONE: Final = "embedded earlier"


def run(config: EmbedConfig) -> Iterator[Event]:
    """Embed every slide that has features of one tile encoder.

    Raises:
        StoreError: There are no such features.
        EncoderError: The slide encoder cannot be had.
    """
    entry = SLIDE_ENCODERS.choose(config.slide_encoder)
    folder = find_features(RunFolder(config.run).features, config.encoder)
    stores, tag = stores_in(folder), f"{entry.name}-of-{folder.name}"
    device = choose_device(config.device)
    yield StageStarted(stage="embed", total=len(stores))
    if config.dry_run:
        return
    allowed = Allowed(device=device, weights=config.weights, remote_code=config.trust_remote_code)
    embed = entry.build(entry, allowed)
    for slide_id, store in stores.items():
        begun = time.monotonic()
        target = RunFolder(config.run).feature_store(tag, slide_id)
        try:
            asked = {
                "slide_encoder": entry.name,
                "weights": config.weights.name if config.weights else entry.hub,
                "features": artifact_digest(store),
            }
            if is_done(target, _stored(target), asked, overwrite=config.overwrite):
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


def _stored(target: Path) -> dict[str, Any] | None:
    return dict(read_attributes(target).get("made_from", {})) if target.exists() else None


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
