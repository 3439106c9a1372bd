"""Feature files of CLAM, TRIDENT and STAMP, read as ours: level-0 pixels, one set of attributes.

CLAM says nothing but features and coords; TRIDENT tells its tiles' size; STAMP counts in µm. What a
file leaves open has to be told, and nothing is guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError, StoreError
from wsi_pipeline.features.store import FeatureMeta
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.types import Coords

STAMP_FEATURES: Final = "feats"


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a slide and its tiles beside the file.

    Attributes:
        encoder: Tag of the encoder; None takes the file's word.
        tile_px: Side of a tile as the encoder saw it.
        tile_px_level0: The same side in level-0 pixels.
        mpp: µm per pixel of the tiles.
        mpp_level0: µm per pixel of level 0.
        level0_size: (width, height) of level 0.
        provenance: Further root attributes of the store to be made.
    """

    encoder: str | None = None
    tile_px: int | None = None
    tile_px_level0: float | None = None
    mpp: float | None = None
    mpp_level0: float | None = None
    level0_size: tuple[int, int] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ForeignBag:
    """Another tool's features, ready for :func:`write_features`.

    Attributes:
        layout: ``clam``, ``trident`` or ``stamp``.
        features: (N, D) float32.
        coords: (N, 2) int64, level-0 (x, y) of each tile's top-left corner.
        meta: What is known about them.
    """

    layout: str
    features: NDArray[np.float32]
    coords: Coords
    meta: FeatureMeta


def import_features(path: Path, known: Known | None = None) -> ForeignBag:
    """Read a feature file of CLAM, TRIDENT, STAMP or ours.

    Args:
        path: An HDF5 file; its stem is the slide.
        known: What to take where the file does not say it. STAMP's coords need ``mpp_level0``,
            CLAM's tiles need ``tile_px`` and either ``tile_px_level0`` or both resolutions.

    Raises:
        StoreError: It is none of these, or it leaves something open; the message says what.
        StoreCorruptError: It cannot be read.
    """
    known = Known() if known is None else known
    if path.suffix == ".pt":
        raise StoreError(f"{path}: holds no coords; import the .h5 file of the same name instead")
    features, coords, attributes = _read(path)
    if "tile_size_um" in attributes or attributes.get("unit") == "um":
        return _stamp(path, features, coords, attributes, known)
    layout = "trident" if "patch_size" in attributes else "clam"
    if layout == "clam" and attributes.get("feat_type"):
        raise StoreError(f"{path}: its coords are of STAMP 1, in no stated unit; extract it anew")
    return ForeignBag(
        layout=layout,
        features=features,
        coords=np.rint(coords).astype(np.int64),
        meta=_meta(path, attributes, known),
    )


def um_to_level0(coords_um: NDArray[np.floating[Any]], mpp_level0: float) -> Coords:
    """Turn µm (N, 2) into level-0 pixels, rounded to whole ones."""
    pixels: Coords = np.rint(np.asarray(coords_um, np.float64) / mpp_level0).astype(np.int64)
    return pixels


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.floating[Any]], dict[str, Any]]:
    try:
        with h5py.File(path, "r") as file:
            name = STAMP_FEATURES if STAMP_FEATURES in file else "features"
            if not {name, "coords"} <= set(file):
                found = ", ".join(file) or "nothing"
                raise StoreError(
                    f"{path}: no feature file of CLAM, TRIDENT or STAMP: holds {found}"
                )
            features = np.asarray(file[name][()], np.float32)
            coords = np.asarray(file["coords"][()], np.float64)
            attributes = dict(file.attrs) | dict(file["coords"].attrs) | dict(file[name].attrs)
            if name == STAMP_FEATURES and "tile_size" in attributes:  # as STAMP 2.0 named it
                attributes.setdefault("tile_size_um", attributes["tile_size"])
    except (OSError, KeyError, RuntimeError) as error:
        raise StoreCorruptError(f"{path}: not a readable HDF5 file: {error}") from error
    if features.ndim == 3 and len(features) == 1:  # as TRIDENT's slide encoders are fed
        features = features[0]
    if features.ndim != 2 or coords.shape != (len(features), 2):
        raise StoreError(
            f"{path}: features {features.shape} and coords {coords.shape} do not belong together"
        )
    return features, coords, attributes


def _stamp(
    path: Path,
    features: NDArray[np.float32],
    coords_um: NDArray[np.floating[Any]],
    attributes: Mapping[str, Any],
    known: Known,
) -> ForeignBag:
    if attributes.get("unit", "um") != "um":
        raise StoreError(f"{path}: coords in {attributes['unit']!r}; STAMP's are in µm")
    if known.mpp_level0 is None:
        raise StoreError(
            f"{path}: its coords are in µm, and level-0 pixels need the slide's resolution; give "
            "it in the cohort table's column mpp, or the slides' folder with --slides"
        )
    tile_um = _number(path, attributes.get("tile_size_um"), "tile_size_um")
    tile_px = _number(path, attributes.get("tile_size_px", known.tile_px), "tile_size_px")
    told = {
        "encoder": attributes.get("extractor"),
        "patch_size": round(tile_px),
        "patch_size_level0": tile_um / known.mpp_level0,
    }
    return ForeignBag(
        layout="stamp",
        features=features,
        coords=um_to_level0(coords_um, known.mpp_level0),
        meta=_meta(path, told, known),
    )


def _meta(path: Path, told: Mapping[str, Any], known: Known) -> FeatureMeta:
    """Put together what the file says and what is known; the file goes first but for the encoder.

    Raises:
        StoreError: Something is told by neither.
    """
    encoder = known.encoder or told.get("encoder")
    if not encoder:
        raise StoreError(f"{path}: does not say which encoder made it; name it with --encoder")
    tile_px = told.get("tile_px") or told.get("patch_size") or known.tile_px
    if not tile_px:
        raise StoreError(f"{path}: does not say its tiles' size; give --tile-px")
    side = told.get("tile_px_level0") or told.get("patch_size_level0") or known.tile_px_level0
    if not side and known.mpp and known.mpp_level0:
        side = tile_px * known.mpp / known.mpp_level0
    if not side:
        raise StoreError(
            f"{path}: does not say its tiles' size on level 0; give --tile-px-level0, or --mpp "
            "with the slide's own resolution in the cohort table or --slides"
        )
    size = (told.get("level0_width"), told.get("level0_height"))
    mpp = float(side) * known.mpp_level0 / float(tile_px) if known.mpp_level0 else known.mpp
    return FeatureMeta(
        slide_id=path.stem,
        encoder=str(encoder),
        tile_px=round(float(tile_px)),
        tile_px_level0=float(side),
        overlap_px=int(told.get("overlap") or 0),
        mpp=mpp,
        mpp_level0=known.mpp_level0,
        level0_size=known.level0_size or (int(size[0] or 0), int(size[1] or 0)),
        folder=RunFolder().features_of(encoder).as_posix(),
        provenance=known.provenance,
    )


def _number(path: Path, value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise StoreError(f"{path}: a STAMP file must say {name!r}, and this one does not") from None
    if not 0 < number < float("inf"):
        raise StoreError(f"{path}: {name} is {number}")
    return number
