"""What marks a tile as doubtful: one table, which the stages, pages and tables of fates read.

To add a flag, write its rule and its entry in ``FLAGS``; ``--drop-flagged``, the closing table, the
gallery and the report know it from there.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.registry import Registry
from wsi_pipeline.tiles.settings import RuleSettings
from wsi_pipeline.tiles.store import Columns, TileStore
from wsi_pipeline.tissue import (
    CoarseTiles,
    blood_fractions,
    blood_threshold,
    coarse_pen_fractions,
    fold_fractions,
    fold_threshold,
)

SHARPNESS_BOUNDS: Final = (0.14, 0.2)  # of the limit, whatever the slide's median

NO_FLAG: Final = -1

Values = NDArray[np.float32]
Marks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What rules see of N tiles, as they were scanned.

    Attributes:
        focus, sharpness: (N,) float32, see :func:`wsi_pipeline.tissue.detail`.
        coarse: The tiles at about 2 µm/px.
        glass: (3,) uint8, colour of the slide's empty glass.
    """

    focus: Values
    sharpness: Values
    coarse: CoarseTiles
    glass: NDArray[np.uint8]


Measure = Callable[[Look], Values]


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A rule once it knows a slide: its measure, and the numbers a store keeps of it."""

    measure: Measure
    numbers: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TileFlag:
    """One flag.

    Attributes:
        label: Its name on pages.
        fate: What the closing table calls a tile that it takes out.
        colour: RGB of its tiles on overlays.
        column: Its measure's name in a tile store.
        formerly: That name in older stores, whose limit is one of that measure.
        unasked: It is right often enough to be looked for without being asked for.
        below: It marks tiles whose measure lies below the limit, not above.
        limit: Of the measure on a slide, by the settings and a look at sampled tiles.
        rule: Learns from a look at sampled tiles how this slide is measured.
    """

    label: str
    fate: str
    colour: tuple[int, int, int]
    column: str
    formerly: str | None = None
    unasked: bool = True
    below: bool = False
    limit: Callable[[RuleSettings, Look], float]
    rule: Callable[[RuleSettings, Look], Learnt]

    def column_of(self, columns: Container[str]) -> str | None:
        """Return the name of the flag's measure among ``columns``; None if it is not there."""
        names = (self.column, self.formerly)
        return next((name for name in names if name is not None and name in columns), None)


@dataclass(frozen=True, kw_only=True)
class SlideRules:
    """Every flag's rule and limit as learnt on one slide."""

    limits: Mapping[str, float]
    rules: Mapping[str, Learnt]

    def measure(self, look: Look) -> dict[str, Values]:
        """Return each flag's column and the tiles' focus, (N,) float32."""
        columns = {FLAGS[name].column: rule.measure(look) for name, rule in self.rules.items()}
        return {"focus": look.focus, **columns}

    def marks(self, columns: Mapping[str, Values]) -> dict[str, NDArray[np.bool_]]:
        """Return which tiles carry which flag."""
        return marks(columns, self.limits)

    def numbers(self) -> dict[str, float]:
        """Return what was learnt, as it stands in a store."""
        return {name: n for rule in self.rules.values() for name, n in rule.numbers.items()}


NO_RULES: Final = SlideRules(limits={}, rules={})
"""Of pictures that are no stained sections."""


def learn_rules(settings: RuleSettings, sample: Look) -> SlideRules:
    """Learn from sampled tiles what is sharp, folded, bloody … on their slide.

    Only flags that are right often enough, asked for, or dropped are measured.
    """
    asked = {*settings.also_flag, *settings.drop_flagged}
    chosen = {name: flag for name, flag in FLAGS.items() if flag.unasked or name in asked}
    return SlideRules(
        limits={name: flag.limit(settings, sample) for name, flag in chosen.items()},
        rules={name: flag.rule(settings, sample) for name, flag in chosen.items()},
    )


def marks(columns: Columns, limits: Mapping[str, float]) -> dict[str, NDArray[np.bool_]]:
    """Return which tiles carry which flag.

    Args:
        columns: Measure name to (N,) float32, as in a tile store.
        limits: By flag; a flag without limit or measure, which the store's writer did not know,
            marks nothing.

    Returns:
        (N,) bool for each of ``FLAGS``.
    """
    count = len(next(iter(columns.values()), ()))
    found = {}
    for name, flag in FLAGS.items():
        column = flag.column_of(columns)
        if name not in limits or column is None:
            found[name] = np.zeros(count, np.bool_)
        else:
            values = columns[column]
            beyond = values < limits[name] if flag.below else values > limits[name]
            found[name] = np.asarray(beyond, np.bool_)
    return found


