"""Cells over the whole array at once: blocks that took a wrong turn go back, doubt is told."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.microarray.field import Field
from wsi_pipeline.microarray.unwrap import STEPS, Unwrapping


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(4, 9),
    columns=st.integers(4, 9),
    step=st.integers(0, 3),
    bend=st.floats(-0.06, 0.06),
    lost=st.floats(0, 0.35),
    seed=st.integers(0, 999),
)
def test_a_block_that_took_a_wrong_turn_goes_back(
    rows: int, columns: int, step: int, bend: float, lost: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cells = np.array([(x, y) for y in range(rows) for x in range(columns)])
    cells = cells[rng.random(len(cells)) >= lost]
    places = cells + rng.normal(0, 0.05, cells.shape)
    places[:, 1] += bend * cells[:, 0] ** 2 / 4  # a section that lies in a bow
    unwrapping = Unwrapping(places, Field(places=places, offsets=places - cells))
    beyond = cells[:, 0] >= columns // 2
    turned = cells + beyond[:, None] * STEPS[step]
    settled = unwrapping.settled(turned)
    shift = settled - cells
    assert (shift == shift[0]).all()
    assert unwrapping.price(settled) <= unwrapping.price(turned)


def test_a_cut_moves_what_must_and_keeps_what_must_not() -> None:
    cells = np.array([(x, y) for y in range(4) for x in range(8)])
    places = cells + np.random.default_rng(0).normal(0, 0.05, cells.shape)
    places[cells[:, 0] >= 5, 0] += 1.5  # a gap that may be one step or two
    unwrapping = Unwrapping(places, Field(places=places, offsets=places - cells))
    moved = unwrapping.cut(cells, STEPS[0], moved=cells[:, 0] == 7, still=cells[:, 0] == 0)
    assert np.array_equal(moved, cells[:, 0] >= 5)
