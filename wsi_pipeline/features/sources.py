"""Where an encoder's tiles come from: the tile store, or the slide itself without one.

Both give the same tiles in the same order, as the slide is cut by the same code.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from wsi_pipeline.errors import StoreError
from wsi_pipeline.features.store import FeatureMeta
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import (
    WHOLE_SLIDE,
    Place,
    SlideRequest,
    TileSettings,
    TileStore,
    check_places,
    kept_mask,
    open_cut,
    open_tiles,
)
from wsi_pipeline.timing import Stopwatch
from wsi_pipeline.types import Coords, RgbTiles

READ_TILES: Final = 64  # tiles read from a store at once


class StoreTiles:
    """The tiles of a tile store, but for those that a person dropped.

    Attributes:
        slide_id: The slide.
        coords: (N, 2) int64 level-0 (x, y); known once :meth:`read` has begun.
        attributes: Those of the store; likewise.
        watch: Where the time went.
    """

    def __init__(
        self, slide_id: str, store: Path | TileStore, dropped: Collection[Place] = ()
    ) -> None:
        """``store`` may be open already."""
        self.slide_id = slide_id
        self.coords: Coords = np.empty((0, 2), np.int64)
        self.attributes: Mapping[str, Any] = {}
        self.watch = Stopwatch()
        self._store = store
        self._dropped = dropped

    def read(self) -> Iterator[RgbTiles]:
        """Yield (n, tile_px, tile_px, 3) uint8.

        Raises:
            StoreError: There is no store.
            StoreCorruptError: It is damaged.
            StoreMismatchError: A tile to be dropped is not in it.
        """
        store = open_tiles(self._store) if isinstance(self._store, Path) else self._store
        check_places(self.slide_id, store.coords, self._dropped)
        kept = kept_mask(store.coords, self._dropped)
        self.coords, self.attributes = store.coords[kept], store.attributes
        batches = enumerate(store.batches(READ_TILES))
        while True:
            with self.watch.phase("read"):
                number, tiles = next(batches, (0, None))
            if tiles is None:
                return
            inside = kept[number * READ_TILES : (number + 1) * READ_TILES]
            if inside.any():
                yield tiles if inside.all() else tiles[inside]


class SlideTiles:
    """The tiles of a slide, cut and normalised as they are needed and never written.

    Those that a person dropped are left out.

    Attributes:
        slide_id: The slide.
        coords: (N, 2) int64 level-0 (x, y); complete once :meth:`read` is exhausted.
        attributes: What a tile store of these tiles would say; likewise.
        watch: Where the time went.
    """

    def __init__(
        self,
        slide_id: str,
        path: str | Path,
        settings: TileSettings,
        request: SlideRequest = WHOLE_SLIDE,
        dropped: Collection[Place] = (),
        *,
        threads: int = 1,
    ) -> None:
        self.slide_id = slide_id
        self.coords: Coords = np.empty((0, 2), np.int64)
        self.attributes: Mapping[str, Any] = {}
        self.watch = Stopwatch()
        self._path = path
        self._settings = settings
        self._request = request
        self._dropped = dropped
        self._threads = threads

    def read(self) -> Iterator[RgbTiles]:
        """Yield (n, tile_px, tile_px, 3) uint8, overwritten once the next are asked for.

        Raises:
            SlideError: The slide cannot be opened or read, has no usable mpp, or no tissue.
            StoreMismatchError: A tile to be dropped is not one of the slide's.
        """
        with open_cut(
            self._path, self._settings, self._request, watch=self.watch, threads=self._threads
        ) as cut:
            for part in cut.finished_tiles():
                kept = kept_mask(part.coords, self._dropped)
                if kept.any():
                    yield part.tiles if kept.all() else part.tiles[kept]
            check_places(self.slide_id, cut.coords, self._dropped)
            self.coords = cut.coords[kept_mask(cut.coords, self._dropped)]
            self.attributes = cut.describe() | {"tile_px": self._settings.tile_px}


SlideSource = StoreTiles | SlideTiles


def describe_features(
    slide_id: str, encoder_tag: str, tiles: Mapping[str, Any], provenance: Mapping[str, Any]
) -> FeatureMeta:
    """Return what a feature store says, from the attributes of the tiles.

    Raises:
        StoreError: The tile store does not tell its geometry.
    """

    def number(name: str, kind: Callable[[Any], Any]) -> Any:
        try:
            return kind(tiles[name])
        except (KeyError, TypeError, ValueError):
            raise StoreError(
                f"{slide_id}: its tile store has no attribute {name!r}; cut the slide again"
            ) from None

    def resolution(name: str) -> float | None:
        value = tiles.get(name)
        return None if value is None else float(value)

    placed = {name: tiles.get(name) for name in ("bounds_level0", "region_level0", "straightened")}
    return FeatureMeta(
        slide_id=slide_id,
        encoder=encoder_tag,
        tile_px=number("tile_px", int),
        tile_px_level0=number("tile_px_level0", float),
        overlap_px=int(tiles.get("overlap_px", 0)),
        mpp=resolution("mpp_effective"),
        mpp_level0=resolution("mpp_native"),
        level0_size=(number("level0_width", int), number("level0_height", int)),
        folder=RunFolder().features_of(encoder_tag).as_posix(),
        provenance={
            **provenance,
            **placed,
            "mpp_requested": tiles.get("mpp_requested"),
            "stain": tiles.get("stain"),
        },
    )
