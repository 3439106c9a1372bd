"""Runs that the tests of faults and of damage share."""

from collections.abc import Callable
from functools import partial

import pytest
from faults.corruption import Runs, build


@pytest.fixture(scope="session")
def built(once: Callable[..., Runs]) -> Runs:
    """Two runs, and the slides; nothing of them may be changed."""
    return once("faults", partial(build, quick=True))
