"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared", deadline=None)  # machines that do other work are slow at times
settings.load_profile("shared")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real slides and images; they are not part of the project, so their tests may skip."""
    path = Path(os.environ.get("WSI_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"the real test data are not at {path}; set WSI_TEST_DATA")
    return path
