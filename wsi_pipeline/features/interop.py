"""Our feature stores written in the exact layouts of other tools.

CLAM:    ``h5_files/<id>.h5`` with ``features`` float32 and ``coords`` int32; ``pt_files/<id>.pt``.
TRIDENT: ``features_<encoder>/<id>.h5``, as our own stores.
STAMP:   ``<id>.h5`` with ``feats`` float16 and ``coords`` float32 in µm.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from wsi_pipeline import __version__
from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.features.store import FeatureBag, read_features
from wsi_pipeline.settings import digest

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
    with np.errstate(over="ignore"):  # told below
        features = bag.features.astype(np.float16)
    if not np.isfinite(features).all():
        raise StoreError(f"{slide_id}: features beyond 65504 do not fit STAMP's float16")
    with atomic_file(target) as partial, h5py.File(partial, "w") as file:
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
}
