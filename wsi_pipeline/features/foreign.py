"""Feature files of CLAM, TRIDENT, STAMP, LazySlide, read as ours.

Read, they are level-0 pixels and one set of attributes. CLAM says nothing but features and coords,
and its tiles' size in the files of its patches; TRIDENT tells its tiles' size; STAMP counts in µm,
and did in 224ths of 256 µm before its version 2. What a file leaves open has to be told, and
nothing is guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError, StoreError
from wsi_pipeline.features.anndata_files import SUFFIX, read_anndata, read_head
from wsi_pipeline.features.spatialdata_files import SUFFIX as ZARR
from wsi_pipeline.features.spatialdata_files import read_spatial_head, read_spatialdata
from wsi_pipeline.features.store import MAGNIFICATIONS, FeatureMeta
from wsi_pipeline.hdf5 import open_hdf5
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.types import Coords

STAMP_FEATURES: Final = "feats"
STAMP_1_PX: Final = 224  # of a tile of 256 µm in STAMP 1, which counted in pixels of the tiles
STAMP_1_UM: Final = 256.0


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
        patches: CLAM's file of the slide's patches, which tells their size.
        provenance: Further root attributes of the store to be made.
    """

    encoder: str | None = None
    tile_px: int | None = None
    tile_px_level0: float | None = None
    mpp: float | None = None
    mpp_level0: float | None = None
    level0_size: tuple[int, int] | None = None
    patches: Path | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ForeignBag:
    """Another tool's features, ready for :func:`write_features`.

    Attributes:
        layout: ``clam``, ``trident``, ``stamp``, ``anndata`` or ``spatialdata``.
        features: (N, D) float32.
        coords: (N, 2) int64, level-0 (x, y) of each tile's top-left corner.
        meta: What is known about them.
    """

    layout: str
    features: NDArray[np.float32]
    coords: Coords
    meta: FeatureMeta


def import_features(path: Path, known: Known | None = None) -> ForeignBag:
    """Read features of CLAM, TRIDENT, STAMP or ours, or LazySlide's AnnData and SpatialData.

    Args:
        path: An HDF5 file, or a SpatialData store; its stem is the slide.
        known: What to take where the file does not say it. STAMP's coords need ``mpp_level0``,
            CLAM's tiles need their ``patches``, or ``tile_px`` and either ``tile_px_level0`` or
            both resolutions.

    Raises:
        StoreError: It is none of these, it leaves something open, or a tile lies outside of the
            slide; the message says what.
        StoreCorruptError: It cannot be read.
    """
    bag = _foreign_bag(path, Known() if known is None else known)
    _require_inside(path, bag)
    return bag


def _require_places(path: Path, coords: NDArray[np.floating[Any]]) -> None:
    """Refuse coords that are no numbers.

    Raises:
        StoreError: As said, by row.
    """
    rows = np.flatnonzero(~np.isfinite(coords).all(axis=1))
    if rows.size:
        x, y = coords[rows[0]]
        raise StoreError(
            f"{path}: row {rows[0] + 1}: its tile begins at x={x}, y={y}, which is no place on a "
            "slide; extract the slide anew"
        )


def _require_inside(path: Path, bag: ForeignBag) -> None:
    """Refuse tiles that do not begin on their slide; its right and lower end may be unknown.

    Raises:
        StoreError: As said, by row.
    """
    width, height = bag.meta.level0_size
    known = width > 0 and height > 0
    outside = (bag.coords < 0).any(axis=1)
    if known:
        outside |= (bag.coords >= (width, height)).any(axis=1)
    rows = np.flatnonzero(outside)
    if not rows.size:
        return
    x, y = bag.coords[rows[0]].tolist()
    size = f" of {width} × {height} px" if known else ""
    more = f", and so do {rows.size - 1} more" if rows.size > 1 else ""
    raise StoreError(
        f"{path}: row {rows[0] + 1}: its tile begins at x={x}, y={y}, outside of the slide{size}"
        f"{more}; import the file of this slide, with coords in pixels of its level 0"
    )