def store_marks(store: TileStore) -> dict[str, NDArray[np.bool_]]:
    """Return which tiles of a store carry which flag; none where its limits are not recorded."""
    limits: Mapping[str, Any] = store.attributes.get("flag_limits") or {}
    if not limits:
        return {name: np.zeros(len(store), np.bool_) for name in FLAGS}
    return marks(store.columns, {name: float(limit) for name, limit in limits.items()})


def any_mark(found: Marks, names: Iterable[str] | None = None) -> NDArray[np.bool_]:
    """Return which tiles carry at least one of the flags ``names``; None: any at all."""
    mask = np.zeros(len(next(iter(found.values()))), np.bool_)
    for name in found if names is None else names:
        mask |= found[name]
    return mask


def flags_told(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a slide's own flags, and how many of its kept tiles have which: ``42 blood``."""
    counts = attributes.get("counts", {})
    tiles = {flag.fate: counts.get(f"flagged_{name}", 0) for name, flag in FLAGS.items()}
    return (
        *attributes.get("flags", ()),
        *(f"{count:,} {fate}" for fate, count in tiles.items() if count),
    )


def worst_first(store: TileStore, name: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order of (n,) ``rows`` of a store by how far they are beyond the flag's limit."""
    flag = FLAGS[name]
    values = store.columns[flag.column_of(store.columns) or flag.column][rows]
    return np.argsort(values if flag.below else -values, kind="stable")


def first_mark(found: Marks) -> NDArray[np.int8]:
    """Return (N,) int8: position in ``FLAGS`` of each tile's first flag, ``NO_FLAG`` if none."""
    first = np.full(len(next(iter(found.values()))), NO_FLAG, np.int8)
    for position, name in reversed(list(enumerate(FLAGS))):
        first[found[name]] = position
    return first


def _pen(_settings: RuleSettings, _sample: Look) -> Learnt:
    return Learnt(measure=lambda look: coarse_pen_fractions(look.coarse), numbers={})


def _blurred(_settings: RuleSettings, _sample: Look) -> Learnt:
    return Learnt(measure=lambda look: look.sharpness, numbers={})


def _least_sharpness(settings: RuleSettings, sample: Look) -> float:
    usual = float(np.median(sample.sharpness)) if len(sample.sharpness) else 0.0
    return float(np.clip(settings.min_relative_sharpness * usual, *SHARPNESS_BOUNDS))


def _fold(settings: RuleSettings, sample: Look) -> Learnt:
    threshold = fold_threshold(sample.coarse, sample.glass, settings.fold_deviations)
    return Learnt(
        measure=lambda look: fold_fractions(look.coarse, look.glass, threshold),
        numbers={"fold_threshold": threshold},
    )


def _blood(_settings: RuleSettings, sample: Look) -> Learnt:
    threshold = blood_threshold(sample.coarse, sample.glass)
    return Learnt(
        measure=lambda look: blood_fractions(look.coarse, look.glass, threshold),
        numbers={"blood_threshold": threshold},
    )


FLAGS: Final = Registry(
    "tile flag",
    {
        "pen": TileFlag(
            label="Pen",
            fate="pen",
            colour=(226, 88, 20),
            column="pen_fraction",
            limit=lambda settings, _: settings.max_pen_fraction,
            rule=_pen,
        ),
        "blurred": TileFlag(
            label="Out of focus",
            fate="blurred",
            colour=(120, 94, 240),
            column="sharpness",
            formerly="focus",
            below=True,
            limit=_least_sharpness,
            rule=_blurred,
        ),
        "fold": TileFlag(
            label="Folded",
            fate="folded",
            colour=(220, 38, 127),
            column="fold_fraction",
            unasked=False,
            limit=lambda settings, _: settings.max_fold_fraction,
            rule=_fold,
        ),
        "blood": TileFlag(
            label="Blood",
            fate="blood",
            colour=(166, 16, 30),
            column="blood_fraction",
            limit=lambda settings, _: settings.max_blood_fraction,
            rule=_blood,
        ),
    },
)
"""Every flag by name, in the order in which a tile with several is counted."""
