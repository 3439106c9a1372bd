"""Features as SpatialData, laid out as LazySlide's wsidata keeps them beside a slide.

``<slide_id>.zarr``: ``shapes/tiles`` a square a tile, ``tile_id``, ``x``, ``y``; ``shapes/tissues``
the outline of the tissue, where one is known, and then each tile's ``tissue_id``;
``tables/<encoder>_tiles`` the features, whose rows ``library_id`` and ``tile_id`` tie to the tiles;
``attrs["tile_spec"]["tiles"]`` and ``attrs["slide_properties"]``, in the words that
:mod:`wsi_pipeline.features.anndata_files` has too. All of it is in level-0 pixels.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon

from wsi_pipeline.atomic import atomic_folder
from wsi_pipeline.errors import ConfigError, StoreCorruptError, StoreError, named
from wsi_pipeline.features.anndata_files import (
    LIBRARY,
    names_of_rows,
    slide_properties,
    tile_sides,
    tile_spec,
    told_of_tiles,
)
from wsi_pipeline.features.store import FeatureBag
from wsi_pipeline.types import Coords

SUFFIX: Final = ".zarr"
TISSUES: Final = "tissues"  # wsidata's name of the outlines
REGION, INSTANCE = "library_id", "tile_id"  # columns that tie a feature to its tile
NO_TISSUE: Final = -1  # tissue_id of a tile that touches none
SLACK_PX: Final = 1.0  # wsidata cuts a tile's side on level 0 to whole pixels
UNREADABLE: Final = (
    OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError,
)  # fmt: skip


def import_spatialdata() -> Any:
    """Import the package.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        with _quiet():
            import spatialdata
    except ImportError as error:
        raise ConfigError(
            "SpatialData stores need the package spatialdata, which brings dask and distributed "
            "back to 2026.1 and pandas to 2: in an environment of its own, "
            "pip install 'wsi-pipeline[spatialdata]'"
        ) from error
    return spatialdata


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the library tells of its own future and of where it wrote."""
    logger = logging.getLogger("spatialdata")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_spatialdata(
    bag: FeatureBag, slide_id: str, folder: Path, tissue: MultiPolygon | None = None
) -> list[Path]:
    """Write ``<folder>/<slide_id>.zarr``.

    Args:
        bag: The slide's features.
        slide_id: The slide.
        folder: Where to.
        tissue: Its outline, level-0 px; None where none is known.

    Returns:
        All files of it.

    Raises:
        ConfigError: spatialdata is not installed.
        StoreError: The tiles' size is not known.
    """
    spatialdata = import_spatialdata()
    px, side = tile_sides(bag.attributes, slide_id)
    tiles = shapely.box(*bag.coords.T, *(bag.coords + side).T)
    parts = [] if tissue is None else list(tissue.geoms)
    spec = tile_spec(bag.attributes, px, side) | ({"tissue_name": TISSUES} if parts else {})
    properties = slide_properties(bag.attributes)
    encoder = str(bag.attributes.get("encoder", "unknown"))
    key = f"{_in_names(encoder)}_{LIBRARY}"
    with _quiet():
        made = spatialdata.SpatialData(
            shapes=_shapes(bag.coords, tiles, parts),
            tables={key: _table(bag, encoder)},
            attrs={"tile_spec": {LIBRARY: spec}, "slide_properties": properties},
        )
        target = folder / f"{slide_id}{SUFFIX}"
        with atomic_folder(target) as partial:
            whole = partial / "whole"  # the library writes to no folder that is there
            made.write(whole)
            for each in list(whole.iterdir()):
                each.rename(partial / each.name)
            whole.rmdir()
    return sorted(path for path in target.rglob("*") if path.is_file())


def _shapes(coords: Coords, tiles: NDArray[Any], parts: Sequence[Any]) -> dict[str, Any]:
    """Return the tiles' squares and the tissue's outlines, as the library has shapes."""
    import geopandas
    from spatialdata.models import ShapesModel

    columns = {INSTANCE: np.arange(len(tiles)), "x": coords[:, 0], "y": coords[:, 1]}
    shapes = {}
    if parts:
        columns["tissue_id"] = _within(tiles, parts)
        ids = {"tissue_id": np.arange(len(parts))}
        shapes[TISSUES] = ShapesModel.parse(geopandas.GeoDataFrame(ids, geometry=parts))
    shapes[LIBRARY] = ShapesModel.parse(geopandas.GeoDataFrame(columns, geometry=list(tiles)))
    return shapes


def _within(tiles: NDArray[Any], parts: Sequence[Any]) -> NDArray[np.int64]:
    """Return (N,) the piece of tissue that a tile has most of; ``NO_TISSUE`` if it touches none."""
    best, most = np.full(len(tiles), NO_TISSUE, np.int64), np.zeros(len(tiles))
    for number, part in enumerate(parts):
        shapely.prepare(part)
        near = np.flatnonzero(shapely.intersects(part, tiles))
        shared = shapely.area(shapely.intersection(tiles[near], part))
        more = near[shared > most[near]]
        best[more], most[more] = number, shared[shared > most[near]]
    return best


def _in_names(encoder: str) -> str:
    """Return a tag as the library's names can have it; ``uns["encoder"]`` has it whole."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", encoder)


