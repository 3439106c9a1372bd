"""A cohort worked on in parts gives the run folder that one call gives."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scale.runs import Study, digests, do, do_shard

from wsi_pipeline.cli import main
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import Note, StageStarted
from wsi_pipeline.shard import Shard
from wsi_pipeline.verbs.runs import RunConfig
from wsi_pipeline.verbs.tiles import ExtractConfig

SHARDS = 8
VERBS = ("tile", "extract", "predict")

pytestmark = pytest.mark.timeout(900)  # the first waits for the study that all share


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 50))
def test_every_slide_is_in_one_part(slide_ids: list[str], count: int) -> None:
    parts = [Shard(number, count) for number in range(1, count + 1)]
    assert all(sum(part.holds(name) for part in parts) == 1 for name in slide_ids)


def test_a_slides_part_stays_where_it_is() -> None:
    """Of stated ids, so that a job of next year works on this year's slides."""
    parts = {"TCGA-DD-A1EH-01Z-00-DX1": 4, "TCGA-W5-AA2G-01A-01-TS1": 13, "a": 24, "肝": 9}
    assert all(Shard(number, 40).holds(name) for name, number in parts.items())


def test_parts_are_as_even_as_chance_makes_them() -> None:
    names = [f"TCGA-{k // 100:02d}-{k:04d}-01Z-00-DX1" for k in range(4000)]
    sizes = [sum(map(Shard(number, 40).holds, names)) for number in range(1, 41)]
    assert sum(sizes) == 4000
    assert min(sizes) >= 65
    assert max(sizes) <= 135  # 100 on average, 10 the square root of it


@pytest.mark.parametrize("text", ["0/40", "41/40", "3", "3/0", "-1/4", "3/40/2", "a/b"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="shard"):
        ExtractConfig.from_mapping({"run": "r", "shard": text}, "test")


def test_parts_one_after_the_other(study: Study, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for verb in VERBS:
        for number in range(1, SHARDS + 1):
            do_shard(study, run, verb, f"{number}/{SHARDS}")
    assert digests(run) == digests(study.whole)


def test_parts_at_once_in_any_order(study: Study, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for verb in VERBS:
            jobs = [
                pool.submit(do_shard, study, run, verb, f"{number}/{SHARDS}")
                for number in range(SHARDS, 0, -1)
            ]
            for job in jobs:
                job.result()
    assert digests(run) == digests(study.whole)


def test_a_part_says_that_it_is_one(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    held = sum(map(Shard(1, 3).holds, _ids(study)))
    arguments = ["--tile-px", "64", "--max-background-fraction", "1", "--shard", "1/3"]
    assert main(["tile", str(study.cohort), "--run", str(run), *arguments]) == 0
    part = f"shard 1/3: {held} of {len(_ids(study))} slides"
    assert f"tile, {part}" in capsys.readouterr().out
    assert f"tile: {held} slides ({part})" in (run / "logs" / "tile.log").read_text()
    notes = [event.text for event in do("report", run=run) if isinstance(event, Note)]
    told = "tile: 2 of 3 shards have not been begun (2 and 3), so this is a part of the cohort"
    assert told in notes
    assert told in (run / "report" / "index.html").read_text()


def test_a_part_may_be_empty(study: Study, tmp_path: Path) -> None:
    number = next(k for k in range(1, 1000) if not any(map(Shard(k, 1000).holds, _ids(study))))
    for verb in VERBS:
        events = do(verb, **dict(study.stages(tmp_path, shard=f"{number}/1000"))[verb])
        (begun,) = [event for event in events if isinstance(event, StageStarted)]
        assert begun.total == 0


def test_a_study_is_not_worked_on_in_parts(tmp_path: Path, study: Study) -> None:
    file = tmp_path / "study.toml"
    file.write_text(
        f'[tile]\ncohort = {json.dumps(str(study.cohort))}\nrun = "run"\nshard = "1/3"\n'
    )
    with pytest.raises(ConfigError, match="'shard' is for a call of one stage"):
        do("run", study=RunConfig(study=file).study)


def _ids(study: Study) -> list[str]:
    return [line.partition(",")[0] for line in study.cohort.read_text().splitlines()[1:]]
