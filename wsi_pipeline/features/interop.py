"""Feature files of other tools: ours written in their exact layouts, theirs read as ours.

CLAM:    ``h5_files/<id>.h5`` with ``features`` float32 and ``coords`` int32; ``pt_files/<id>.pt``.
TRIDENT: ``features_<encoder>/<id>.h5``, as our own stores.
STAMP:   ``<id>.h5`` with ``feats`` float16 and ``coords`` float32 in µm.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from wsi_pipeline import __version__
from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.config import digest
from wsi_pipeline.errors import ConfigError, StoreCorruptError, StoreError
from wsi_pipeline.features.store import FeatureBag, read_features

STAMP_VERSION: Final = "2.3.0"  # of the layout


def export_features(path: Path, folder: Path, layout: str) -> list[Path]:
    """Write a feature store in another tool's layout.

    Args:
        path: A store of ours.
        folder: Root of the other tool's folders.
        layout: ``clam``, ``trident`` or ``stamp``.

    Returns:
        The files written.

    Raises:
        ConfigError: The layout is unknown.
        StoreError: The store cannot be read, or lacks the resolution that STAMP needs.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout {layout}: unknown; known are {', '.join(LAYOUTS)}")
    bag = read_features(path)
    return LAYOUTS[layout](bag, str(bag.attributes.get("slide_id", path.stem)), folder)


def import_features(path: Path) -> FeatureBag:
    """Read a feature file of CLAM, TRIDENT, STAMP or ours.

    STAMP's coords are turned from µm into level-0 pixels, for which it must say the slide's mpp;
    where it does not, they stay in pixels of the tile.

    Raises:
        StoreError: It is none of these.
        StoreCorruptError: It cannot be read.
    """
    if path.suffix == ".pt":
        raise StoreError(f"{path}: holds no coords; read the .h5 beside it")
    try:
        with h5py.File(path, "r") as file:
            names, root = set(file), dict(file.attrs)
            if "feats" in names:
                features = np.asarray(file["feats"][()], np.float32)
                coords = np.asarray(file["coords"][()], np.float64)
    except OSError as error:
        raise StoreCorruptError(f"{path}: not a readable HDF5 file: {error}") from error
    if "feats" not in names:
        return read_features(path)
    tile_um, tile_px = _number(path, root, "tile_size_um"), _number(path, root, "tile_size_px")
    pixels = coords * tile_px / tile_um if root.get("unit") == "um" else coords
    return FeatureBag(
        features=features,
        coords=np.rint(pixels).astype(np.int64),
        attributes={
            "encoder": str(root.get("extractor", "unknown")),
            "tile_px": round(tile_px),
            "mpp": tile_um / tile_px,
            "patch_size": round(tile_px),
            "coords_mpp": tile_um / tile_px,  # of what coords count, as level 0 is not told
            "name": path.stem,
        },
    )


def _to_clam(bag: FeatureBag, slide_id: str, folder: Path) -> list[Path]:
    import torch

    h5, pt = folder / "h5_files" / f"{slide_id}.h5", folder / "pt_files" / f"{slide_id}.pt"
    limit = np.iinfo(np.int32).max
    if bag.coords.size and bag.coords.max() > limit:
        raise StoreError(f"{slide_id}: coords beyond {limit} do not fit CLAM's int32")
    with atomic_file(h5) as partial, h5py.File(partial, "w") as file:
        file.create_dataset("features", data=bag.features)
        file.create_dataset("coords", data=bag.coords.astype(np.int32))
    with atomic_file(pt) as partial:
        torch.save(torch.from_numpy(bag.features), partial)
    return [h5, pt]


def _to_trident(bag: FeatureBag, slide_id: str, folder: Path) -> list[Path]:
    from wsi_pipeline.features.store import COORDS_ATTRIBUTES, FEATURES_ATTRIBUTES

    encoder = str(bag.attributes.get("encoder", "unknown"))
    target = folder / f"features_{encoder}" / f"{slide_id}.h5"
    known = {name: bag.attributes[name] for name in bag.attributes}
    known["savetodir"] = f"features_{encoder}"
    with atomic_file(target) as partial, h5py.File(partial, "w") as file:
        for name, values, wanted in (
            ("features", bag.features, FEATURES_ATTRIBUTES),
            ("coords", bag.coords, COORDS_ATTRIBUTES),
        ):
            dataset = file.create_dataset(name, data=values)
            dataset.attrs.update({key: known[key] for key in wanted if key in known})
    return [target]


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
    with atomic_file(target) as partial, h5py.File(partial, "w") as file:
        file.create_dataset("feats", data=bag.features.astype(np.float16))
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


def _number(path: Path, attributes: Mapping[str, Any], name: str) -> float:
    try:
        value = float(attributes[name])
    except (KeyError, TypeError, ValueError):
        raise StoreError(f"{path}: a STAMP file must say {name!r}, and this one does not") from None
    if not value > 0:
        raise StoreError(f"{path}: {name} is {value}")
    return value


LAYOUTS: Final[dict[str, Callable[[FeatureBag, str, Path], list[Path]]]] = {
    "clam": _to_clam,
    "trident": _to_trident,
    "stamp": _to_stamp,
}
