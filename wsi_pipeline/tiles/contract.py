"""What every tile store offers, whichever format it is in."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreCorruptError, StoreError
from wsi_pipeline.types import Coords, RgbTiles

SCHEMA: Final = "wsi_pipeline.tiles"
SCHEMA_VERSION: Final = 1

Columns = Mapping[str, NDArray[np.float32]]


class TileArray(ABC):
    """Tiles on disk, read on demand: an (N, tile_px, tile_px, 3) uint8 array to index by row."""

    shape: tuple[int, int, int, int]
    dtype: Final = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | NDArray[Any]) -> NDArray[np.uint8]:
        """Return one tile for an int, (n, tile_px, tile_px, 3) for a slice or an index array."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._range(start, max(start, stop))
            return self._gather(np.arange(start, stop, step))
        indices = np.asarray(key)
        if indices.dtype == np.bool_:
            if indices.shape != (len(self),):
                raise IndexError(f"mask of shape {indices.shape} for {len(self)} tiles")
            indices = np.flatnonzero(indices)
        if indices.size and not np.issubdtype(indices.dtype, np.integer):
            raise IndexError(f"tiles are indexed by integers, not {indices.dtype}")
        indices = indices.astype(np.int64)
        if indices.size and not -len(self) <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"index {indices.min()}…{indices.max()} outside of {len(self)} tiles")
        indices = np.where(indices < 0, indices + len(self), indices)
        return self._gather(indices.reshape(1))[0] if indices.ndim == 0 else self._gather(indices)

    @abstractmethod
    def _range(self, start: int, stop: int) -> RgbTiles: ...

    @abstractmethod
    def _gather(self, indices: NDArray[np.int64]) -> RgbTiles: ...


@dataclass(frozen=True, kw_only=True)
class TileStore:
    """An open, complete store; safe to read from several threads.

    Attributes:
        path: The ``.zarr`` folder or ``.h5`` file.
        tiles: (N, tile_px, tile_px, 3) uint8, read on demand.
        coords: (N, 2) int64, level-0 (x, y).
        columns: Measure name to (N,) float32.
        attributes: Everything else that was recorded.
        reopen: Opens ``path`` again where the store is unpickled.
    """

    path: Path
    tiles: TileArray
    coords: Coords
    columns: Columns
    attributes: Mapping[str, Any]
    reopen: Callable[[Path], "TileStore"]

    def __len__(self) -> int:
        return len(self.coords)

    def batches(self, size: int = 256) -> Iterator[RgbTiles]:
        """Yield all tiles in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.tiles[start : start + size]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reopen, (self.path,)


class Backend(Protocol):
    """One format's writing half, at work on a temporary."""

    @property
    def encode_s(self) -> float:
        """Seconds spent on packing tiles, where that is done here."""

    def write(self, tiles: RgbTiles) -> None:
        """Take ``tiles`` as the next rows."""

    def finish(self, coords: Coords, columns: Columns, attributes: Mapping[str, Any]) -> None:
        """Cut the tile array to ``len(coords)`` rows and write all the rest; completion last."""


def check_marks(path: Path, attributes: Mapping[str, Any]) -> None:
    """Refuse a store that is not ours, not complete, or newer than we are.

    Raises:
        StoreError, StoreCorruptError: As said.
    """
    if attributes.get("schema") != SCHEMA:
        raise StoreError(f"{path}: not a tile store (schema {attributes.get('schema')!r})")
    if attributes.get("schema_version", 0) > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema version {attributes['schema_version']} is newer than the "
            f"{SCHEMA_VERSION} known here; update the package"
        )
    if attributes.get("complete") is not True:
        raise StoreCorruptError(f"{path}: never completed; cut the slide again")