def _table(bag: FeatureBag, encoder: str) -> Any:
    """Return the features as the library has tables: each row tied to its tile."""
    import anndata
    import pandas as pd
    from spatialdata.models import TableModel

    count, width = bag.features.shape
    obs = pd.DataFrame({INSTANCE: np.arange(count)}, index=names_of_rows(count))
    library = pd.Index([LIBRARY], dtype=object)
    obs[REGION] = pd.Categorical.from_codes(np.zeros(count, int), library)
    var = pd.DataFrame(index=names_of_rows(width))
    table = anndata.AnnData(X=bag.features, obs=obs, var=var, uns={"encoder": encoder})
    return TableModel.parse(table, region=LIBRARY, region_key=REGION, instance_key=INSTANCE)


def read_spatialdata(
    path: Path, encoder: str | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float64], dict[str, Any]]:
    """Read features, coords and what is told of them, in the words of :class:`Known`.

    Args:
        path: The store.
        encoder: Whose features, where it holds those of several.

    Raises:
        ConfigError: spatialdata is not installed.
        StoreError: It is not laid out as wsidata's, or holds features of several encoders.
        StoreCorruptError: It cannot be read.
    """
    spatialdata = import_spatialdata()
    name, region = _chosen(path, encoder)
    try:
        with _quiet():
            held = spatialdata.read_zarr(path, selection=("shapes", "tables"))
            table, tiles = held.tables[name], held.shapes[region]
            features = table.X.toarray() if hasattr(table.X, "toarray") else table.X
            features = np.asarray(features, np.float32)
            corners = np.asarray(tiles.geometry.bounds, np.float64)
            moved = _is_moved(tiles)
            rows = _rows(path, table, tiles, region)
    except UNREADABLE as error:
        raise StoreCorruptError(f"{path}: no readable SpatialData: {error}") from error
    told = _told(path, held.attrs, region)
    if moved:
        raise StoreError(
            f"{path}: its shapes {region!r} are scaled or moved by a transformation, where "
            "LazySlide's are in pixels of level 0; export them in those"
        )
    sides = corners[rows, 2:] - corners[rows, :2]
    if len(sides) and np.abs(sides - told["tile_px_level0"]).max() > SLACK_PX:
        raise StoreError(
            f"{path}: its shapes {region!r} are not the squares of {told['tile_px_level0']:g} px "
            f"that its tile_spec tells: some are {sides.min():g} px, some {sides.max():g} px"
        )
    told["encoder"] = str(encoder or table.uns.get("encoder") or name.removesuffix(f"_{region}"))
    return features, corners[rows, :2], told


