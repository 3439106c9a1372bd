"""Where an encoder's tiles come from: the tile store, or the slide itself without one.

Both give the same tiles in the same order, as the slide is cut by the same code.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from wsi_pipeline.errors import NoTissueError, StoreError
from wsi_pipeline.features.store import FeatureMeta
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import WHOLE_SLIDE, SlideRequest, TileSettings, open_tiles
from wsi_pipeline.tiles.decisions import Place, check_places, kept_mask
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

    def __init__(self, slide_id: str, path: Path, dropped: Collection[Place] = ()) -> None:
        self.slide_id = slide_id
        self.coords: Coords = np.empty((0, 2), np.int64)
        self.attributes: Mapping[str, Any] = {}
        self.watch = Stopwatch()
        self._path = path
        self._dropped = dropped

    def read(self) -> Iterator[RgbTiles]:
        """Yield (n, tile_px, tile_px, 3) uint8.

        Raises:
            StoreError: There is no store.
            StoreCorruptError: It is damaged.
            StoreMismatchError: A tile to be dropped is not in it.
        """
        store = open_tiles(self._path)
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
        from wsi_pipeline.slides import open_slide
        from wsi_pipeline.tiles.plan import plan_slide
        from wsi_pipeline.tiles.record import describe_slide, describe_tiles
        from wsi_pipeline.tiles.straighten import straighten
        from wsi_pipeline.tiles.stream import finish_tiles, fit_slide
        from wsi_pipeline.tiles.tally import Tally

        parts: list[Coords] = []
        tally = Tally(watch=self.watch)
        asked = self._settings
        opened = open_slide(
            self._path, asked.reader, self._threads, modality=asked.modality, icc=asked.icc
        )
        with straighten(opened, asked, self._request) as slide:
            plan = plan_slide(slide, asked, self._request)
            fit = fit_slide(slide, plan, asked, tally, self._threads)
            for finished in finish_tiles(slide, plan, fit, asked, tally, self._threads):
                parts.append(finished.coords)
                kept = kept_mask(finished.coords, self._dropped)
                if kept.any():
                    yield finished.tiles if kept.all() else finished.tiles[kept]
            about = describe_slide(slide) | describe_tiles(plan, fit, self._settings, tally)
        if not parts:
            raise NoTissueError(
                f"{self._path}: of {int(plan.wanted.sum())} tiles with tissue none passed the "
                "rules; cut it with the tile stage to see which, then loosen that one"
            )
        coords = np.concatenate(parts)
        check_places(self.slide_id, coords, self._dropped)
        self.coords = coords[kept_mask(coords, self._dropped)]
        self.attributes = about | {"tile_px": self._settings.tile_px}


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
