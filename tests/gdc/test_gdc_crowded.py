"""Servers that serve few, slowly, one part far slower than the rest, or nothing at all."""

import csv
import hashlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.download import main
from wsi_pipeline.events import SlideDone
from wsi_pipeline.gdc import ManifestEntry
from wsi_pipeline.remote import Client, Downloader, RetryPolicy, Settings, TransientError
from wsi_pipeline.remote.connections import Gate, Speeds
from wsi_pipeline.remote.retry import DOWN_AFTER, MEANINGFUL_BYTES, Health, Patience

QUICK = ("--first-wait-s=0.01", "--attempts=3", "--timeout-s=0.5")


def is_right(path: Path, entry: ManifestEntry) -> bool:
    return hashlib.md5(path.read_bytes()).hexdigest() == entry.md5


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "download_report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_server_that_serves_four_at_a_time_and_slowly(
    stand_in: Any,
    manifest: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Eight connections ask, four are served; the refusals cost no file its patience."""
    entries = [stand_in.add(6_000_000), stand_in.add(2_000_000)]
    stand_in.at_most, stand_in.pace = 4, 1.5e6
    stand_in.tell()
    out = tmp_path / "slides"
    command = [str(manifest(entries)), f"--out={out}", f"--server={stand_in.url}", *QUICK]
    assert main([*command, "--segment-mib=0.5"]) == 0
    assert all(is_right(out / entry.relative_path, entry) for entry in entries)
    log = stand_in.log()
    spans = [(r["begun"], r["ended"]) for r in log if r["status"] == 206]
    assert max(sum(a <= at < b for a, b in spans) for at, _ in spans) >= 3
    refused = [record for record in log if record["status"] == 429]
    assert 0 < len(refused) < len(log) / 2
    assert "the server pushed back: at times" in capsys.readouterr().out


def test_a_part_that_comes_far_slower_than_the_rest_is_asked_for_twice(
    stand_in: Any, tmp_path: Path
) -> None:
    """Its connection alone would need five seconds."""
    entry = stand_in.add(8 << 18)
    stand_in.fault("slow", skip=5, pace=50_000)
    stand_in.tell()
    settings = Settings(
        segment_bytes=1 << 18, connections=4, files_at_once=4, slow_after_s=0.3, min_bytes_per_s=1
    )
    begun = time.monotonic()
    with Client(stand_in.url, timeout_s=20) as client:
        events = list(Downloader([entry], tmp_path, client, settings).run())
    assert time.monotonic() - begun < 4
    assert any(isinstance(event, SlideDone) for event in events)
    assert is_right(tmp_path / entry.relative_path, entry)
    asked = Counter(record["range"].split("-")[1] for record in stand_in.log())
    assert sorted(asked.values()) == [1] * 7 + [2]
    assert stand_in.sent() < 1.3 * entry.size


def test_a_part_that_hangs_before_its_header_is_asked_for_twice(
    stand_in: Any, tmp_path: Path
) -> None:
    entry = stand_in.add(8 << 18)
    stand_in.fault("stall_headers", skip=5)
    stand_in.tell()
    settings = Settings(segment_bytes=1 << 18, connections=4, files_at_once=4, slow_after_s=0.3)
    begun = time.monotonic()
    with Client(stand_in.url, timeout_s=20) as client:
        list(Downloader([entry], tmp_path, client, settings).run())
    assert time.monotonic() - begun < 8
    assert is_right(tmp_path / entry.relative_path, entry)


def test_a_dead_server_costs_the_patience_of_a_few_files_only(
    manifest: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [
        ManifestEntry(
            id=f"00000000-0000-4000-8000-{number:012d}",
            filename=f"slide-{number}.svs",
            md5="0" * 32,
            size=1000,
        )
        for number in range(980)
    ]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{unused.getsockname()[1]}"  # bound, but nobody listens
        out = tmp_path / "slides"
        assert main([str(manifest(entries)), f"--out={out}", f"--server={server}", *QUICK]) == 1
    statuses = Counter(row["status"] for row in rows(out))
    assert statuses.total() == 980
    assert DOWN_AFTER / 3 <= statuses["failed"] <= 16
    said = capsys.readouterr().out
    assert f"{server} is down: {DOWN_AFTER} requests in a row or more failed" in said
    assert f"{statuses['not tried']} files were not tried; the same command goes on" in said
    assert said.count("failed, ") < 40


def test_a_file_that_always_fails_does_not_make_the_server_down(
    stand_in: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    entries = [stand_in.add(1000) for _ in range(30)]
    broken = {entry.id for entry in entries[::3]}
    stand_in.faults = [
        {"match": f"/data/{name}", "do": "status", "status": 500, "first": None} for name in broken
    ]
    stand_in.tell()
    out = tmp_path / "slides"
    assert main([str(manifest(entries)), f"--out={out}", f"--server={stand_in.url}", *QUICK]) == 1
    assert {row["id"] for row in rows(out) if row["status"] == "failed"} == broken
    assert sum(row["status"] == "downloaded" for row in rows(out)) == 20


def test_a_header_that_comes_byte_by_byte_does_not_block_for_ever(
    stand_in: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    entry = stand_in.add(1000)
    stand_in.fault("drip_headers", interval=0.05)
    stand_in.tell()
    out = tmp_path / "slides"
    assert main([str(manifest([entry])), f"--out={out}", f"--server={stand_in.url}", *QUICK]) == 0
    (row,) = rows(out)
    assert row["trouble"] == "the header of the answer was not complete after 1 s"


def policy(**changes: Any) -> RetryPolicy:
    return RetryPolicy(**({"attempts": 3, "first_wait_s": 1.0, "chance": lambda: 1.0} | changes))


@pytest.fixture
def clock() -> Iterator[Callable[[], float]]:
    ticks = itertools.count()
    return lambda: float(next(ticks))


def test_connections_that_break_together_count_once(clock: Callable[[], float]) -> None:
    patience = Patience(policy(), Health(), clock)
    begun = [patience.now() for _ in range(8)]
    assert {patience.failed(TransientError("reset"), at) for at in begun} == {1.0}
    assert patience.failed(TransientError("reset"), patience.now()) == 2.0
    with pytest.raises(TransientError):
        patience.failed(TransientError("reset"), patience.now())


def test_progress_over_any_connection_is_the_files(clock: Callable[[], float]) -> None:
    patience = Patience(policy(), Health(), clock)
    for _ in range(10):
        assert patience.failed(TransientError("reset"), patience.now()) == 1.0
        patience.progressed(MEANINGFUL_BYTES // 2)
        patience.progressed(MEANINGFUL_BYTES // 2)


def test_waits_are_spread() -> None:
    waits = [policy(chance=lambda at=at: at).wait_s(3, None) for at in (0.0, 0.25, 1.0)]
    assert waits == [2.0, 2.5, 4.0]
    asked = TransientError("busy", 10.0)
    assert [policy(chance=lambda at=at: at).wait_s(9, asked) for at in (0.0, 1.0)] == [10.0, 11.0]
    assert len({RetryPolicy().wait_s(4, None) for _ in range(20)}) > 10


def test_the_gate_learns_how_many_are_served() -> None:
    """A server that serves four of eight is asked by four, and by one more when all goes well."""
    gate, stop = Gate(8), threading.Event()
    holds = [gate.held(stop) for _ in range(8)]
    for hold in holds:
        hold.__enter__()
    for refused in holds[4:]:
        gate.pushed_back()
        refused.__exit__(None, None, None)
    assert (gate.limit, gate.fewest) == (4, 4)
    for _ in range(4):
        gate.went_well()
    assert (gate.limit, gate.fewest) == (5, 4)
    for _ in range(100):
        gate.pushed_back()
    assert gate.limit == 1
    for _ in range(100):
        gate.went_well()
    assert gate.limit == 8


def test_speeds_are_not_judged_by_one_or_two() -> None:
    speeds = Speeds()
    speeds.add(100, 1.0)
    speeds.add(300, 1.0)
    assert speeds.usual() is None
    speeds.add(200, 0.5)
    assert speeds.usual() == 300.0
