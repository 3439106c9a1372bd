"""Every way in which the server can misbehave, and what the downloader makes of it.

The server's own log says how many bytes it sent, so "only what was missing" is measured there.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.download import main

SIZE = 3_000_000
SEGMENT = 1 << 20
BUFFER = 1 << 16  # what one connection may lose: the buffer it is reading into
FLAGS = (
    "--timeout-s=0.6",
    "--first-wait-s=0.01",
    "--retry-after-cap-s=0.2",
    "--attempts=4",
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
    Case(name="reset thrice", fault={"do": "reset", "after": 200_000, "first": 3}),
    Case(name="closed short", fault={"do": "close", "after": 300_000}),
    Case(name="no length", fault={"do": "no_length", "first": None}),
    Case(name="flipped byte", fault={"do": "flip"}, sent=2.0),
    Case(name="truncated", fault={"do": "truncate"}, sent=1.0),
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
    Case(name="500", fault={"do": "status", "status": 500, "first": 3}),
    Case(name="502", fault={"do": "status", "status": 502}),
    Case(name="maintenance page", fault={"do": "html_200"}),
    Case(name="json error", fault={"do": "json_200"}),
    Case(name="stall before headers", fault={"do": "stall_headers"}),
    Case(name="stall in the body", fault={"do": "stall_body", "after": 300_000}),
    Case(name="one byte a second", fault={"do": "trickle", "after": 300_000, "interval": 0.25}),
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