def _foreign_bag(path: Path, known: Known) -> ForeignBag:
    if path.suffix == ".pt":
        raise StoreError(f"{path}: holds no coords; import the .h5 file of the same name instead")
    if path.suffix == SUFFIX:
        return _lazyslide("anndata", path, read_anndata(path), known)
    if path.suffix == ZARR:
        return _lazyslide("spatialdata", path, read_spatialdata(path, known.encoder), known)
    features, coords, attributes = _read(path)
    _require_places(path, coords)
    if "tile_size_um" in attributes or attributes.get("unit") == "um":
        return _stamp(path, features, coords, attributes, known)
    if attributes.get(STAMP_FEATURES) or attributes.get("feat_type"):
        return _stamp_1(path, features, coords, attributes, known)
    layout = "trident" if "patch_size" in attributes else "clam"
    if layout == "clam" and known.patches is not None:
        known = _with_patches(known.patches, coords, known)
    return ForeignBag(
        layout=layout,
        features=features,
        coords=np.rint(coords).astype(np.int64),
        meta=_meta(path, attributes, known),
    )


def _lazyslide(
    layout: str,
    path: Path,
    read: tuple[NDArray[np.float32], NDArray[np.float64], dict[str, Any]],
    known: Known,
) -> ForeignBag:
    features, coords, told = read
    if features.ndim != 2 or coords.shape != (len(features), 2):
        raise StoreError(
            f"{path}: features {features.shape} and coords {coords.shape} do not belong together"
        )
    _require_places(path, coords)
    known = replace(known, mpp_level0=known.mpp_level0 or told.get("mpp_level0"))
    return ForeignBag(
        layout=layout,
        features=features,
        coords=np.rint(coords).astype(np.int64),
        meta=_meta(path, told, known),
    )


def read_width(path: Path, encoder: str | None = None) -> tuple[str | None, int]:
    """Return the encoder that a feature file names, None if it names none, and its width D.

    Args:
        path: The file.
        encoder: Whose features, where the file holds those of several.

    Raises:
        StoreError: It holds features of several encoders.
        StoreCorruptError: It cannot be read, or it holds no features.
    """
    told, shape = _read_head(path, encoder)
    return told, shape[-1]


def read_shape(path: Path) -> tuple[int, int]:
    """Return N and D of a feature file; errors as of :func:`read_width`."""
    shape = _read_head(path)[1]
    return shape[-2] if len(shape) > 1 else 1, shape[-1]


def _read_head(path: Path, encoder: str | None = None) -> tuple[str | None, tuple[int, ...]]:
    if path.suffix == ZARR:
        return read_spatial_head(path, encoder)
    try:
        if path.suffix == SUFFIX:
            return read_head(path)
        with h5py.File(path, "r") as file:
            features = file[STAMP_FEATURES if STAMP_FEATURES in file else "features"]
            attributes = dict(file.attrs) | dict(features.attrs)
            told = attributes.get("extractor") or attributes.get("encoder")
            shape = tuple(int(side) for side in features.shape)
            if not shape:
                raise KeyError("a single number")
            return None if told is None else str(told), shape
    except (OSError, KeyError, RuntimeError, IndexError, AttributeError) as error:
        raise StoreCorruptError(f"{path}: not a readable feature file: {error}") from error


def um_to_level0(coords_um: NDArray[np.floating[Any]], mpp_level0: float) -> Coords:
    """Turn µm (N, 2) into level-0 pixels, rounded to whole ones."""
    pixels: Coords = np.rint(np.asarray(coords_um, np.float64) / mpp_level0).astype(np.int64)
    return pixels


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.floating[Any]], dict[str, Any]]:
    try:
        with open_hdf5(path) as checked:
            file = checked.file
            name = STAMP_FEATURES if STAMP_FEATURES in file else "features"
            if not {name, "coords"} <= set(file):
                found = ", ".join(file) or "nothing"
                raise StoreError(
                    f"{path}: no feature file of CLAM, TRIDENT or STAMP: holds {found}"
                )
            features = np.asarray(file[name][()], np.float32)
            coords = np.asarray(file["coords"][()], np.float64)
            attributes = dict(file.attrs) | dict(file["coords"].attrs) | dict(file[name].attrs)
            attributes[STAMP_FEATURES] = name == STAMP_FEATURES
            if attributes.get("unit") == "um" and "tile_size" in attributes:  # STAMP 2.0's name
                attributes.setdefault("tile_size_um", attributes["tile_size"])
    except StoreCorruptError:
        raise
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


