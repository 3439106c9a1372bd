"""A run folder in a bucket is the one that a folder here would be, whatever befalls the jobs."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scale.object_store import ObjectStore
from scale.runs import Study, digests, do, do_shard

from wsi_pipeline.cli import main
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.events import Event, SlideDone, SlideFailed, SlideSkipped, Unmatched
from wsi_pipeline.mirror import Mirror
from wsi_pipeline.remote import Bucket
from wsi_pipeline.verbs import VERBS
from wsi_pipeline.verbs.tiles import TileConfig

SHARDS = 8
NUMBERS = range(SHARDS, 0, -1)
RUN = "s3://bucket/some/run"

pytestmark = pytest.mark.timeout(900)  # the first waits for the study that all share


@pytest.fixture
def store(server: ObjectStore) -> Iterator[ObjectStore]:
    """An empty bucket, and a server that behaves."""
    client = boto()
    client.create_bucket(Bucket="bucket")
    yield server
    server.delay_s, server.busy_every = 0.0, 0
    server.refuses = lambda method, path: False
    for key in objects():
        client.delete_object(Bucket="bucket", Key=key)
    client.delete_bucket(Bucket="bucket")


def boto() -> Any:
    import boto3

    return boto3.client("s3")


def objects() -> list[str]:
    pages = boto().get_paginator("list_objects_v2").paginate(Bucket="bucket")
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def download(folder: Path) -> Path:
    """Bring the whole run here, as another tool would."""
    client = boto()
    for key in objects():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file("bucket", key, str(path))
    return folder / "some" / "run"


def run(verb: str, **settings: object) -> list[Event]:
    """Run a stage, some of whose slides may be lost."""
    stage = VERBS[verb]
    return list(stage.run(stage.config_class.from_mapping(settings, verb)))


def job(study: Study, folder: Path, verb: str, number: int) -> tuple[Study, str, str, str, Path]:
    """Say what one machine does, whose disk is lost afterwards."""
    return study, RUN, verb, f"{number}/{SHARDS}", folder / f"{verb}-{number}"


def failed(events: list[Event]) -> list[str]:
    return [event.error for event in events if isinstance(event, SlideFailed)]


def test_shards_of_eight_machines_give_the_run_that_one_gives(
    study: Study, store: ObjectStore, tmp_path: Path
) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(do_shard, *job(study, tmp_path, "tile", k)) for k in NUMBERS]
        for each in jobs:
            each.result()
    for verb in ("extract", "predict"):
        for number in NUMBERS:
            do_shard(*job(study, tmp_path, verb, number))
    settings = dict(study.stages(RUN, scratch=tmp_path / "last"))
    events = do("predict", **settings["predict"])  # whose tables are over all shards
    assert not [event for event in events if isinstance(event, SlideDone)]
    assert digests(download(tmp_path / "there")) == digests(study.whole)
    assert failed(run("verify", run=RUN)) == []
    events = do("report", run=RUN, scratch=tmp_path / "last")
    assert any(key.endswith("report/index.html") for key in objects())
    again = do("tile", **dict(study.stages(RUN, scratch=tmp_path / "new"))["tile"])
    assert sum(isinstance(event, SlideSkipped) for event in again) == len(_ids(study))


def test_a_store_that_throttles_and_is_slow_is_waited_for(
    study: Study, store: ObjectStore, tmp_path: Path
) -> None:
    store.delay_s, store.busy_every = 0.02, 5
    do("tile", **dict(study.stages(RUN, shard="1/3", scratch=tmp_path))["tile"])
    store.delay_s, store.busy_every = 0.0, 0
    found, whole = digests(download(tmp_path / "there")), digests(study.whole)
    assert found.items() <= whole.items()
    assert any(name.startswith("tiles/") for name in found)


@pytest.mark.parametrize("tear", ["between objects", "between parts"])
def test_a_job_that_is_killed_leaves_what_is_whole(
    study: Study, store: ObjectStore, tmp_path: Path, tear: str
) -> None:
    """Killed as it puts a store, or the parts of a large file; another machine goes on."""
    settings = dict(study.stages(RUN, scratch=tmp_path / "a"))["tile"]
    if tear == "between parts":
        settings["store"] = "hdf5"
    code = (
        "import sys, json; from pathlib import Path\n"
        "from wsi_pipeline.remote import bucket\n"
        "bucket.PART_BYTES = 1 << 18\n"
        "from scale.runs import do\n"
        "do('tile', **json.loads(sys.argv[1]))"
    )
    import json

    store.delay_s = 0.02
    told = json.dumps(settings, default=str)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["tests", "."])}
    before = len(store.requests)
    job = subprocess.Popen([sys.executable, "-c", code, told], env=environment)
    deadline = time.monotonic() + 120
    sign = "partNumber" if tear == "between parts" else "/tiles/"
    while time.monotonic() < deadline and job.poll() is None:
        if sum(m == "PUT" and "/tiles/" in p for m, p in store.requests[before:]) >= 12:
            break
        time.sleep(0.01)
    assert job.poll() is None, f"no {sign} was seen"
    job.send_signal(signal.SIGKILL)
    job.wait()
    store.delay_s = 0.0
    do("tile", **(settings | {"scratch": tmp_path / "b"}))
    assert failed(run("verify", run=RUN)) == []
    if tear == "between objects":
        found = digests(download(tmp_path / "there"))
        whole = digests(study.whole)
        assert found == {k: v for k, v in whole.items() if k.split("/")[0] in WHOLE_TILING}


WHOLE_TILING = ("cohort.csv", "tiles", "thumbnails")


def test_what_was_not_taken_there_goes_with_the_next_call(
    study: Study, store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bucket refuses in the middle: named, exit 1; the same command goes on."""
    settings = dict(study.stages(RUN, scratch=tmp_path))["tile"]
    store.refuses = lambda method, path: method == "PUT" and "/tiles/SYN-0002" in path
    lost = failed(run("tile", **settings))
    assert len(lost) == 2
    assert all("access is refused" in text and "the same command" in text for text in lost)
    store.refuses = lambda method, path: False
    assert {e.without_store for e in run("verify", run=RUN) if isinstance(e, Unmatched)}
    again = do("tile", **settings)
    assert not [event for event in again if isinstance(event, SlideDone)]
    assert failed(run("verify", run=RUN)) == []


