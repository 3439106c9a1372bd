"""One finished run folder for all tests of the room; none of them may change it."""

from pathlib import Path

import pytest
from reporting.made import make_trained


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_trained(tmp_path_factory.mktemp("reporting") / "run")
