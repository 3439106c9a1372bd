"""Dearraying: made arrays with a known answer, and nine real overviews with drawn circles."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from wsi_pipeline.cohort import MappedCore
from wsi_pipeline.errors import CohortError, ConfigError, NoTissueError
from wsi_pipeline.microarray import (
    Dearray,
    Hints,
    Joining,
    core_name,
    dearray,
    draw_cores,
    join_core_map,
)
from wsi_pipeline.types import RgbImage

Places = dict[tuple[int, int], tuple[float, float]]


def made_array(
    rows: int = 4,
    columns: int = 6,
    missing: frozenset[tuple[int, int]] = frozenset(),
    turn_deg: float = 0.0,
    pitch: float = 130.0,
    diameter: float = 84.0,
    jitter: float = 4.0,
    seed: int = 0,
) -> tuple[RgbImage, Places]:
    """An H&E-like array; returns it and where its cores are."""
    rng = np.random.default_rng(seed)
    height, width = round(rows * pitch + 160), round(columns * pitch + 160)
    rgb = np.clip(243 + rng.normal(0, 1.5, (height, width, 3)), 0, 255)
    turn = np.radians(turn_deg)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    places = {}
    for row in range(rows):
        for column in range(columns):
            grid = np.array([column - (columns - 1) / 2, row - (rows - 1) / 2]) * pitch
            centre = axes @ grid + (width / 2, height / 2) + rng.normal(0, jitter, 2)
            if (row, column) in missing:
                continue
            places[row, column] = (float(centre[0]), float(centre[1]))
            colour = np.array([205, 130, 180]) + rng.normal(0, 12, 3)
            paint_disc(rgb, centre, diameter / 2, colour, rng)
    return np.clip(rgb, 0, 255).astype(np.uint8), places


def paint_disc(
    rgb: NDArray[np.float64],
    centre: NDArray[np.float64],
    radius: float,
    colour: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    left, top = np.floor(centre - radius).astype(int)
    side = int(2 * radius) + 3
    y, x = np.mgrid[top : top + side, left : left + side]
    inside = np.hypot(x - centre[0], y - centre[1]) <= radius
    texture = colour + rng.normal(0, 14, (int(inside.sum()), 3))
    rgb[top : top + side, left : left + side][inside] = texture


def assert_exact(array: Dearray, places: Places, tolerance_px: float) -> None:
    found = {(core.row, core.column): core for core in array.present}
    assert set(found) == set(places)
    for cell, (x, y) in places.items():
        assert np.hypot(found[cell].x - x, found[cell].y - y) < tolerance_px


def test_turned_array_with_missing_cores() -> None:
    missing = frozenset({(1, 2), (3, 5)})
    rgb, places = made_array(missing=missing, turn_deg=3)
    array = dearray(rgb)
    assert (array.rows, array.columns) == (4, 6)
    assert_exact(array, places, 8)
    assert {(c.row, c.column) for c in array.cores if c.missing} == missing
    assert [core.name for core in array.cores][:7] == ["A1", "A2", "A3", "A4", "A5", "A6", "B1"]
    assert array.rotation_deg == pytest.approx(3, abs=1.5)
    assert array.pitch_px[0] == pytest.approx(130, rel=0.03)
    assert array.diameter_px == pytest.approx(84, rel=0.08)


def test_missing_cores_stand_where_they_should() -> None:
    rgb, _ = made_array(missing=frozenset({(1, 2)}), jitter=0)
    _, complete = made_array(jitter=0)
    (lost,) = [core for core in dearray(rgb).cores if core.missing]
    assert (lost.row, lost.column, lost.name) == (1, 2, "B3")
    assert np.hypot(lost.x - complete[1, 2][0], lost.y - complete[1, 2][1]) < 6
    assert lost.coverage == 0


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(2, 7),
    columns=st.integers(2, 8),
    turn=st.floats(-9, 9),
    pitch=st.floats(50, 110),
    fill=st.floats(0.55, 0.85),
    seed=st.integers(0, 99),
)
def test_any_regular_array(
    rows: int, columns: int, turn: float, pitch: float, fill: float, seed: int
) -> None:
    rgb, places = made_array(
        rows,
        columns,
        turn_deg=turn,
        pitch=pitch,
        diameter=fill * pitch,
        jitter=0.03 * pitch,
        seed=seed,
    )
    array = dearray(rgb)
    assert (array.rows, array.columns) == (rows, columns)
    assert_exact(array, places, 0.2 * pitch)


def test_an_empty_column_counts_and_a_gap_between_blocks_does_not() -> None:
    rgb, _ = made_array(missing=frozenset((row, 3) for row in range(4)), jitter=1)
    assert dearray(rgb).columns == 6
    left, _ = made_array(4, 3, jitter=1)
    right, _ = made_array(4, 4, jitter=1, seed=5)
    gap = np.full((left.shape[0], 30, 3), 243, np.uint8)  # cores 320 px apart: 2.5 steps
    assert dearray(np.hstack([left, gap, right])).columns == 7


def test_touching_cores_come_apart() -> None:
    rgb, places = made_array(diameter=131, jitter=2)
    assert_exact(dearray(rgb), places, 12)


def test_dust_hairs_and_a_slide_edge_are_not_cores() -> None:
    rgb, places = made_array(missing=frozenset({(0, 3), (2, 2)}))
    rng = np.random.default_rng(7)
    for x, y in rng.integers(0, [rgb.shape[1], rgb.shape[0]], (60, 2)):
        cv2.circle(rgb, (int(x), int(y)), 3, (90, 90, 90), cv2.FILLED)
    cv2.line(rgb, (0, 300), (rgb.shape[1], 240), (150, 150, 150), 3)
    rgb[:, -14:] = 20
    array = dearray(rgb)
    assert (array.rows, array.columns) == (4, 6)
    assert_exact(array, places, 10)


def test_a_mask_and_other_sizes_do() -> None:
    rgb, places = made_array(missing=frozenset({(1, 1)}))
    mask = rgb.min(axis=2) < 200
    assert_exact(dearray(mask), places, 8)
    small = np.asarray(cv2.resize(rgb, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA))
    halved = {cell: (x * 0.4, y * 0.4) for cell, (x, y) in places.items()}
    assert_exact(dearray(small.astype(np.uint8)), halved, 4)
    large = np.asarray(cv2.resize(rgb, None, fx=3, fy=3))
    tripled = {cell: (x * 3, y * 3) for cell, (x, y) in places.items()}
    assert_exact(dearray(large.astype(np.uint8)), tripled, 24)


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_cores_of_two_sizes_are_found(share: float) -> None:
    rgb = np.full((560, 780, 3), 243.0)
    rng = np.random.default_rng(0)
    small = set()
    for row in range(5):
        for column in range(7):
            radius = 36.0
            if (row + column) % 2:
                radius *= share
                small.add((row, column))
            centre = np.array([80 + 102.0 * column, 75 + 102.0 * row])
            paint_disc(rgb, centre, radius, np.array([190.0, 120, 170]), rng)
    array = dearray(np.clip(rgb, 0, 255).astype(np.uint8))
    assert (array.rows, array.columns, len(array.present)) == (5, 7, 35)
    middle = 36 * (1 + share)
    assert {(c.row, c.column) for c in array.present if c.diameter_px < middle} == small


def test_light_on_dark_and_faded_arrays_are_found() -> None:
    rgb, places = made_array(missing=frozenset({(1, 2)}))
    dark = dearray(255 - rgb)
    assert dark.inverted
    assert_exact(dark, places, 8)
    faded = dearray((243 - (243 - np.minimum(rgb, 243).astype(float)) / 10).astype(np.uint8))
    assert not faded.inverted
    assert_exact(faded, places, 8)


def test_a_known_diameter_is_used() -> None:
    rgb, places = made_array()
    array = dearray(rgb, Hints(core_px=80))
    assert array.diameter_px == pytest.approx(80)
    assert_exact(array, places, 8)


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(NoTissueError, match="No cores found"):
        dearray(np.full((600, 900, 3), 243, np.uint8))
    with pytest.raises(ConfigError, match="bool mask"):
        dearray(np.zeros((50, 50), np.uint8))


def test_names_go_on_after_z() -> None:
    assert [core_name(row, 2) for row in (0, 25, 26, 27, 52)] == ["A3", "Z3", "AA3", "AB3", "BA3"]


def map_of(cells: list[tuple[int, int]], letters: bool = True) -> list[MappedCore]:
    return [
        MappedCore(
            row=core_name(row, 0)[:-1] if letters else f"{row + 1:02d}",
            column=str(column + 1),
            core_id=f"core-{row}-{column}",
            patient_id=None,
            label=None,
        )
        for row, column in cells
    ]


@pytest.mark.parametrize("letters", [True, False])
def test_core_map_is_joined_in_its_own_order(letters: bool) -> None:
    missing = frozenset({(2, 1)})
    rgb, _ = made_array(missing=missing)
    cells = [(row, column) for column in range(6) for row in range(4)]
    known = Joining(turn=0)
    joined = join_core_map(dearray(rgb), map_of(cells, letters), known)
    assert not joined.doubts
    assert [row.mapped.core_id for row in joined.cores] == [f"core-{r}-{c}" for r, c in cells]
    for cell, row in zip(cells, joined.cores, strict=True):
        assert row.core is not None
        assert row.core.missing == (cell in missing)
        if not row.core.missing:
            assert (row.core.row, row.core.column) == cell


def test_a_full_map_fits_a_full_array_in_four_ways_and_asks() -> None:
    array = dearray(made_array()[0])
    cells = [(row, column) for row in range(4) for column in range(6)]
    joined = join_core_map(array, map_of(cells))
    assert len(joined.doubts) == 1
    assert "hardly better" in joined.doubts[0]
    assert joined.runner_up is not None
    assert joined.orientation.turn == 0


def test_a_map_tells_that_the_first_row_is_lost() -> None:
    rgb, _ = made_array(missing=frozenset((0, column) for column in range(6)) | {(1, 0)})
    array = dearray(rgb)
    assert (array.rows, array.columns) == (3, 6)
    # A1 marks the array's corner; B1 is empty by design.
    cells = [(row, column) for row in range(4) for column in range(6) if (row, column) != (1, 0)]
    found = join_core_map(array, map_of(cells), Joining(turn=0))
    joined = {row.mapped.core_id: row.core for row in found.cores}
    lost = joined["core-0-3"]
    assert lost is not None
    assert lost.missing
    core = joined["core-1-1"]
    assert core is not None
    assert (core.row, core.column, core.missing) == (1, 1, False)


def test_a_map_of_another_array_is_refused() -> None:
    array = dearray(made_array()[0])
    assert "no row in the core map" in str(
        join_core_map(array, map_of([(0, 0), (0, 1), (0, 2)])).doubts
    )
    with pytest.raises(CohortError, match="'0'"):
        join_core_map(array, [replace(core, row="0") for core in map_of([(0, 0)])])


def test_a_map_of_any_size_is_laid_or_refused() -> None:
    array = dearray(made_array()[0])
    cells = [(row, column) for row in range(4) for column in range(6)]
    far = [replace(core, row={"4": "999999"}.get(core.row.lstrip("0"), core.row))
           for core in map_of(cells, letters=False)]  # fmt: skip
    joined = join_core_map(array, far, Joining(turn=0))
    assert sum(row.core is not None for row in joined.cores) == 24, "empty rows count for nothing"
    many = map_of([(row, column) for row in range(60) for column in range(60)])
    with pytest.raises(CohortError, match="3600 cores in 60 rows"):
        join_core_map(array, many)


def test_preview_marks_every_core() -> None:
    rgb, _ = made_array(missing=frozenset({(1, 1)}))
    before = rgb.copy()
    array = dearray(rgb)
    drawn = draw_cores(rgb, array)
    assert np.array_equal(rgb, before)
    assert max(drawn.shape[:2]) >= 1600
    zoom = max(drawn.shape[:2]) / max(rgb.shape[:2])
    plain = cv2.resize(rgb, drawn.shape[1::-1])
    changed = np.abs(drawn.astype(int) - plain).max(axis=2) > 40
    for core in array.cores:
        x, y, r = (round(v * zoom) for v in (core.x, core.y, core.diameter_px * 0.65))
        assert changed[y - r : y + r, x - r : x + r].mean() > 0.02


# The arrays whose rows and columns are straight enough to be told from the drawn circles alone, see
# `lines`; on the others cores wander by half a step and more. The last two have a block of controls
# beside them, 2.0 and 2.9 steps from the next column: whole steps count as empty columns.
GRIDS = {
    "ABC_096_1_009_1": (12, 13),
    "ABC_098_1_009_1": (12, 14),
    "ABC_100_1_009_1": (12, 14),
    "ABC_102_1_009_1": (12, 14),
    "ABC_106_1_010_1": (12, 18),
    "ABC_108_1_010_1": (12, 11),
}


def labelled(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "tma").glob("*.png"))


@pytest.fixture(scope="session")
def found_on(once: Callable[..., Dearray]) -> Callable[[Path], Dearray]:
    """Return what finds the cores of a real overview, once for all tests."""
    return lambda path: once(f"dearray-{path.stem}", lambda _: dearray(read(path)[0]))


def read(path: Path) -> tuple[RgbImage, NDArray[np.float64], NDArray[np.float64]]:
    circles = json.loads(path.with_suffix(".json").read_text())
    bgr = cv2.imread(str(path))
    assert bgr is not None
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    centres = np.array([(c["x"], c["y"]) for c in circles])
    return rgb, centres, np.array([c["radius"] for c in circles])


def pairs(
    array: Dearray, centres: NDArray[np.float64], radii: NDArray[np.float64]
) -> list[tuple[int, int]]:
    """Cores present matched one to one with circles, each within its circle's radius."""
    found = np.array([(core.x, core.y) for core in array.present])
    apart = np.hypot(*(found[:, None] - centres[None]).transpose(2, 0, 1))
    cost = np.where(apart <= radii[None], apart, 1e6)
    cores, circles = linear_sum_assignment(cost)
    return [(int(k), int(n)) for k, n in zip(cores, circles, strict=True) if cost[k, n] < 1e6]


