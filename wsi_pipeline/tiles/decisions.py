"""What a person decided about tiles and slides: ``<run>/qc/decisions.csv``.

Columns ``slide_id, x, y, decision, reason``: ``x`` and ``y`` are a tile's level-0 coords, empty for
the slide as a whole; ``decision`` is ``keep`` or ``drop``. What has no row is kept, and a dropped
slide is dropped whatever its tiles say. Everything wrong is reported at once, with line numbers.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import CohortError, StoreMismatchError
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import digest
from wsi_pipeline.tables import Table, read_table, write_csv
from wsi_pipeline.tiles.flags import FLAGS, any_mark, store_marks
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.types import Coords

Choice = Literal["keep", "drop"]
Place = tuple[int, int]  # level-0 (x, y) of a tile

DECISION_COLUMNS: Final = ("slide_id", "x", "y", "decision", "reason")
PATH: Final = RunFolder().decisions


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One row; ``place`` is None for the slide as a whole."""

    slide_id: str
    place: Place | None
    choice: Choice
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """A table of decisions, ready to be asked.

    Attributes:
        rows: As they stand in the table.
        path: The table, for messages.
    """

    rows: tuple[Decision, ...] = ()
    path: Path = PATH
    _slides: Collection[str] = field(init=False, repr=False, compare=False)
    _tiles: Mapping[str, set[Place]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        dropped = [row for row in self.rows if row.choice == "drop"]
        tiles: dict[str, set[Place]] = {}
        for row in dropped:
            if row.place is not None:
                tiles.setdefault(row.slide_id, set()).add(row.place)
        object.__setattr__(self, "_slides", {r.slide_id for r in dropped if r.place is None})
        object.__setattr__(self, "_tiles", tiles)

    def drops_slide(self, slide_id: str) -> bool:
        """Whether the slide as a whole is dropped."""
        return slide_id in self._slides

    def dropped_tiles(self, slide_id: str) -> frozenset[Place]:
        """Return the places of the slide's dropped tiles."""
        return frozenset(self._tiles.get(slide_id, ()))


def kept_mask(coords: Coords, dropped: Collection[Place]) -> NDArray[np.bool_]:
    """Return (N,) bool: which of the (N, 2) ``coords`` are not among ``dropped``."""
    return np.array([(x, y) not in dropped for x, y in coords.tolist()], np.bool_)


def check_places(slide_id: str, coords: Coords, dropped: Collection[Place]) -> None:
    """Refuse decisions about tiles that the slide does not have: it was cut anew since.

    Raises:
        StoreMismatchError: As said.
    """
    strangers = set(dropped) - set(map(tuple, coords.tolist()))
    if strangers:
        x, y = min(strangers)
        raise StoreMismatchError(
            f"{slide_id}: {PATH} drops {len(strangers)} tiles that the slide does not have, first "
            f"x={x}, y={y}; it was cut otherwise since: run the qc stage again with --overwrite, "
            "or take the rows out"
        )


def dropped_digest(dropped: Collection[Place]) -> str | None:
    """Return a digest of dropped places in any order; None where there are none."""
    return digest(sorted(dropped)) if dropped else None


def propose(
    slide_id: str, store: TileStore, drop: Sequence[str], max_dropped_fraction: float
) -> list[Decision]:
    """Return a row for the slide and one for each flagged tile, as a start for a person.

    Args:
        slide_id: The slide.
        store: Its tiles.
        drop: Flags whose tiles are proposed to be dropped; those with other flags are kept.
        max_dropped_fraction: Where more of the slide's tiles would go, all are kept, and the
            slide's row says so.
    """
    marks = store_marks(store)
    lost = any_mark(marks, drop)
    share = float(lost.mean())
    about = [*store.attributes.get("flags", ())]
    if share > max_dropped_fraction:
        about.append(f"{share:.0%} of the tiles flagged, too many to drop")
        lost = np.zeros_like(lost)
    rows = [Decision(slide_id=slide_id, place=None, choice="keep", reason="; ".join(about))]
    for index in np.flatnonzero(any_mark(marks)).tolist():
        x, y = store.coords[index].tolist()
        choice: Choice = "drop" if lost[index] else "keep"
        reason = "; ".join(tile_reasons(store, marks, index).values())
        rows.append(Decision(slide_id=slide_id, place=(x, y), choice=choice, reason=reason))
    return rows


def tile_reasons(
    store: TileStore, marks: Mapping[str, NDArray[np.bool_]], index: int
) -> dict[str, str]:
    """Return why a tile is flagged: ``pen 0.32 over 0.1``, by flag."""
    limits = store.attributes["flag_limits"]
    return {
        name: f"{name} {store.columns[flag.column_of(store.columns) or flag.column][index]:.3g} "
        f"{'under' if flag.below else 'over'} {limits[name]:.3g}"
        for name, flag in FLAGS.items()
        if marks[name][index]
    }


def write_decisions(path: Path, rows: Iterable[Decision]) -> None:
    """Write the table; ``path`` is whole or as it was before."""
    write_csv(
        path,
        DECISION_COLUMNS,
        ([row.slide_id, *(row.place or ("", "")), row.choice, row.reason] for row in rows),
    )


def read_decisions(path: Path) -> Decisions:
    """Read the table; where there is none, nothing is decided.

    Raises:
        CohortError: With one line for each problem found.
    """
    if not path.exists():
        return Decisions(path=path)
    rows: list[Decision] = []
    problems = list(_parse(read_table(path, DECISION_COLUMNS[:4], ids=DECISION_COLUMNS[:1]), rows))
    if problems:
        raise CohortError("\n".join(f"{path}: {problem}" for problem in problems))
    return Decisions(rows=tuple(rows), path=path)


def _parse(table: Table, rows: list[Decision]) -> Iterator[str]:
    """Append to ``rows``; yield what is wrong."""
    seen: dict[tuple[str, Place | None], int] = {}
    for found in table:
        line = found.line
        try:
            row = _row(found.cells)
        except ValueError as error:
            yield f"line {line}: {error}"
            continue
        key = (row.slide_id, row.place)
        if key in seen:
            yield f"line {line}: {row.slide_id} {row.place or ''} stands in line {seen[key]} too"
        seen.setdefault(key, line)
        rows.append(row)


def _row(values: Mapping[str, str]) -> Decision:
    choice = values["decision"].lower()
    if choice not in ("keep", "drop"):
        raise ValueError(f"decision {values['decision']!r} is neither keep nor drop")
    if not values["slide_id"]:
        raise ValueError("slide_id is empty")
    texts = (values["x"], values["y"])
    place: Place | None = None
    if any(texts):
        try:
            place = (int(texts[0]), int(texts[1]))
        except ValueError:
            raise ValueError(
                f"x {texts[0]!r} and y {texts[1]!r} must be two whole numbers, or both empty"
            ) from None
    return Decision(
        slide_id=values["slide_id"],
        place=place,
        choice="drop" if choice == "drop" else "keep",
        reason=values.get("reason", ""),
    )
