"""The cohort that the tests of this folder share."""

import pytest
from scale.runs import Study, build


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return build(tmp_path_factory.mktemp("scale"))
