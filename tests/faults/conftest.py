"""Runs that the tests of faults and of damage share."""

import pytest
from faults.corruption import Runs, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return build(tmp_path_factory.mktemp("faults"), quick=True)
