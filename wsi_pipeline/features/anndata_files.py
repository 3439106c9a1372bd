"""Features as AnnData, laid out as LazySlide's wsidata hands them out (``features_anndata``).

``X`` (N, D); ``obs`` a row a tile with ``tile_id``, ``x``, ``y``, ``library_id``;
``obsm["spatial"]`` (N, 2) level-0 (x, y) of the tiles' top-left corners; ``uns["tile_spec"]`` and
``uns["slide_properties"]`` their size and the slide's. Scanpy reads it, and so do we.

Slide embeddings are one table for all slides, a row each, with what the cohort says in ``obs``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.atomic import atomic_file
from wsi_pipeline.errors import ConfigError, StoreCorruptError, StoreError
from wsi_pipeline.features.store import FeatureBag
from wsi_pipeline.hdf5 import unsealed_hdf5

SUFFIX: Final = ".h5ad"
LIBRARY: Final = "tiles"  # wsidata's name of the tiles' shapes


def import_anndata() -> Any:
    """Import the package.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import anndata
    except ImportError as error:
        raise ConfigError(
            "AnnData files need the package anndata: pip install 'wsi-pipeline[anndata]'"
        ) from error
    return anndata


def write_anndata(bag: FeatureBag, slide_id: str, folder: Path) -> list[Path]:
    """Write ``<folder>/<slide_id>.h5ad``.

    Raises:
        ConfigError: anndata is not installed.
        StoreError: The tiles' size is not known.
    """
    anndata = import_anndata()
    import pandas as pd

    told = bag.attributes
    px, side = tile_sides(told, slide_id)
    number = np.arange(len(bag))
    obs = pd.DataFrame(
        {"tile_id": number, "x": bag.coords[:, 0], "y": bag.coords[:, 1]}, names_of_rows(len(bag))
    )
    library = pd.Index([LIBRARY], dtype=object)
    obs["library_id"] = pd.Categorical.from_codes(np.zeros(len(bag), int), library)
    made = anndata.AnnData(
        X=bag.features,
        obs=obs,
        var=pd.DataFrame(index=names_of_rows(bag.features.shape[1])),
        obsm={"spatial": bag.coords},
        uns=_uns(told, slide_id, px, side),
    )
    target = folder / f"{slide_id}{SUFFIX}"
    with atomic_file(target) as partial, unsealed_hdf5(partial) as file:
        anndata.io.write_elem(file, "/", made)
    return [target]


def write_embeddings(
    embedded: Mapping[str, FeatureBag], told: Mapping[str, Mapping[str, str | None]], target: Path
) -> None:
    """Write slide embeddings as one AnnData, in the order of ``embedded``.

    Args:
        embedded: slide_id → its embedding, (1, W).
        told: slide_id → what the cohort says of it; columns that no slide has are left out.
        target: The file.

    Raises:
        ConfigError: anndata is not installed.
        StoreError: The embeddings are not of one slide encoder.
    """
    anndata = import_anndata()
    import pandas as pd

    tags = sorted({str(bag.attributes.get("encoder")) for bag in embedded.values()})
    widths = sorted({bag.features.shape[1] for bag in embedded.values()})
    if len(tags) != 1 or len(widths) != 1:
        raise StoreError(f"{target}: embeddings of several encoders: {tags}, {widths} wide")
    ids = pd.Index(list(embedded), dtype=object)
    columns = dict.fromkeys(name for row in told.values() for name, value in row.items() if value)
    obs = pd.DataFrame(
        {name: [told.get(each, {}).get(name) or "" for each in embedded] for name in columns},
        index=ids,
        dtype=object,
    )
    about = next(iter(embedded.values())).attributes
    made_from = about.get("made_from", {})
    uns = {"encoder": tags[0], "slide_encoder": str(made_from.get("slide_encoder", "")),
           "licence": str(about.get("licence", ""))}  # fmt: skip
    made = anndata.AnnData(
        X=np.concatenate([bag.features for bag in embedded.values()]),
        obs=obs,
        var=pd.DataFrame(index=names_of_rows(widths[0])),
        uns=uns,
    )
    with atomic_file(target) as partial, unsealed_hdf5(partial) as file:
        anndata.io.write_elem(file, "/", made)


def names_of_rows(count: int) -> Any:
    """Return the names of rows; objects, as text of pandas 3 is not read by every anndata."""
    import pandas as pd

    return pd.Index([str(number) for number in range(count)], dtype=object)