def lines(
    centres: NDArray[np.float64], radius: float, *, down: bool
) -> tuple[NDArray[np.int64], float]:
    """Number drawn circles by row (``down``) or column, without any of the code under test.

    The circles are projected on the direction in which their lines part most clearly; lines are
    what lies within a radius, and a gap of several steps counts as several.

    Returns:
        The line of each circle, and how many times wider the narrowest gap between lines is than
        the widest within one. Above 2 there is no doubt which circle is in which line.
    """
    best, sharpest = np.zeros(len(centres), np.int64), 0.0
    for degrees in np.arange(-8, 8.05, 0.1):
        x, y = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        along = centres @ (np.array([-y, x]) if down else np.array([x, y]))
        order = np.argsort(along)
        gaps = np.diff(along[order])
        between = gaps > radius
        if not between.any() or gaps[between].min() / gaps[~between].max() <= sharpest:
            continue
        sharpest = float(gaps[between].min() / gaps[~between].max())
        line = np.concatenate([[0], np.cumsum(between)])
        middles = np.array([along[order][line == k].mean() for k in range(line[-1] + 1)])
        steps = np.round(np.diff(middles) / np.median(np.diff(middles))).astype(np.int64)
        best[order] = np.concatenate([[0], np.cumsum(steps)])[line]
    return best, sharpest


