"""The training tiles nearest to a tile, and how far off they are, by stored features.

Distances are between features of unit length, as in the novelty of slides (Sun et al.,
Out-of-distribution detection with deep nearest neighbors, ICML 2022). A tile's own patient is left
aside: neighbours from the same block would say nothing.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline import learn  # its parts when they are used: torch takes seconds
from wsi_pipeline.errors import LearnError, StoreError
from wsi_pipeline.features import read_features
from wsi_pipeline.run_folder import BundleFile, RunFolder, stores_in

BANK_BYTES: Final = 128 << 20  # of training tiles held, the same number of each slide
NEAREST: Final = 8
K: Final = 5  # the neighbour whose distance tells how novel a tile is
NOVELTY_BANK: Final = 2048
BLOCK: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Training tiles.

    Attributes:
        features: (B, D) float32 of unit length.
        coords: (B, 2) int64, level-0 (x, y).
        slide: (B,) int64, position in ``slides``.
        slides: Their ids; ``patients`` and ``labels`` are theirs.
    """

    features: NDArray[np.float32]
    coords: NDArray[np.int64]
    slide: NDArray[np.int64]
    slides: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[str | None, ...]

    def of_others(self, patient: str | None) -> NDArray[np.bool_]:
        """Return (B,) bool: tiles of other patients."""
        others = np.array([each != patient for each in self.patients])
        return np.asarray(others[self.slide], np.bool_)

    def nearest(self, feature: NDArray[np.float32], patient: str | None) -> list[dict[str, Any]]:
        """Return the nearest tiles, the nearest first, of one slide one at the most."""
        reach = _apart(self.features @ _unit(feature[None])[0])
        reach[~self.of_others(patient)] = np.inf
        found: dict[int, dict[str, Any]] = {}
        for index in np.argsort(reach, kind="stable").tolist():
            at = int(self.slide[index])
            if not np.isfinite(reach[index]) or len(found) == NEAREST:
                break
            found.setdefault(at, {
                "slide": self.slides[at], "label": self.labels[at],
                "x": int(self.coords[index, 0]), "y": int(self.coords[index, 1]),
                "distance": round(float(reach[index]), 3),
            })  # fmt: skip
        return list(found.values())

    def novelty(self, features: NDArray[np.float32], patient: str | None) -> NDArray[np.float32]:
        """Return (N,) the distance of each tile to its fifth nearest training tile."""
        rows = np.flatnonzero(self.of_others(patient))
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), NOVELTY_BANK)).astype(int)]
        bank = self.features[rows]
        k = min(K, len(bank))
        found = [
            np.partition(_unit(features[start : start + BLOCK]) @ bank.T, -k, axis=1)[:, -k]
            for start in range(0, len(features), BLOCK)
        ]
        return _apart(np.concatenate(found))


class TrainingTiles:
    """Banks of the run's models, each read when it is first asked for."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._banks: dict[tuple[str, int], Bank] = {}
        self._lock = Lock()

    def models(self) -> list[str]:
        """Return the models whose features are here."""
        found = []
        for folder in self._folder.bundles():
            with suppress(LearnError):  # a damaged one is told of in the table
                found += [folder.name] if self._encoded(folder).is_dir() else []
        return found

    def features(self, model: str, slide_id: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return a slide's features (N, D) and coords (N, 2).

        Raises:
            StoreError: There are none.
        """
        path = self._encoded(self._folder.model(model)) / f"{slide_id}.h5"
        if not path.exists():
            raise StoreError(f"{slide_id}: it has no features of {path.parent.name}")
        bag = read_features(path)
        return bag.features, bag.coords

    def bank(self, model: str) -> Bank:
        """Return a model's training tiles.

        Raises:
            StoreError: Features of its training slides are missing.
            LearnError: The model is damaged.
        """
        folder = self._folder.model(model)
        key = (model, (folder / BundleFile.CONFIG).stat().st_mtime_ns)
        with self._lock:
            if key not in self._banks:
                self._banks.clear()
                self._banks[key] = self._read(folder)
            return self._banks[key]

    def _read(self, folder: Path) -> Bank:
        stored: Mapping[str, Path] = stores_in(self._encoded(folder))
        slides = [
            each for each in learn.read_splits(folder / BundleFile.SPLITS)
            if each.split == "train" and each.slide_id in stored
        ]  # fmt: skip
        if not slides:
            raise StoreError(f"{folder.name}: features of its training slides are not here")
        parts, coords = [], []
        for slide in slides:
            bag = read_features(stored[slide.slide_id])
            share = max(1, BANK_BYTES // (4 * bag.features.shape[1] * len(slides)))
            rows = np.linspace(0, len(bag) - 1, min(len(bag), share)).astype(np.int64)
            parts.append(_unit(bag.features[rows]))
            coords.append(bag.coords[rows])
        return Bank(
            features=np.concatenate(parts),
            coords=np.concatenate(coords),
            slide=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
            slides=tuple(each.slide_id for each in slides),
            patients=tuple(each.patient_id for each in slides),
            labels=tuple(each.label for each in slides),
        )

    def _encoded(self, folder: Path) -> Path:
        return self._folder.features_of(learn.read_bundle_config(folder).encoder)


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.finfo(np.float32).tiny), np.float32)


def _apart(cosine: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(np.maximum(2 - 2 * cosine, 0)), np.float32)