def _rows(path: Path, table: Any, tiles: Any, region: str) -> NDArray[np.intp]:
    """Return where the tile of each of the table's rows stands among the shapes.

    Raises:
        StoreError: A row is of other shapes, of no tile, or two are of one.
    """
    told = table.uns["spatialdata_attrs"]
    regions = set(np.asarray(table.obs[told["region_key"]]).tolist())
    if regions - {region}:
        raise StoreError(f"{path}: a table of several shapes ({named(sorted(map(str, regions)))})")
    instance = told["instance_key"]
    ids = np.asarray(tiles[instance] if instance in tiles.columns else tiles.index)
    wanted = np.asarray(table.obs[instance])
    order = np.argsort(ids)
    places = np.searchsorted(ids[order], wanted)
    found = order[np.minimum(places, len(ids) - 1)] if len(ids) else np.empty(0, np.intp)
    alike = len(found) == len(wanted) and bool((ids[found] == wanted).all())
    if not alike or len(np.unique(ids)) < len(ids) or len(np.unique(wanted)) < len(wanted):
        raise StoreError(
            f"{path}: its {len(wanted)} features are not tied one to one to the {len(ids)} shapes "
            f"{region!r} by {instance!r}; extract the slide anew"
        )
    return found


def _is_moved(tiles: Any) -> bool:
    from spatialdata.transformations import get_transformation

    matrices = (
        each.to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y"))
        for name, each in get_transformation(tiles, get_all=True).items()
        if name == "global"
    )
    return any(not np.allclose(each, np.eye(3)) for each in matrices)


def _told(path: Path, about: Mapping[str, Any], region: str) -> dict[str, Any]:
    """Return what the store's attributes tell of tiles and slide.

    Raises:
        StoreError: They do not.
    """
    specs, slide = about.get("tile_spec"), about.get("slide_properties")
    spec = specs.get(region) if isinstance(specs, Mapping) else None
    if not isinstance(spec, Mapping) or "width" not in spec:
        raise StoreError(
            f"{path}: no SpatialData of LazySlide or ours: its attributes lack tile_spec of "
            f"{region!r}, without which the tiles' size and resolution are open"
        )
    return told_of_tiles(path, spec, slide if isinstance(slide, Mapping) else {})


def read_spatial_head(path: Path, encoder: str | None = None) -> tuple[str, tuple[int, ...]]:
    """Return whose features a store holds and their shape; the package is not needed for it.

    Raises:
        StoreError: As in :func:`read_spatialdata`.
        StoreCorruptError: It cannot be read.
    """
    name, region = _chosen(path, encoder)
    try:
        table = _open(path)[f"tables/{name}"]
        held = table["X"]
        shape = tuple(int(side) for side in (held.attrs.get("shape") or held.shape))
        told = str(table["uns/encoder"][()]) if "uns/encoder" in table else None
    except UNREADABLE as error:
        raise StoreCorruptError(f"{path}: no readable SpatialData: {error}") from error
    return encoder or told or name.removesuffix(f"_{region}"), shape


def _chosen(path: Path, encoder: str | None) -> tuple[str, str]:
    """Return the table of an encoder's features, and the shapes it is tied to.

    Raises:
        StoreError: There is none, or there are several.
        StoreCorruptError: It cannot be read.
    """
    try:
        root = _open(path)
        if "spatialdata_attrs" not in root.attrs:
            raise StoreError(f"{path}: no SpatialData store; import a folder of LazySlide's .zarr")
        regions = {
            str(name): str(each.attrs["region"])
            for name, each in (root["tables"].groups() if "tables" in root else ())
            if isinstance(each.attrs.get("region"), str)
        }
    except StoreError:
        raise
    except UNREADABLE as error:
        raise StoreCorruptError(f"{path}: no readable SpatialData: {error}") from error
    fits = {name: region for name, region in regions.items() if name.endswith(f"_{region}")}
    if encoder is not None and len(fits) != 1:
        asked = _in_names(encoder)
        fits = {n: r for n, r in regions.items() if n in (asked, f"{asked}_{r}")}
    if len(fits) == 1:
        return next(iter(fits.items()))
    if fits:
        raise StoreError(
            f"{path}: holds features of several encoders ({named(sorted(fits))}); choose one "
            "with --encoder, by its name or what it is called before the shapes'"
        )
    found = f"; it has {named(sorted(regions))}" if regions else ""
    raise StoreError(f"{path}: holds no table <encoder>_<tiles> of features{found}")


def _open(path: Path) -> Any:
    import zarr

    return zarr.open_group(path, mode="r")
