"""Whatever is done to an array or its map: no core that is used without a look has a wrong name."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.microarrays import (
    SIDES,
    Labelled,
    cropped,
    judge,
    labelled,
    laid,
    map_of,
    own_map,
    pasted,
    thinned,
    without_rows,
)

SMALL = ("158871", "ABC_108_1_010_1", "ABC_109_1_010_1")  # a second each
KEEP = settings(
    max_examples=5, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@lru_cache
def arrays(data: Path) -> dict[str, Labelled]:
    """The labelled arrays by name."""
    return {array.name: array for array in labelled(data)}


def harmed(array: Labelled, how: str, side: int, seed: int) -> Labelled:
    """The array after something that happens to arrays."""
    rng = np.random.default_rng(seed)
    if how == "pasted":
        return pasted(array, SIDES[side], rng)
    if how == "cropped":
        return cropped(array, SIDES[side], float(rng.uniform(0.1, 0.35)))
    if how == "thinned":
        return thinned(array, float(rng.uniform(0.1, 0.55)), rng)
    if how == "turned":
        return laid(array, 90 * side, bool(seed % 2))
    return without_rows(array, int(rng.integers(array.size[0] - 1)), 1 + seed % 2, rng)


@pytest.mark.parametrize("name", SMALL)
@KEEP
@given(
    how=st.sampled_from(["pasted", "cropped", "thinned", "turned", "rows"]),
    side=st.integers(0, 3),
    seed=st.integers(0, 999),
)
def test_no_accepted_core_has_a_wrong_name(
    data_dir: Path, name: str, how: str, side: int, seed: int
) -> None:
    array = arrays(data_dir)[name]
    result = judge(how, how, harmed(array, how, side, seed), own_map(array))
    assert not (result.accepted and result.wrong)


@pytest.mark.parametrize("name", SMALL)
def test_an_array_joins_its_own_map_and_no_other(data_dir: Path, name: str) -> None:
    array = arrays(data_dir)[name]
    rows, columns = array.size
    own = judge("", "", array, own_map(array))
    assert own.accepted
    assert not own.wrong
    others = [own_map(arrays(data_dir)[other]) for other in SMALL if other != name]
    for down, along in ((rows + 1, columns), (rows, columns - 1), (columns, rows)):
        others.append(map_of([(row, column) for row in range(down) for column in range(along)]))
    for mapped in others:
        assert not judge("", "", array, mapped).accepted
