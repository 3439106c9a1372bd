"""Every way in which the server can misbehave, and what the downloader makes of it.

The server's own log says how many bytes it sent, so "only what was missing" is measured there.
"""

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.download import main

SIZE = 3_000_000
SEGMENT = 1 << 20
BUFFER = 1 << 16  # what one connection may lose: the buffer it is reading into
FLAGS = (
    "--timeout-s=0.7",
    "--first-wait-s=0.01",
    "--retry-after-cap-s=0.2",
    "--attempts=3",
    "--connections=3",
    "--segment-mib=1",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault and its right outcome.

    ``sent`` is how many times the file's size the server may send at most; ``error`` is in the
    report of a file that fails.
    """

    name: str
    fault: dict[str, Any]
    sent: float = 1.0
    error: str = ""
    slack: int = 3 * BUFFER


ONCE = [
    Case(name="reset", fault={"do": "reset", "after": 300_000}),
    Case(name="reset thrice", fault={"do": "reset", "after": 200_000, "first": 2}),
    Case(name="closed short", fault={"do": "close", "after": 300_000}),
    Case(name="no length", fault={"do": "no_length", "first": None}),
    Case(name="flipped byte", fault={"do": "flip"}, sent=2.0),
    Case(name="truncated", fault={"do": "truncate"}, sent=1.4),
    Case(name="gzip", fault={"do": "gzip"}, sent=1.4),
    Case(name="range ignored", fault={"do": "ignore_range", "first": None}, sent=1.0),
    Case(name="wrong content-range", fault={"do": "wrong_range", "shift": 5}, sent=1.4),
    Case(name="206 longer", fault={"do": "long", "range_by": 1000}, sent=1.4),
    Case(name="206 longer in the body alone", fault={"do": "extra"}, slack=4 * BUFFER),
    Case(name="206 shorter", fault={"do": "short", "range_by": -400_000}),
    Case(name="wrong md5 header", fault={"do": "headers", "md5": "0" * 32, "first": None}),
    Case(name="no md5 header", fault={"do": "headers", "md5": None, "first": None}),
    Case(name="408", fault={"do": "status", "status": 408}),
    Case(name="429 seconds", fault={"do": "status", "status": 429, "retry_after": "0"}),
    Case(
        name="429 date",
        fault={"do": "status", "status": 429, "retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"},
    ),
    Case(name="503 absurd", fault={"do": "status", "status": 503, "retry_after": "999999999999"}),
    Case(name="503 nonsense", fault={"do": "status", "status": 503, "retry_after": "soon"}),
    Case(name="503", fault={"do": "status", "status": 503}),
    Case(name="500", fault={"do": "status", "status": 500, "first": 2}),
    Case(name="502", fault={"do": "status", "status": 502}),
    Case(name="maintenance page", fault={"do": "html_200"}),
    Case(name="json error", fault={"do": "json_200"}),
    Case(name="stall before headers", fault={"do": "stall_headers"}),
    Case(name="stall in the body", fault={"do": "stall_body", "after": 300_000}),
    Case(name="one byte a second", fault={"do": "trickle", "after": 300_000, "interval": 0.15}),
    Case(
        name="name leaves the folder",
        fault={"do": "headers", "name": 'attachment; filename="../../escaped.svs"', "first": None},
    ),
    Case(
        name="name with quotes",
        fault={"do": "headers", "name": "attachment; filename='\"a\" b.svs'", "first": None},
    ),
    Case(name="no name", fault={"do": "headers", "name": None, "first": None}),
]


@pytest.mark.parametrize("case", ONCE, ids=lambda case: case.name)
def test_file_arrives_whole(
    case: Case, stand_in: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    entry = stand_in.add(SIZE)
    stand_in.faults.append({"match": "/data/"} | case.fault)
    stand_in.tell()
    out = tmp_path / "slides"
    assert main([str(manifest([entry])), f"--out={out}", f"--server={stand_in.url}", *FLAGS]) == 0
    assert hashlib.md5((out / entry.relative_path).read_bytes()).hexdigest() == entry.md5
    assert left_over(out) == []
    log = stand_in.log()
    assert any(record["fault"] == case.fault["do"] for record in log), "the fault never happened"
    assert SIZE <= stand_in.sent() <= SIZE * case.sent + case.slack, log
    assert not list(tmp_path.rglob("escaped.svs"))


def left_over(out: Path) -> Sequence[Path]:
    return sorted(out.rglob("*.partial*"))


FOREVER = [
    Case(name="reset", fault={"do": "reset", "after": 100_000}, error="connection", sent=0.5),
    Case(
        name="closed short", fault={"do": "close", "after": 100_000}, error="bytes short", sent=0.5
    ),
    Case(name="flipped byte", fault={"do": "flip"}, error="md5 is", sent=3.0),
    Case(name="truncated", fault={"do": "truncate"}, error="the manifest says 3000000", sent=4.0),
    Case(name="gzip", fault={"do": "gzip"}, error="gzip-encoded", sent=4.0),
    Case(
        name="ranges ignored and reset",
        fault={"do": "reset", "after": 100_000, "deaf": True},
        error="connection",
        sent=0.5,
    ),
    Case(
        name="wrong content-range",
        fault={"do": "wrong_range", "shift": 5},
        error="offered 5-1048580",
        sent=4.0,
    ),
    Case(name="206 longer", fault={"do": "long", "range_by": 1000}, error="asked for", sent=4.0),
    Case(name="429", fault={"do": "status", "status": 429}, error="HTTP 429", sent=0.0),
    Case(name="503", fault={"do": "status", "status": 503}, error="under maintenance", sent=0.0),
    Case(name="500", fault={"do": "status", "status": 500}, error="HTTP 500", sent=0.0),
    Case(name="502", fault={"do": "status", "status": 502}, error="HTTP 502", sent=0.0),
    Case(name="maintenance", fault={"do": "html_200"}, error="an HTML page instead", sent=0.0),
    Case(name="json error", fault={"do": "json_200"}, error="shard 3 is unavailable", sent=0.0),
    Case(name="redirect", fault={"do": "redirect", "to": "/data/x"}, error="redirects", sent=0.0),
    Case(name="stall before headers", fault={"do": "stall_headers"}, error="nothing came for"),
    Case(name="stall", fault={"do": "stall_body", "after": 50_000}, error="nothing came", sent=0.5),
    Case(
        name="one byte a second",
        fault={"do": "trickle", "after": 50, "interval": 0.15},
        error="bytes in",
        sent=0.0,
    ),
]


@pytest.mark.parametrize("case", FOREVER, ids=lambda case: case.name)
def test_failure_is_named_and_a_rerun_goes_on(
    case: Case, stand_in: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    entry = stand_in.add(SIZE)
    stand_in.faults.append({"match": "/data/", "first": None} | case.fault)
    stand_in.tell()
    out = tmp_path / "slides"
    command = [str(manifest([entry])), f"--out={out}", f"--server={stand_in.url}", *FLAGS]
    assert main([*command, "--connections=1"]) == 1
    assert not (out / entry.relative_path).exists()
    (row,) = report(out)
    assert row["status"] == "failed"
    assert case.error in row["error"], row["error"]
    assert stand_in.sent() <= SIZE * case.sent + case.slack
    kept = sum(path.stat().st_size for path in left_over(out) if path.suffix == ".partial")

    stand_in.faults.clear()
    stand_in.tell()
    assert main(command) == 0
    assert hashlib.md5((out / entry.relative_path).read_bytes()).hexdigest() == entry.md5
    assert stand_in.sent() <= SIZE - max(0, kept - BUFFER)
    assert left_over(out) == []


REFUSED = [
    Case(name="400", fault={"do": "status", "status": 400}, error="HTTP 400"),
    Case(name="401", fault={"do": "status", "status": 401}, error="--token-file"),
    Case(name="404", fault={"do": "missing"}, error="HTTP 404"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refusal_is_not_repeated(
    case: Case, stand_in: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    entry = stand_in.add(SIZE)
    stand_in.faults.append({"match": "/data/", "first": None} | case.fault)
    stand_in.tell()
    out = tmp_path / "slides"
    assert main([str(manifest([entry])), f"--out={out}", f"--server={stand_in.url}", *FLAGS]) == 1
    (row,) = report(out)
    assert case.error in row["error"]
    assert len(stand_in.log()) == 1


def test_ranges_ignored_only_later(
    stand_in: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    """The first segment comes as asked; from then on the server sends whole files."""
    entry = stand_in.add(SIZE)
    stand_in.fault("ignore_range", skip=1, first=None)
    stand_in.tell()
    out = tmp_path / "slides"
    assert main([str(manifest([entry])), f"--out={out}", f"--server={stand_in.url}", *FLAGS]) == 0
    assert hashlib.md5((out / entry.relative_path).read_bytes()).hexdigest() == entry.md5


def test_redirect_is_followed_without_the_token(
    stand_in: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    """The token is the first server's; ``localhost`` is another origin than ``127.0.0.1``."""
    entry = stand_in.add(1000)
    elsewhere = stand_in.url.replace("127.0.0.1", "localhost")
    stand_in.fault("redirect", to=f"{elsewhere}/data/{entry.id}")
    stand_in.tokens.append("secret")
    stand_in.tell()
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    out = tmp_path / "slides"
    command = [str(manifest([entry])), f"--out={out}", f"--server={stand_in.url}", *FLAGS]
    assert main([*command, f"--token-file={token}"]) == 0
    assert [record["token"] for record in stand_in.log()] == ["secret", None]


@pytest.mark.parametrize(("header", "cap", "least"), [("1", 5.0, 1.0), ("999999999", 0.6, 0.6)])
def test_retry_after_is_kept_and_capped(
    header: str,
    cap: float,
    least: float,
    stand_in: Any,
    manifest: Callable[..., Path],
    tmp_path: Path,
) -> None:
    entry = stand_in.add(1000)
    stand_in.fault("status", status=429, retry_after=header)
    stand_in.tell()
    command = [str(manifest([entry])), f"--out={tmp_path / 'slides'}", f"--server={stand_in.url}"]
    assert main([*command, "--first-wait-s=0", f"--retry-after-cap-s={cap}"]) == 0
    first, second = stand_in.log()
    assert least <= second["begun"] - first["ended"] < least + 8


def test_retry_after_as_a_date_is_kept(
    stand_in: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    entry = stand_in.add(1000)
    when = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    stand_in.fault("status", status=503, retry_after=format_datetime(when, usegmt=True))
    stand_in.tell()
    command = [str(manifest([entry])), f"--out={tmp_path / 'slides'}", f"--server={stand_in.url}"]
    assert main([*command, "--first-wait-s=0"]) == 0
    assert len(stand_in.log()) == 2
    assert datetime.now(UTC) >= when


def report(out: Path) -> list[dict[str, str]]:
    with (out / "download_report.csv").open(newline="") as file:
        return list(csv.DictReader(file))