def tile_sides(told: Mapping[str, Any], slide_id: str) -> tuple[int, float]:
    """Return a tile's side as the encoder saw it, and in level-0 pixels.

    Raises:
        StoreError: They are not known.
    """
    side = told.get("tile_px_level0") or told.get("patch_size_level0")
    px = told.get("tile_px") or told.get("patch_size")
    if not (side and px):
        raise StoreError(f"{slide_id}: its features do not tell the tiles' size; extract it anew")
    return int(px), float(side)


def tile_spec(told: Mapping[str, Any], px: int, side: float) -> dict[str, Any]:
    """Return the tiles' size and resolution in wsidata's words; what is unknown is left out."""
    step = px - int(told.get("overlap_px") or told.get("overlap") or 0)
    downsample = side / px
    if int(px * downsample) < int(side):  # wsidata cuts the product to whole pixels
        downsample = float(np.nextafter(downsample, np.inf))
    spec = {
        "height": px, "width": px, "stride_height": step, "stride_width": step,
        "mpp": told.get("mpp"), "ops_level": 0, "ops_downsample": downsample, "base_level": 0,
        "base_downsample": downsample,
    }  # fmt: skip
    return {name: value for name, value in spec.items() if value is not None}


def slide_properties(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the slide's resolution and (height, width) in wsidata's words, as far as known."""
    size = [int(told.get(f"level0_{name}") or 0) for name in ("height", "width")]
    slide = {"mpp": told.get("mpp_level0"), "shape": size if all(size) else None}
    return {name: value for name, value in slide.items() if value is not None}


def told_of_tiles(path: Path, spec: Mapping[str, Any], slide: Mapping[str, Any]) -> dict[str, Any]:
    """Return what wsidata's words tell, in those of :class:`Known`.

    Raises:
        StoreError: The tiles are not square.
    """
    width, height = int(spec["width"]), int(spec.get("height", spec["width"]))
    if width != height:
        raise StoreError(f"{path}: its tiles are {width}×{height} px; only square ones are taken")
    told: dict[str, Any] = {
        "tile_px": width,
        "tile_px_level0": width * float(spec.get("base_downsample", 1.0)),
        "overlap": width - int(spec.get("stride_width", width)),
        "mpp_level0": slide.get("mpp"),
    }
    if slide.get("shape") is not None:
        told["level0_height"], told["level0_width"] = (int(n) for n in slide["shape"])
    return {name: value for name, value in told.items() if value is not None}


def _uns(told: Mapping[str, Any], slide_id: str, px: int, side: float) -> dict[str, Any]:
    slide = slide_properties(told)
    if "shape" in slide:
        slide["shape"] = np.array(slide["shape"])
    return {
        "tile_spec": tile_spec(told, px, side),
        "slide_properties": slide,
        "encoder": str(told.get("encoder", "unknown")),
        "slide_id": slide_id,
    }


def read_anndata(
    path: Path,
) -> tuple[NDArray[np.float32], NDArray[np.float64], dict[str, Any]]:
    """Read features, coords and what is told of them, in the words of :class:`Known`.

    Raises:
        ConfigError: anndata is not installed.
        StoreError: It is not laid out as wsidata's: what ``spatial`` means is then open.
        StoreCorruptError: It cannot be read.
    """
    anndata = import_anndata()
    try:
        held = anndata.read_h5ad(path)
        features = held.X.toarray() if hasattr(held.X, "toarray") else held.X
        features = np.asarray(features, np.float32)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise StoreCorruptError(f"{path}: no readable AnnData file: {error}") from error
    spec, slide = held.uns.get("tile_spec"), held.uns.get("slide_properties", {})
    if "spatial" not in held.obsm or not isinstance(spec, Mapping) or "width" not in spec:
        raise StoreError(
            f"{path}: no AnnData of LazySlide or ours: it lacks obsm['spatial'] or "
            "uns['tile_spec'], without which it is open where its tiles lie"
        )
    told = told_of_tiles(path, spec, slide)
    if held.uns.get("encoder") is not None:
        told["encoder"] = held.uns["encoder"]
    return features, np.asarray(held.obsm["spatial"], np.float64), told


def read_head(path: Path) -> tuple[str | None, tuple[int, ...]]:
    """Return the encoder that a file names and the shape of its features, which are not read.

    Raises:
        OSError, KeyError: It cannot be read, or holds no features.
    """
    with h5py.File(path, "r") as file:
        held = file["X"]
        shape = held.shape if isinstance(held, h5py.Dataset) else held.attrs["shape"]
        encoder = file["uns/encoder"][()] if "uns/encoder" in file else None
        name = encoder.decode() if isinstance(encoder, bytes) else encoder
        return name, tuple(int(side) for side in shape)
