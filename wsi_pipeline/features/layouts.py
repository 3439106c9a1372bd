"""Feature stores written in the layouts of CLAM, TRIDENT, STAMP, AnnData and SpatialData."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from shapely.geometry import MultiPolygon

from wsi_pipeline import __version__
from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.features.anndata_files import write_anndata
from wsi_pipeline.features.spatialdata_files import write_spatialdata
from wsi_pipeline.features.store import (
    COORDS_ATTRIBUTES,
    FEATURES_ATTRIBUTES,
    MAGNIFICATIONS,
    FeatureBag,
    read_features,
)
from wsi_pipeline.hdf5 import unsealed_hdf5
from wsi_pipeline.settings import digest

STAMP_VERSION: Final = "2.3.0"  # of the layout


def export_features(
    path: Path, folder: Path, layout: str, tissue: MultiPolygon | None = None
) -> list[Path]:
    """Write a feature store in another tool's layout.

    Args:
        path: A store of ours.
        folder: Root of the other tool's folders.
        layout: ``clam``, ``trident``, ``stamp``, ``anndata`` or ``spatialdata``.
        tissue: The slide's tissue, level-0 px, which SpatialData alone has a place for.

    Returns:
        The files written.

    Raises:
        ConfigError: The layout is unknown.
        StoreError: The store cannot be read, or lacks the resolution that STAMP needs.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout {layout}: unknown; known are {', '.join(LAYOUTS)}")
    bag = read_features(path)
    slide_id = str(bag.attributes.get("slide_id", path.stem))
    if layout == "spatialdata":
        return write_spatialdata(bag, slide_id, folder, tissue)
    return LAYOUTS[layout](bag, slide_id, folder)


def _to_clam(bag: FeatureBag, slide_id: str, folder: Path) -> list[Path]:
    import torch

    h5, pt = folder / "h5_files" / f"{slide_id}.h5", folder / "pt_files" / f"{slide_id}.pt"
    limit = np.iinfo(np.int32).max
    if bag.coords.size and bag.coords.max() > limit:
        raise StoreError(f"{slide_id}: coords beyond {limit} do not fit CLAM's int32")
    with atomic_file(h5) as partial, unsealed_hdf5(partial) as file:
        file.create_dataset("features", data=bag.features)
        file.create_dataset("coords", data=bag.coords.astype(np.int32))
    buffer = io.BytesIO()  # torch hides what a full disk says, and writes a file's name into it
    torch.save(torch.from_numpy(bag.features), buffer)
    with atomic_file(pt) as partial:
        partial.write_bytes(buffer.getvalue())
    return [h5, pt, *_clam_patches(bag, slide_id, folder)]


def _clam_patches(bag: FeatureBag, slide_id: str, folder: Path) -> list[Path]:
    """Write where the patches are, as CLAM's own tiling does; none where that is not known."""
    side = bag.attributes.get("tile_px_level0") or bag.attributes.get("patch_size_level0")
    if not side:
        return []
    size = [int(bag.attributes.get(f"level0_{name}") or 0) for name in ("width", "height")]
    target = folder / "patches" / f"{slide_id}.h5"
    with atomic_file(target) as partial, unsealed_hdf5(partial) as file:
        places = file.create_dataset("coords", data=bag.coords.astype(np.int32))
        places.attrs.update(
            {
                "patch_size": round(float(side)), "patch_level": 0, "downsample": [1.0, 1.0],
                "downsampled_level_dim": size, "level_dim": size, "name": slide_id,
                "save_path": "patches",
            }
        )  # fmt: skip
    return [target]


def _to_trident(bag: FeatureBag, slide_id: str, folder: Path) -> list[Path]:
    encoder = str(bag.attributes.get("encoder", "unknown"))
    target = folder / f"features_{encoder}" / f"{slide_id}.h5"
    known = {name: bag.attributes[name] for name in bag.attributes}
    known["savetodir"] = f"features_{encoder}"
    for name in MAGNIFICATIONS:
        if not np.isfinite(known.get(name, np.nan)):
            known.pop(name, None)  # TRIDENT takes NaN for a magnification
    with atomic_file(target) as partial, unsealed_hdf5(partial) as file:
        for name, values, wanted in (
            ("features", bag.features, FEATURES_ATTRIBUTES),
            ("coords", bag.coords, COORDS_ATTRIBUTES),
        ):
            dataset = file.create_dataset(name, data=values)
            dataset.attrs.update({key: known[key] for key in wanted if key in known})
    if not known.keys() >= {"patch_size", *MAGNIFICATIONS}:
        return [target]
    patches = folder / "patches" / f"{slide_id}_patches.h5"
    with atomic_file(patches) as partial, unsealed_hdf5(partial) as file:
        dataset = file.create_dataset("coords", data=bag.coords)
        told = {key: known[key] for key in COORDS_ATTRIBUTES if key in known}
        dataset.attrs.update(told | {"savetodir": folder.name})
    return [target, patches]


def _to_stamp(bag: FeatureBag, slide_id: str, folder: Path) -> list[Path]:
    attributes = bag.attributes
    mpp, mpp_level0 = attributes.get("mpp"), attributes.get("mpp_level0")
    if mpp is None or mpp_level0 is None:
        raise StoreError(
            f"{slide_id}: STAMP's coords are in µm, and the slide's resolution is unknown; give "
            "its mpp in the cohort table and tile it again"
        )
    target = folder / f"{slide_id}.h5"
    tile_px = int(attributes["tile_px"])
    with np.errstate(over="ignore"):  # told below
        features = bag.features.astype(np.float16)
    if not np.isfinite(features).all():
        raise StoreError(f"{slide_id}: features beyond 65504 do not fit STAMP's float16")
    with atomic_file(target) as partial, unsealed_hdf5(partial) as file:
        file.create_dataset("feats", data=features)
        file.create_dataset("coords", data=(bag.coords * mpp_level0).astype(np.float32))
        file.attrs.update(
            {
                "stamp_version": STAMP_VERSION,
                "extractor": str(attributes["encoder"]),
                "unit": "um",
                "tile_size_um": float(tile_px * mpp),
                "tile_size_px": tile_px,
                "code_hash": digest({"wsi_pipeline": __version__}),
                "feat_type": "tile",
            }
        )
    return [target]


LAYOUTS: Final[dict[str, Callable[[FeatureBag, str, Path], list[Path]]]] = {
    "clam": _to_clam,
    "trident": _to_trident,
    "stamp": _to_stamp,
    "anndata": write_anndata,
    "spatialdata": write_spatialdata,
}
