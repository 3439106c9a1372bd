"""What the run folder tells about how each slide was made, without opening any features."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.features import read_attributes
from wsi_pipeline.run_folder import RunFolder, store_in
from wsi_pipeline.tiles import find_store, open_tiles

Numbers = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SlideEvidence:
    """One slide; what is not known is None.

    Attributes:
        identity: Digest of the slide's file and the region of it that was cut; the same for a
            copy under another name.
        thumbnail: The picture that the tile stage drew; of an image, the image.
        what: It is: ``slide``, ``core`` or ``image``.
        numbers: Measures of how the slide was made: ``native mpp`` and ``effective mpp`` (1,),
            ``focus`` (1,) log of the median tile's, ``stain`` (8,) matrix in optical density and
            maxima of H and E, as they were before normalisation. Of a picture: ``picture size``
            (2,) px, ``focus``, and ``stain`` (3,) its mean optical density of red, green and blue.
    """

    identity: str | None = None
    thumbnail: Path | None = None
    what: str = "slide"
    numbers: Mapping[str, Numbers]


def gather(run: Path, stores: Path, internal: Iterable[str]) -> dict[str, SlideEvidence]:
    """Return the evidence of internal slides, by slide.

    Args:
        run: Run folder with ``tiles/`` and ``thumbnails/``, both optional.
        stores: Folder of feature stores, whose attributes stand in where there are no tiles.
        internal: Which slides.

    Raises:
        StoreError: A store is unreadable.
    """
    found = {}
    for slide_id in internal:
        tiles, focus = _tile_attributes(run, slide_id)
        attributes = tiles or _feature_attributes(store_in(stores, slide_id))
        found[slide_id] = SlideEvidence(
            identity=_identity(attributes),
            thumbnail=_thumbnail(run, slide_id),
            what="core" if attributes.get("region_level0") is not None else "slide",
            numbers=_numbers(attributes) | focus,
        )
    return found


def identify(run: Path, external: Iterable[str]) -> dict[str, SlideEvidence]:
    """Return what identifies external slides, and nothing else of them."""
    found = {}
    for slide_id in external:
        attributes, _ = _tile_attributes(run, slide_id)
        found[slide_id] = SlideEvidence(
            identity=_identity(attributes),
            thumbnail=_thumbnail(run, slide_id),
            what="core" if attributes.get("region_level0") is not None else "slide",
            numbers={},
        )
    return found


def _tile_attributes(run: Path, slide_id: str) -> tuple[dict[str, Any], dict[str, Numbers]]:
    path = find_store(RunFolder(run).tiles, slide_id)
    if path is None:
        return {}, {}
    store = open_tiles(path)
    focus = store.columns.get("focus")
    if focus is None or not len(focus):
        return dict(store.attributes), {}
    return dict(store.attributes), {"focus": (float(np.log1p(np.median(focus))),)}


def _feature_attributes(path: Path) -> dict[str, Any]:
    attributes = read_attributes(path)
    renamed = {"mpp": "mpp_effective", "mpp_level0": "mpp_native"}
    return {renamed.get(name, name): value for name, value in attributes.items()}


def _identity(attributes: Mapping[str, Any]) -> str | None:
    if "slide_digest" in attributes:
        return f"{attributes['slide_digest']} {attributes.get('region_level0')}"
    made_from = attributes.get("made_from")
    if isinstance(made_from, Mapping) and made_from.get("source") == "slide":
        return str(made_from.get("input"))  # of the slide's digest and how it was cut
    return None


def _thumbnail(run: Path, slide_id: str) -> Path | None:
    path = RunFolder(run).thumbnail(slide_id)
    return path if path.exists() else None


def _numbers(attributes: Mapping[str, Any]) -> dict[str, Numbers]:
    numbers: dict[str, Numbers] = {}
    for name in ("native", "effective"):
        value = attributes.get(f"mpp_{name}")
        if isinstance(value, int | float):
            numbers[f"{name} mpp"] = (float(value),)
    stain = attributes.get("stain")
    source = stain.get("source") if isinstance(stain, Mapping) else None
    if isinstance(source, Mapping) and {"matrix", "maxima"} <= set(source):
        flat = np.concatenate([np.ravel(source["matrix"]), np.ravel(source["maxima"])])
        numbers["stain"] = tuple(float(value) for value in flat)
    return numbers
