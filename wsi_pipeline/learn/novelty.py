"""Is a slide like those trained on? A model's probabilities do not say; they add up to one anyway.

The distance of a tile is that to its k-th nearest neighbour among training tiles, both scaled to
unit length (Sun et al., Out-of-distribution detection with deep nearest neighbors, ICML 2022); a
slide's novelty is the median over its tiles. What is usual is measured on the training patients,
each against the tiles of the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

K: Final = 5
BANK: Final = 4096  # training tiles kept, the same number of each patient
ASKED: Final = 1024  # tiles of a slide that are looked up, evenly spaced
LEVEL: Final = 0.99
FEWEST_PATIENTS: Final = 3  # of which a spread can be told


@dataclass(frozen=True, kw_only=True)
class Novelty:
    """What the training slides look like.

    Attributes:
        bank: (B, D) float32, tiles of the training slides, each of unit length.
        median: Of the training patients' own novelty.
        limit: A new patient of the same kind stays below it with 99 % probability: the upper
            prediction limit of a log-normal distribution, which allows for having seen few
            patients. None where they are too few to tell.
        patients: How many there were.
    """

    bank: NDArray[np.float32]
    median: float
    limit: float | None
    patients: int

    def score(self, features: NDArray[np.float32]) -> float:
        """Return the novelty of a slide with ``features`` (N, D), between 0 and 2."""
        return float(np.median(_distances(_unit(_spread(features, ASKED)), self.bank)))

    def facts(self) -> dict[str, float | None]:
        """Return all but the bank, JSON-ready."""
        return {"median": self.median, "limit": self.limit, "patients": self.patients, "k": K}


def fit_novelty(bags: Mapping[str, Sequence[NDArray[np.float32]]]) -> Novelty:
    """Keep tiles of the training patients and measure what is usual among them.

    Args:
        bags: Patient → the features (N, D) of each of its slides; asked for one patient at a time.
    """
    share = max(K, BANK // len(bags))
    kept, asked = {}, {}
    for patient, own in bags.items():
        kept[patient] = _unit(_spread(np.concatenate(own), share))
        asked[patient] = [_unit(_spread(bag, share)) for bag in own]
    usual = []
    for patient, own_tiles in asked.items():
        others = [tiles for name, tiles in kept.items() if name != patient]
        if others:
            bank = np.concatenate(others)
            usual.append(max(float(np.median(_distances(tiles, bank))) for tiles in own_tiles))
    return Novelty(
        bank=np.concatenate(list(kept.values())),
        median=float(np.median(usual)) if usual else 0.0,
        limit=prediction_limit(usual),
        patients=len(bags),
    )


def prediction_limit(values: Sequence[float], level: float = LEVEL) -> float | None:
    """Return what one more log-normal value will not exceed, with probability ``level``.

    Source: Hahn and Meeker, Statistical intervals, 1991, one-sided prediction limit.
    """
    if len(values) < FEWEST_PATIENTS:
        return None
    logs = np.log(np.maximum(values, np.finfo(np.float32).eps))
    factor = stats.t.ppf(level, len(logs) - 1) * np.sqrt(1 + 1 / len(logs))
    return float(np.exp(logs.mean() + factor * logs.std(ddof=1)))


def _distances(tiles: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance of each unit row of ``tiles`` to its k-th nearest row of ``bank``."""
    k = min(K, len(bank))
    nearest = np.partition(tiles @ bank.T, -k, axis=1)[:, -k]
    return np.asarray(np.sqrt(np.maximum(2 - 2 * nearest, 0)), np.float32)


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.finfo(np.float32).tiny), np.float32)


def _spread(features: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return at most ``count`` rows, evenly spaced."""
    if len(features) <= count:
        return features
    return features[np.linspace(0, len(features) - 1, count).astype(np.int64)]
