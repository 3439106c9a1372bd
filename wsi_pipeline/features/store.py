"""Feature stores: one HDF5 file per slide and encoder, read by CLAM and TRIDENT as it is.

``features`` (N, D) float32 or float16 and ``coords`` (N, 2) int64, level-0 (x, y), row by row the
tiles of the tile store. The attributes on ``coords`` and ``features`` carry the names that those
tools use; everything else that is known stands on the root.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError, StoreError
from wsi_pipeline.hdf5 import SEALED, create_hdf5, open_hdf5
from wsi_pipeline.inventory import check_listed
from wsi_pipeline.types import Coords

SCHEMA: Final = "wsi_pipeline.features"
SCHEMA_VERSION: Final = 1
JSON_NAMES: Final = "json_attributes"  # root attributes that hold JSON text
DIGEST: Final = "features_digest"  # of the features as they are read, in stores that tell it
AGAIN: Final = "repair the run folder, or extract again with --overwrite"
UM_PER_PX_AT_1X: Final = 10.0  # 20x is 0.5 µm/px by convention
NOMINAL: Final = (5, 10, 20, 40, 60, 80, 100)
MAGNIFICATIONS: Final = ("level0_magnification", "target_magnification")
COORDS_ATTRIBUTES: Final = (
    "patch_size", "patch_size_level0", *MAGNIFICATIONS, "overlap",
    "name", "savetodir", "level0_width", "level0_height",
)  # fmt: skip
FEATURES_ATTRIBUTES: Final = ("name", "savetodir", "encoder")


@dataclass(frozen=True, kw_only=True)
class FeatureMeta:
    """What a feature store says about its rows.

    Attributes:
        slide_id: The slide.
        encoder: Tag of the encoder, ``densenet121.ra_in1k``.
        tile_px: Side of a tile as the encoder saw it.
        tile_px_level0: The same side in level-0 pixels, not always whole.
        overlap_px: Overlap of neighbouring tiles, in pixels of the tile.
        mpp: µm per pixel of the tiles; None where it is unknown.
        mpp_level0: µm per pixel of level 0; None where it is unknown.
        magnifications: Of level 0 and of the tiles, as another tool tells them; used where their
            resolutions are unknown.
        level0_size: (width, height) of level 0; (0, 0) where it is unknown.
        folder: Where the store lies in its run folder, for instance ``features/densenet121.x``.
        provenance: Further root attributes, JSON-ready: input digest, resolved settings, versions.
    """

    slide_id: str
    encoder: str
    tile_px: int
    tile_px_level0: float
    overlap_px: int = 0
    mpp: float | None = None
    mpp_level0: float | None = None
    magnifications: tuple[float, float] | None = None
    level0_size: tuple[int, int]
    folder: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FeatureBag:
    """One slide's features.

    Attributes:
        features: (N, D) float32.
        coords: (N, 2) int64, level-0 (x, y) of each tile's top-left corner.
        attributes: Those of root, ``coords`` and ``features`` in one mapping.
        told: Digest of the features as a sealed store tells it; None where it has to be computed.
    """

    features: NDArray[np.float32]
    coords: Coords
    attributes: Mapping[str, Any]
    told: str | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def digest(self) -> str:
        """Of the features, see :func:`features_digest`."""
        return self.told or features_digest(self.features)


def write_features(
    path: Path,
    features: NDArray[np.float32],
    coords: Coords,
    meta: FeatureMeta,
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Write a store; ``path`` is whole or as it was before. The caller is its only writer.

    Args:
        path: Ends in ``.h5``.
        features: (N, D).
        coords: (N, 2) int64.
        meta: What is known about them.
        dtype: Of the features on disk.

    Raises:
        StoreError: Row counts differ, nothing is there, or a feature is not a finite number.
    """
    with np.errstate(over="ignore"):  # what float16 cannot hold is found below
        values = np.asarray(features, dtype)
    if values.ndim != 2 or coords.shape != (len(values), 2) or not values.size:
        raise StoreError(
            f"{path}: features {features.shape} and coords {coords.shape} are not those of a slide"
        )
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise StoreError(
            f"{path}: {bad.size} of {len(values)} features are not finite, first that of tile "
            f"{bad[0]}; nothing was written. Try --precision fp32, and float32 on disk"
        )
    with create_hdf5(path) as file:
        stored = file.create_dataset("features", data=values)
        stored.attrs.update(_features_attributes(meta))
        places = file.create_dataset("coords", data=np.asarray(coords, np.int64))
        places.attrs.update(_coords_attributes(meta))
        _write_root(file, _root_attributes(meta))
        file.attrs[DIGEST] = features_digest(values)