def test_a_bucket_that_refuses_or_is_not_there_is_a_usage_error(
    study: Study, store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--scratch", str(tmp_path / "scratch")]
    arguments = ["tile", str(study.cohort), "--mpp", "0.5", *where, "--run"]
    assert main([*arguments, "s3://nobody/run"]) == 2
    assert "s3://nobody/run/.inventory/: there is no such bucket" in capsys.readouterr().err
    store.refuses = lambda method, path: method == "PUT"
    assert main([*arguments, RUN]) == 2
    assert "access is refused" in capsys.readouterr().err
    store.refuses = lambda method, path: True
    assert main([*arguments, RUN]) == 2
    assert "access is refused" in capsys.readouterr().err
    assert main([*arguments, "s3://bucket"]) == 2


def test_every_damage_is_found_and_mended(study: Study, store: ObjectStore, tmp_path: Path) -> None:
    settings = dict(study.stages(RUN, shard="1/3", scratch=tmp_path / "a"))
    do("tile", **settings["tile"])
    do("extract", **settings["extract"])
    client, keys = boto(), objects()
    shard = next(key for key in keys if "/tiles/c/0" in key)
    feature = next(key for key in keys if "/features/" in key and ".inventory" not in key)
    entry = next(key for key in keys if ".inventory/tiles/" in key)
    for key, change in (
        (shard, lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]),
        (feature, lambda data: data[:-9]),
        (entry, lambda data: data.replace(b'"size"', b'"Size"')),
        ("some/run/cohort.csv", lambda data: data.replace(b"hcc", b"cca")),
        (shard, None),
        (entry, None),
    ):
        good = client.get_object(Bucket="bucket", Key=key)
        body = good["Body"].read()
        if change is None:
            client.delete_object(Bucket="bucket", Key=key)
        else:
            client.put_object(
                Bucket="bucket", Key=key, Body=change(body), Metadata=good["Metadata"]
            )
        assert len(failed(run("verify", run=RUN))) == 1, key
        client.put_object(Bucket="bucket", Key=key, Body=body, Metadata=good["Metadata"])
    assert failed(run("verify", run=RUN)) == []
    client.delete_object(Bucket="bucket", Key=shard)
    events = run("extract", **(settings["extract"] | {"scratch": tmp_path / "b"}))
    assert len(failed(events)) == 1  # no black tiles are read
    do("tile", **(settings["tile"] | {"scratch": tmp_path / "b"}))
    do("extract", **(settings["extract"] | {"scratch": tmp_path / "b"}))
    assert failed(run("verify", run=RUN)) == []


