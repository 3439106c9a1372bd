"""Fixtures that every room's tests share."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

# No deadlines: machines that do other work are slow at times. Luck does not decide whether a change
# passes; new examples are looked for on purpose, with HYPOTHESIS_PROFILE=search.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real slides and images; they are not part of the project, so their tests may skip."""
    path = Path(os.environ.get("WSI_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"the real test data are not at {path}; set WSI_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Any]:
    """Make what is dear once for all worker processes of a test run: ``once(name, make)``.

    ``make`` gets an empty folder, which all share and none may change; what it returns is pickled.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], Any]) -> Any:
        folder, kept = shared / f"once-{name}", shared / f"once-{name}.pickle"
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                told = pickle.dumps(make(folder))
                kept.write_bytes(told)
            return pickle.loads(kept.read_bytes())

    return made