def _stamp_1(
    path: Path,
    features: NDArray[np.float32],
    coords: NDArray[np.floating[Any]],
    attributes: Mapping[str, Any],
    known: Known,
) -> ForeignBag:
    """Read a file of STAMP 1, as STAMP 2 does: it names no unit, and its tiles' step tells it.

    Raises:
        StoreError: The step is another one.
    """
    step = attributes.get("tile_size", _step(coords))
    if step is None or round(float(step)) != STAMP_1_PX:
        raise StoreError(
            f"{path}: STAMP's coords in no stated unit, of tiles {step} apart, where STAMP 1 has "
            f"{STAMP_1_PX}; extract the slide anew with STAMP 2"
        )
    told = dict(attributes) | {"tile_size_um": STAMP_1_UM, "tile_size_px": STAMP_1_PX}
    told.pop("unit", None)
    return _stamp(path, features, coords / STAMP_1_PX * STAMP_1_UM, told, known)


def _step(coords: NDArray[np.floating[Any]]) -> float | None:
    """Return the least step between tiles, across or down; None of a single tile."""
    steps = [np.diff(np.unique(axis)) for axis in coords.T]
    found = np.concatenate(steps) if steps else np.empty(0)
    return float(found.min()) if found.size else None


def _with_patches(path: Path, coords: NDArray[np.floating[Any]], known: Known) -> Known:
    """Add what CLAM's file of a slide's patches says of their size; what was told goes first.

    Raises:
        StoreError: It is of other tiles, or does not tell their size.
        StoreCorruptError: It cannot be read.
    """
    try:
        with open_hdf5(path) as checked:
            places = np.asarray(checked.file["coords"][()], np.float64)
            told = dict(checked.file["coords"].attrs)
            px = int(told["patch_size"])
            downsample = float(np.ravel(told.get("downsample", 1.0))[0])
            if "downsample" not in told and int(told["patch_level"]) != 0:
                raise StoreError(f"{path}: does not say the downsample of its patch_level")
            size = tuple(int(side) for side in np.ravel(told.get("level_dim", ()))[:2])
    except StoreError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise StoreCorruptError(f"{path}: no file of CLAM's patches: {error}") from error
    if not np.array_equal(places, coords):
        raise StoreError(
            f"{path}: its {len(places)} patches are not those of the {len(coords)} features; they "
            "were cut anew since, or are another slide's"
        )
    level0 = (size[0], size[1]) if len(size) == 2 and downsample == 1 else None
    return replace(
        known,
        tile_px=known.tile_px or px,
        tile_px_level0=known.tile_px_level0 or px * downsample,
        level0_size=known.level0_size or level0,
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
        magnifications=_magnifications(told),
        level0_size=known.level0_size or (int(size[0] or 0), int(size[1] or 0)),
        folder=RunFolder().features_of(encoder).as_posix(),
        provenance=known.provenance,
    )


def _magnifications(told: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return what TRIDENT says of level 0 and of the tiles; it is no resolution, but comes back."""
    found = [told.get(name) for name in MAGNIFICATIONS]
    if any(not isinstance(each, int | float | np.number) for each in found):
        return None
    level0, tiles = (float(each) for each in found)  # type: ignore[arg-type]
    return (level0, tiles) if np.isfinite(level0) and np.isfinite(tiles) else None


def _number(path: Path, value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise StoreError(f"{path}: a STAMP file must say {name!r}, and this one does not") from None
    if not 0 < number < float("inf"):
        raise StoreError(f"{path}: {name} is {number}")
    return number
