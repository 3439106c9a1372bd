"""Tile stores by their format: begun, opened, found, checked; which is which a suffix tells."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.atomic import bring_back
from wsi_pipeline.errors import ConfigError, StoreCorruptError, StoreError
from wsi_pipeline.inventory import check_listed
from wsi_pipeline.registry import Registry
from wsi_pipeline.tiles.store import (
    AGAIN,
    CODES,
    Backend,
    TileStore,
    TileWriter,
    column_dtype,
    store_damaged,
)

AUTO: Final = "auto"  # the codec that a format prefers


@dataclass(frozen=True, kw_only=True)
class StoreFormat:
    """One way to keep tiles.

    Attributes:
        suffix: Of its stores.
        codecs: How it can pack tiles; the first is what ``auto`` takes.
        load: Imports the backend, whose libraries are slow to import.
    """

    suffix: str
    codecs: tuple[str, ...]
    load: Callable[[], Backend]

    def choose_codec(self, codec: str) -> str:
        """Return the codec itself, or the preferred one for ``auto``.

        Raises:
            ConfigError: The format has no such codec.
        """
        if codec == AUTO:
            return self.codecs[0]
        if codec not in self.codecs:
            known = ", ".join((AUTO, *self.codecs))
            raise ConfigError(f"codec {codec}: {self.suffix} stores know {known}")
        return codec


def _zarr() -> Backend:
    from wsi_pipeline.tiles import zarr_store

    return zarr_store


def _hdf5() -> Backend:
    from wsi_pipeline.tiles import hdf5_store

    return hdf5_store


STORE_FORMATS: Final = Registry(
    "format of tile stores",
    {
        "zarr": StoreFormat(suffix=".zarr", codecs=("zstd", "none", "jpeg"), load=_zarr),
        # plain HDF5 readers know no zstd
        "hdf5": StoreFormat(suffix=".h5", codecs=("none", "jpeg"), load=_hdf5),
    },
)


def create_tiles(path: Path, *, tile_px: int, capacity: int, codec: str = AUTO) -> TileWriter:
    """Begin a store; use the result in a ``with`` and commit it.

    Args:
        path: Its suffix names the format. What an earlier, killed writer left beside it is
            removed, so the caller must be its only writer. A store there is replaced on commit.
        tile_px: Side of a tile.
        capacity: The most tiles that may come.
        codec: ``zstd`` and ``none`` keep every bit; ``auto`` is zstd in Zarr and none in HDF5.
            ``jpeg`` (quality 90) takes a fifth of the space, and only we read the tiles.

    Raises:
        StoreError: The suffix is unknown.
        ConfigError: The format has no such codec.
    """
    kind = _format_of(path)
    codec = kind.choose_codec(codec)
    opening = kind.load().create_store(path, tile_px, capacity, codec)
    return TileWriter(path, opening, tile_px=tile_px, capacity=capacity, codec=codec)


def open_tiles(path: str | Path) -> TileStore:
    """Open a store for reading.

    All but the tiles is held against its digests here; the tiles are when they are read.

    Raises:
        StoreError: There is none, or a newer version wrote it.
        StoreCorruptError: It is incomplete or damaged, or not the one that its run wrote.
    """
    path = Path(path)
    if not path.exists():
        raise StoreError(f"{path}: there is no such tile store; cut the slide first")
    try:
        check_listed(path)
    except StoreCorruptError as error:
        raise store_damaged(error) from error
    store = _format_of(path).load().open_store(path)
    old = {name: store.columns[name] for name in CODES if name in store.columns}
    codes = {name: held.astype(np.int32) for name, held in old.items() if _are_whole(held)}
    return replace(store, columns={**store.columns, **codes}) if codes else store


def tile_attributes(path: Path) -> Mapping[str, Any]:
    """Return what a store says of itself, a twentieth of the work of opening it.

    Raises:
        StoreError: A newer version wrote it.
        StoreCorruptError: It is incomplete, or what it says is damaged; its arrays are not read.
    """
    return _format_of(path).load().store_attributes(path)


def _are_whole(codes: NDArray[Any]) -> bool:
    """Whether codes that a store from before kept as float32 are whole numbers, undamaged."""
    return bool((np.isfinite(codes) & (codes == np.rint(codes))).all())


def seal_tiles(path: Path) -> None:
    """Give a store of an older version digests of its bytes as they are now.

    Raises:
        StoreError: It cannot be opened.
    """
    _format_of(path).load().seal_store(path)


def find_store(folder: Path, slide_id: str) -> Path | None:
    """Return the slide's store in ``folder``, of whichever format; None if there is none."""
    paths = [folder / f"{slide_id}{kind.suffix}" for kind in STORE_FORMATS.values()]
    return next((path for path in paths if path.exists()), None)


def stores_of(folder: Path) -> dict[str, Path]:
    """Return the stores in ``folder`` by slide, those that are being written left out."""
    bring_back(folder)
    suffixes = {kind.suffix for kind in STORE_FORMATS.values()}
    paths = (path for path in sorted(folder.glob("[!.]*")) if path.suffix in suffixes)
    return {path.stem: path for path in paths}


def _format_of(path: Path) -> StoreFormat:
    for kind in STORE_FORMATS.values():
        if path.suffix == kind.suffix:
            return kind
    suffixes = " or ".join(kind.suffix for kind in STORE_FORMATS.values())
    raise StoreError(f"{path}: a tile store ends in {suffixes}")


def verify_tiles(path: Path, slide_digest: str | None = None, *, pixels: bool = True) -> list[str]:
    """Check a tile store.

    Args:
        path: The store.
        slide_digest: Digest of the slide as it is now; None leaves staleness unchecked.
        pixels: Whether to read every tile.

    Returns:
        What is wrong with it, one sentence each; empty when nothing is.
    """
    try:
        store = open_tiles(path)
    except StoreError as error:
        return [str(error)]
    problems = [*_wrong_shapes(store), *_wrong_order(store), *_stale(store, slide_digest)]
    return problems + (list(_undecodable(store)) if pixels else [])


def _wrong_shapes(store: TileStore) -> Iterator[str]:
    side = store.attributes.get("tile_px")
    if store.tiles.shape != (len(store), side, side, 3):
        yield f"{store.path}: tiles have shape {store.tiles.shape}, tile_px is {side}"
    if store.coords.shape != (len(store), 2) or store.coords.dtype != np.int64:
        yield f"{store.path}: coords are {store.coords.shape} {store.coords.dtype}"
    for name, column in store.columns.items():
        if column.shape != (len(store),) or column.dtype != column_dtype(name):
            yield f"{store.path}: {name} is {column.shape} {column.dtype}"
        elif not np.isfinite(column).all():
            yield f"{store.path}: {name} has values that are not finite"


def _wrong_order(store: TileStore) -> Iterator[str]:
    x, y = store.coords.T
    later = (np.diff(y) > 0) | ((np.diff(y) == 0) & (np.diff(x) > 0))
    if not later.all():
        yield f"{store.path}: coords are not in canonical order at row {int(later.argmin()) + 1}"


def _stale(store: TileStore, slide_digest: str | None) -> Iterator[str]:
    stored = store.attributes.get("slide_digest")
    if slide_digest is not None and stored != slide_digest:
        yield (
            f"{store.path}: was cut from another file (slide digest {stored}, now {slide_digest}); "
            f"{AGAIN}"
        )


def _undecodable(store: TileStore) -> Iterator[str]:
    try:
        store.tiles.check()
    except StoreError as error:
        yield str(error)
