"""The tiles of stores as a data set of torch, for training loops of one's own.

Nothing is kept open and nothing is started before a tile is asked for, so a ``DataLoader`` may fork
its workers or spawn them, read in order or shuffled: the same tile is the same item.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tiles.annotated import COLUMN, NO_CLASS
from wsi_pipeline.tiles.formats import open_tiles
from wsi_pipeline.tiles.store import TileStore

Item = dict[str, Any]
Transform = Callable[[torch.Tensor], Any]
ANNOTATED: Final = "annotated"  # labels: those of the regions drawn on the slides


class TileDataset(Dataset[Item]):
    """Tiles of one or many slides, with where they are from.

    An item is a dict, which torch collates as it is: ``image``, (3, H, W) uint8 RGB or what
    ``transform`` made of it; ``coords``, (2,) int64, level-0 (x, y) of its top-left corner;
    ``slide_id``; and, where labels are given, ``label``, the position in ``classes``.

    Attributes:
        stores: The open stores, in order.
        slide_ids: Of each store.
        classes: Names of the labels, sorted; empty without labels.
        index: (N, 2) int64, the store and the row in it of each item.
        labels: (N,) int64 position in ``classes``; None without labels.
    """

    def __init__(
        self,
        stores: TileStore | str | Path | Iterable[TileStore | str | Path],
        *,
        labels: Mapping[str, str] | str | None = None,
        classes: Sequence[str] | None = None,
        transform: Transform | None = None,
        keep: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        """Open the stores.

        Args:
            stores: Open stores, or their paths; a store's stem is its slide.
            labels: Slide to name of its class; or ``annotated`` for the classes of the regions
                drawn on the slides, where tiles that no class covers are left out.
            classes: Their order, where it must be that of another data set.
            transform: Is given (3, H, W) uint8 of one tile. It is sent to spawned workers, so it
                is a function of a module or an object of a class, no lambda.
            keep: Slide to (N,) bool, which of its tiles are items; others are all.

        Raises:
            StoreError: A store is missing or damaged.
            ConfigError: A slide has no label, a label is none of ``classes``, two stores are of
                one slide, or tiles of different sizes would meet in a batch.
        """
        given = [stores] if isinstance(stores, TileStore | str | Path) else list(stores)
        self.stores = [one if isinstance(one, TileStore) else open_tiles(one) for one in given]
        self.slide_ids = [store.path.stem for store in self.stores]
        self.transform = transform
        self._check()
        names, rows = _label_rows(self.stores, labels, keep or {})
        self.classes = tuple(sorted(set(names) - {""}) if classes is None else classes)
        strange = sorted(set(names) - set(self.classes) - {""})
        if strange:
            raise ConfigError(
                f"labels {', '.join(strange)} are none of the classes {', '.join(self.classes)}"
            )
        self.index = rows
        self.labels: NDArray[np.int64] | None = None
        if labels is not None:
            position = {name: number for number, name in enumerate(self.classes)}
            self.labels = np.array([position[name] for name in names], np.int64)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Item:
        if not -len(self) <= number < len(self):
            raise IndexError(f"item {number} of {len(self)} tiles")
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Item]:
        """Return the items of a batch; a ``DataLoader`` asks so, and each store is read once."""
        chosen = self.index[np.asarray(numbers, np.int64)]
        items: list[Item] = [{} for _ in numbers]
        for which in dict.fromkeys(chosen[:, 0].tolist()):
            places = np.flatnonzero(chosen[:, 0] == which)
            rows = chosen[places, 1]
            tiles = self.stores[which].tiles[rows]
            for place, row, tile in zip(places.tolist(), rows.tolist(), tiles, strict=True):
                items[place] = self._item(which, row, torch.from_numpy(tile.copy()))
        if self.labels is not None:
            for item, number in zip(items, numbers, strict=True):
                item["label"] = int(self.labels[number])
        return items

    def __repr__(self) -> str:
        told = f", classes {', '.join(self.classes)}" if self.classes else ""
        return f"<TileDataset: {len(self)} tiles of {len(self.stores)} slides{told}>"

    def _item(self, which: int, row: int, tile: torch.Tensor) -> Item:
        image = tile.permute(2, 0, 1)
        return {
            "image": image.contiguous() if self.transform is None else self.transform(image),
            "coords": torch.from_numpy(self.stores[which].coords[row].copy()),
            "slide_id": self.slide_ids[which],
        }

    def _check(self) -> None:
        sizes = {store.tiles.shape[1]: store.path for store in self.stores}
        if len(sizes) > 1:
            told = ", ".join(f"{side} px in {path}" for side, path in sizes.items())
            raise ConfigError(f"tiles of different sizes do not make one data set: {told}")
        twice = {name for name in self.slide_ids if self.slide_ids.count(name) > 1}
        if twice:
            raise ConfigError(f"two stores of one slide: {', '.join(sorted(twice))}")


def _label_rows(
    stores: Sequence[TileStore],
    labels: Mapping[str, str] | str | None,
    keep: Mapping[str, NDArray[np.bool_]],
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the class of each item, "" without labels, and (N, 2) store and row."""
    if isinstance(labels, str) and labels != ANNOTATED:
        raise ConfigError(f"labels {labels!r}: a mapping of slides to names, or {ANNOTATED!r}")
    names: list[str] = []
    rows = [np.empty((0, 2), np.int64)]
    for number, store in enumerate(stores):
        slide_id = store.path.stem
        kept = np.ones(len(store), bool) if slide_id not in keep else np.asarray(keep[slide_id])
        if kept.shape != (len(store),) or kept.dtype != np.bool_:
            raise ConfigError(f"keep[{slide_id!r}]: {kept.shape} {kept.dtype}, not {len(store)}"
                              " truth values")  # fmt: skip
        codes = None
        if labels == ANNOTATED:
            codes = _codes(store)
            kept = kept & (codes != NO_CLASS)
        found = np.flatnonzero(kept)
        rows.append(np.column_stack([np.full(len(found), number), found]).astype(np.int64))
        names += _names(store, labels, codes, found)
    return names, np.concatenate(rows)


def _names(
    store: TileStore,
    labels: Mapping[str, str] | str | None,
    codes: NDArray[np.int32] | None,
    found: NDArray[np.intp],
) -> list[str]:
    if codes is not None:
        known = store.attributes["annotation_classes"]
        return [str(known[code]) for code in codes[found].tolist()]
    if labels is None or isinstance(labels, str):
        return [""] * len(found)
    slide_id = store.path.stem
    name = labels.get(slide_id)
    if not name:
        raise ConfigError(f"slide {slide_id!r} has no label; give it one, or leave its store out")
    return [str(name)] * len(found)


def _codes(store: TileStore) -> NDArray[np.int32]:
    if COLUMN not in store.columns:
        raise ConfigError(
            f"{store.path}: no regions were drawn on this slide; name them in the cohort table's "
            "column annotations and cut it again, or leave its store out"
        )
    return np.asarray(store.columns[COLUMN], np.int32)