@pytest.mark.parametrize("name", GRIDS)
def test_rows_and_columns_are_those_of_the_drawn_circles(
    data_dir: Path, found_on: Callable[[Path], Dearray], name: str
) -> None:
    _, centres, radii = read(data_dir / "tma" / f"{name}.png")
    row, rows_part = lines(centres, float(np.median(radii)), down=True)
    column, columns_part = lines(centres, float(np.median(radii)), down=False)
    assert min(rows_part, columns_part) > 2, "the truth is beyond doubt"
    array = found_on(data_dir / "tma" / f"{name}.png")
    matched = pairs(array, centres, radii)
    assert len(matched) > 0.95 * len(centres)
    wrong = [
        (array.present[core].name, int(row[circle]), int(column[circle]))
        for core, circle in matched
        if (array.present[core].row, array.present[core].column) != (row[circle], column[circle])
    ]
    assert not wrong


def test_nine_real_arrays(data_dir: Path, found_on: Callable[[Path], Dearray]) -> None:
    paths = labelled(data_dir)
    assert len(paths) == 9
    matched = drawn = found = 0
    for path in paths:
        _, centres, radii = read(path)
        array = found_on(path)
        count = len(pairs(array, centres, radii))
        assert count / len(centres) > 0.95, path.name
        assert count / len(array.present) > 0.95, path.name
        assert GRIDS.get(path.stem, (array.rows, array.columns)) == (array.rows, array.columns)
        matched, drawn, found = matched + count, drawn + len(centres), found + len(array.present)
    assert matched / drawn >= 0.98
    assert matched / found >= 0.98
