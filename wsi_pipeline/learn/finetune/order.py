"""Which tiles an epoch shows, and in which order."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.learn.finetune.sources import TileSource
from wsi_pipeline.learn.splits import SplitSlide

Balance = Literal["patient", "none"]
Places = NDArray[np.int64]  # (n, 2): place of the slide in the source, tile


def epoch_order(
    source: TileSource, balance: Balance, most: int | None, seed: int, epoch: int
) -> Places:
    """Draw an epoch's tiles; the same seed and epoch give the same.

    Args:
        source: The training slides.
        balance: ``patient`` shows every class equally often, within it every patient, then every
            slide; ``none`` shows every tile once.
        most: The most tiles of an epoch; None shows as many as there are.
        seed: Of the whole training.
        epoch: From 1.

    Returns:
        (n, 2) int64: place of the slide in ``source.slides``, tile.
    """
    rng = np.random.default_rng([seed, epoch])
    total = sum(source.counts)
    count = total if most is None else min(most, total)
    if balance == "none":
        places = all_tiles(source)
        return places[rng.permutation(len(places))[:count]]
    slides = _balanced(source.slides, count, rng)
    tiles = np.empty(count, np.int64)
    for slide in np.unique(slides):
        at = np.flatnonzero(slides == slide)
        tiles[at] = _dealt(source.counts[slide], len(at), rng)
    return np.stack([slides, tiles], axis=1)


def all_tiles(source: TileSource, most: int | None = None, seed: int = 0) -> Places:
    """Return every tile, or ``most`` of each slide drawn once for all, in order; (n, 2) int64."""
    parts = []
    for slide, count in enumerate(source.counts):
        tiles = np.arange(count)
        if most is not None and count > most:
            rng = np.random.default_rng([seed, slide])
            tiles = np.sort(rng.choice(count, most, replace=False))
        parts.append(np.stack([np.full(len(tiles), slide), tiles], axis=1))
    return np.concatenate(parts).astype(np.int64)


def _balanced(
    slides: Sequence[SplitSlide], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deal ``count`` draws to classes, each class's to its patients, each patient's to slides."""
    tree: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, slide in enumerate(slides):
        tree[slide.label][slide.patient_id].append(index)
    patients = [list(found.values()) for _, found in sorted(tree.items())]
    chosen = np.empty(count, np.int64)
    labels = _dealt(len(patients), count, rng)
    for label, found in enumerate(patients):
        of_label = np.flatnonzero(labels == label)
        who = _dealt(len(found), len(of_label), rng)
        for patient, own in enumerate(found):
            at = of_label[who == patient]
            chosen[at] = np.array(own)[_dealt(len(own), len(at), rng)]
    return chosen


def _dealt(kinds: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``count`` draws from ``range(kinds)``, as evenly as it goes: shuffled packs one by one."""
    packs = [rng.permutation(kinds) for _ in range(-(-count // kinds))]
    return np.concatenate(packs)[:count].astype(np.int64) if packs else np.empty(0, np.int64)
