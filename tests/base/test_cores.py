"""How a machine's cores are shared out among workers."""

import pytest

from wsi_pipeline import settings
from wsi_pipeline.settings import StageConfig


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [(1, 0, 1), (2, 0, 2), (2, 2, 1), (6, 4, 1), (16, 4, 4), (16, 0, settings.MOST_THREADS)],
)
def test_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int
) -> None:
    monkeypatch.setattr(settings, "usable_cores", lambda: cores)
    assert StageConfig(workers=workers).threads_each == threads


def test_a_schedulers_cores_are_not_ours() -> None:
    assert StageConfig(scheduler="tcp://elsewhere:8786").threads_each == 1
