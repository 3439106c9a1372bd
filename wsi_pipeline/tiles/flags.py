"""What marks a tile as doubtful, and the limits beyond which it does."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tiles.contract import TileStore

Flag = Literal["pen", "blurred", "fold", "blood"]
FLAGS: Final[tuple[Flag, ...]] = ("pen", "blurred", "fold", "blood")
MEASURES: Final[Mapping[Flag, str]] = {
    "pen": "pen_fraction",
    "blurred": "focus",
    "fold": "fold_fraction",
    "blood": "blood_fraction",
}


@dataclass(frozen=True, kw_only=True)
class FlagLimits:
    """A tile is flagged ``blurred`` below its limit, and with any other flag above its limit."""

    pen: float
    blurred: float
    fold: float
    blood: float

    def marks(self, columns: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.bool_]]:
        """Return which tiles carry which flag.

        Args:
            columns: Measure name to (N,) float32, as in a tile store; a flag whose measure is
                absent marks nothing.

        Returns:
            (N,) bool for each of ``FLAGS``.
        """
        limits = asdict(self)
        count = len(next(iter(columns.values()), ()))
        marks = {}
        for flag, measure in MEASURES.items():
            if measure not in columns:
                marks[flag] = np.zeros(count, np.bool_)
            elif flag == "blurred":
                marks[flag] = columns[measure] < limits[flag]
            else:
                marks[flag] = columns[measure] > limits[flag]
        return {name: np.asarray(mask, np.bool_) for name, mask in marks.items()}

    def to_attributes(self) -> dict[str, float]:
        """Return the limits as they stand in a store's ``flag_limits``."""
        return asdict(self)


def store_marks(store: TileStore) -> dict[str, NDArray[np.bool_]]:
    """Return which tiles of a store carry which flag; none where its limits are not recorded."""
    limits: Mapping[str, Any] | None = store.attributes.get("flag_limits")
    if limits is None:
        return {flag: np.zeros(len(store), np.bool_) for flag in FLAGS}
    known = FlagLimits(**{flag: float(limits[flag]) for flag in FLAGS})
    return known.marks(store.columns)


def any_mark(marks: Mapping[str, NDArray[np.bool_]], names: Sequence[str]) -> NDArray[np.bool_]:
    """Return which tiles carry at least one of the flags ``names``."""
    mask = np.zeros(len(next(iter(marks.values()))), np.bool_)
    for name in names:
        mask |= marks[name]
    return mask