def features_digest(features: NDArray[np.floating[Any]]) -> str:
    """Return the digest of a bag's features, (N, D), as float32 in C order."""
    whole = np.ascontiguousarray(features, np.float32)
    return hashlib.blake2b(whole.data, digest_size=16).hexdigest()


def read_features(path: str | Path) -> FeatureBag:
    """Read a store of ours, or CLAM's or TRIDENT's.

    Raises:
        StoreError: There is none, or it is no feature file.
        StoreCorruptError: It cannot be read.
    """
    path = Path(path)
    with _open(path) as file:
        try:
            if not {"features", "coords"} <= set(file):
                raise StoreError(
                    f"{path}: no feature file; it holds {', '.join(file) or 'nothing'}, not "
                    "features and coords"
                )
            return FeatureBag(
                features=np.asarray(file["features"][()], np.float32),
                coords=np.asarray(file["coords"][()], np.int64),
                attributes=_all_attributes(file),
                told=_told(file),
            )
        except (OSError, KeyError, RuntimeError) as error:
            raise StoreCorruptError(f"{path}: damaged: {error}; {AGAIN}") from error


def read_digest(path: Path) -> str:
    """Return the digest of a store's features; stores from before they told it are read for it.

    Raises:
        StoreError: There is no such store, or it is no feature file.
        StoreCorruptError: It cannot be read.
    """
    with _open(path) as file:
        told = _told(file)
    return told or read_features(path).digest


def _told(file: h5py.File) -> str | None:
    """Return the digest that a store tells; one without a seal may have been changed since."""
    return file.attrs[DIGEST] if SEALED in file.attrs and DIGEST in file.attrs else None


def read_attributes(path: Path) -> dict[str, Any]:
    """Read a store's attributes without its features.

    Raises:
        StoreError: There is no such store.
        StoreCorruptError: It cannot be read.
    """
    with _open(path) as file:
        return _all_attributes(file)


def find_features(features_folder: Path, encoder: str) -> Path:
    """Return the folder of an encoder's stores, named by its tag or by its bare name.

    Args:
        features_folder: ``<run>/features``.
        encoder: ``densenet121.ra_in1k``, or ``densenet121`` where one tag of it is there.

    Raises:
        StoreError: None fits, or several do.
    """
    exact = features_folder / encoder
    if exact.is_dir():
        return exact
    folders = sorted(path for path in features_folder.glob("*") if path.is_dir())
    fitting = [path for path in folders if path.name.startswith(f"{encoder}.")]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(path.name for path in fitting or folders) or "nothing"
    problem = "several encoders fit" if fitting else "no features of this encoder"
    raise StoreError(f"{features_folder}: {encoder!r}: {problem}; found {names}")


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    """Open a store whose bytes are those that were written.

    Raises:
        StoreError: There is none.
        StoreCorruptError: They are not, or it is no HDF5 file.
    """
    if not path.is_file():
        raise StoreError(f"{path}: there is no such feature store; extract the slide first")
    with ExitStack() as stack:
        try:
            check_listed(path)
            file = stack.enter_context(open_hdf5(path)).file
        except StoreCorruptError as error:
            raise StoreCorruptError(f"{error}; {AGAIN}") from error
        except OSError as error:
            raise StoreCorruptError(f"{path}: not readable as HDF5: {error}; {AGAIN}") from error
        yield file


def _features_attributes(meta: FeatureMeta) -> dict[str, Any]:
    return {"name": meta.slide_id, "savetodir": meta.folder, "encoder": meta.encoder}


def _coords_attributes(meta: FeatureMeta) -> dict[str, Any]:
    level0, tiles = magnification(meta.mpp_level0), magnification(meta.mpp)
    if meta.magnifications is not None and None in (meta.mpp, meta.mpp_level0):
        level0, tiles = (int(each) if each == int(each) else each for each in meta.magnifications)
    return {
        "patch_size": meta.tile_px,
        "patch_size_level0": round(meta.tile_px_level0),
        "level0_magnification": level0,
        "target_magnification": tiles,
        "overlap": meta.overlap_px,
        "name": meta.slide_id,
        "savetodir": meta.folder,
        "level0_width": meta.level0_size[0],
        "level0_height": meta.level0_size[1],
    }