def test_an_older_scratch_takes_nothing_back(
    study: Study, store: ObjectStore, tmp_path: Path
) -> None:
    """Made anew elsewhere since: the bucket's holds, and comes here."""
    first = dict(study.stages(RUN, shard="1/3", scratch=tmp_path / "a"))["tile"]
    do("tile", **first)
    other = first | {"scratch": tmp_path / "b", "tile_px": 96, "overwrite": True}
    do("tile", **other)
    before = digests(download(tmp_path / "before"))
    lost = failed(run("tile", **first))
    assert lost
    assert all("tile_px: 96, asked 64" in text for text in lost)
    assert digests(download(tmp_path / "after")) == before
    do("tile", **(other | {"overwrite": False, "scratch": tmp_path / "a"}))


def test_two_tables_at_once_are_both_kept(
    study: Study, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second job replaces the table between this one's reading and its putting."""
    rows = study.cohort.read_text().splitlines(keepends=True)
    for name, part in (("one", rows[1:3]), ("two", rows[3:5])):
        (study.slides / f"{name}.csv").write_text("".join([rows[0], *part]))
    shared = {"run": RUN, "tile_px": 64, "max_background_fraction": 1}
    begun = Mirror.begin

    def later(mirror: Mirror, *, write: bool) -> None:
        begun(mirror, write=write)
        monkeypatch.setattr(Mirror, "begin", begun)
        do("tile", cohort=study.slides / "two.csv", scratch=tmp_path / "b", **shared)

    monkeypatch.setattr(Mirror, "begin", later)
    do("tile", cohort=study.slides / "one.csv", scratch=tmp_path / "a", **shared)
    table = (download(tmp_path / "there") / "cohort.csv").read_text()
    assert len(table.splitlines()) == 5
    assert failed(run("verify", run=RUN)) == []


def test_what_cannot_be_told_is_refused() -> None:
    for settings, said in (
        ({"run": RUN, "scheduler": "tcp://a:1"}, "workers of a scheduler have disks"),
        ({"run": "runs/a", "scratch": "/tmp"}, "--scratch goes with --run s3"),
        ({"run": "gs://bucket/run"}, "is a URL"),
    ):
        with pytest.raises(ConfigError, match=said):
            TileConfig.from_mapping({"cohort": "c.csv", **settings}, "test")
    with pytest.raises(ConfigError, match="is a URL"):
        VERBS["train"].config_class.from_mapping({"run": RUN}, "test")
    with pytest.raises(ConfigError, match="s3://bucket/folder"):
        Bucket("s3://bucket")


def _ids(study: Study) -> list[str]:
    return [line.partition(",")[0] for line in study.cohort.read_text().splitlines()[1:]]