def _root_attributes(meta: FeatureMeta) -> dict[str, Any]:
    return {
        **meta.provenance,
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "slide_id": meta.slide_id,
        "encoder": meta.encoder,
        "tile_px": meta.tile_px,
        "tile_px_level0": meta.tile_px_level0,
        "overlap_px": meta.overlap_px,
        "mpp": meta.mpp,
        "mpp_level0": meta.mpp_level0,
    }


def magnification(mpp: float | None) -> int | float:
    """Return the nominal magnification, or the exact one where none is within 3 %.

    NaN where the mpp is unknown.
    """
    if mpp is None:
        return float("nan")
    exact = UM_PER_PX_AT_1X / mpp
    nearest = min(NOMINAL, key=lambda nominal: abs(exact - nominal))
    return nearest if abs(exact - nearest) <= 0.03 * nearest else exact


def _write_root(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    nested = [name for name, value in attributes.items() if not _is_scalar(value)]
    for name, value in attributes.items():
        plain = json.dumps(value, ensure_ascii=False) if name in nested else value
        file.attrs[name] = plain
    file.attrs[JSON_NAMES] = json.dumps(nested)


def _all_attributes(file: h5py.File) -> dict[str, Any]:
    attributes = _plain(file.attrs)
    for ours in (SEALED, DIGEST):  # of this file alone, never of what is made of it
        attributes.pop(ours, None)
    nested = json.loads(attributes.pop(JSON_NAMES, "[]"))
    attributes |= {name: json.loads(attributes[name]) for name in nested}
    for name in ("coords", "features"):
        if name in file:
            attributes |= _plain(file[name].attrs)
    return attributes


def _plain(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in stored.items()
    }


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | bool | int | float)


def verify_features(
    path: Path, input_digest: str | None = None, coords: Coords | None = None
) -> list[str]:
    """Check a feature store.

    Args:
        path: The file.
        input_digest: Digest of the input as it is now; None leaves staleness unchecked.
        coords: (N, 2) of the tiles that it should be of; None leaves them unchecked.

    Returns:
        What is wrong with it; empty when nothing is.
    """
    try:
        bag = read_features(path)
        with _open(path) as file:
            problems = [*_attributes(file), *_types(file)]
    except StoreError as error:
        return [str(error)]
    problems += _rows(bag)
    stored = bag.attributes.get("input_digest")
    if input_digest is not None and stored != input_digest:
        problems.append(f"made from another input (digest {stored}, now {input_digest})")
    if coords is not None:
        problems += _tiles(bag, coords)
    return [f"{path}: {problem}" for problem in problems]


def _tiles(bag: FeatureBag, coords: Coords) -> Iterator[str]:
    if len(bag) != len(coords):
        yield f"{len(bag)} features of {len(coords)} tiles; extract the slide again"
    elif not np.array_equal(bag.coords, coords):
        yield "its coords are not those of the tiles; extract the slide again"


def _attributes(file: h5py.File) -> Iterator[str]:
    for name, wanted in (("coords", COORDS_ATTRIBUTES), ("features", FEATURES_ATTRIBUTES)):
        missing = [key for key in wanted if key not in file[name].attrs]
        if missing:
            yield f"{name} lacks the attributes {', '.join(missing)}"


def _types(file: h5py.File) -> Iterator[str]:
    features, coords = file["features"], file["coords"]
    if features.dtype not in (np.float32, np.float16):
        yield f"features are {features.dtype}, not float32 or float16"
    if coords.dtype != np.int64:
        yield f"coords are {coords.dtype}, not int64"


def _rows(bag: FeatureBag) -> Iterator[str]:
    features, coords = bag.features, bag.coords
    if features.ndim != 2 or coords.shape != (len(features), 2):
        yield f"features {features.shape} and coords {coords.shape} do not belong together"
        return
    if not len(features):
        yield "no features"
        return
    bad = int((~np.isfinite(features).all(axis=1)).sum())
    if bad:
        yield f"{bad} of {len(features)} features are not finite"
    twice = len(coords) - len(np.unique(coords, axis=0))
    if twice:
        yield f"{twice} tiles stand there twice"
    width, height = (bag.attributes.get(f"level0_{side}") for side in ("width", "height"))
    if width and height:
        outside = int(((coords >= (width, height)) | (coords < 0)).any(axis=1).sum())
        if outside:
            yield f"{outside} tiles lie outside of the slide's {width}×{height} px"
