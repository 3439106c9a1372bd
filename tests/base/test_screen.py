"""What a call shows: JSON for programs, lanes on a terminal, lines in a pipe, any encoding."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from base.toy import CutConfig

from wsi_pipeline.cli import command, main
from wsi_pipeline.errors import UsageError
from wsi_pipeline.events import Event, SlideDone, SlideFailed, SlideStarted, StageStarted
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.summary import Summaries, progress_line
from wsi_pipeline.verbs import Verb

CUT = Verb(CutConfig)
ROOT = Path(__file__).parents[2]
STAGE = """
import sys, time
sys.path[:0] = ["tests"]
from base.toy import CutConfig
from wsi_pipeline.cli import command
from wsi_pipeline.events import *
from wsi_pipeline.verbs import Verb

ODD = "three \\u00b5\\u2013\\u00d7\\u2026\\u2588\\udcff"

def run(self, config):
    yield StageStarted(stage="cut", total=6)
    for name in ("a long name of a slide, wider than the screen", "two", ODD):
        yield SlideStarted(slide_id=name)
    time.sleep(float(sys.argv[1]))
    yield SlideDone(slide_id="two", counts={"tiles kept": 1200}, seconds=2, phases={"decode": 1.0})
    yield SlideFailed(slide_id=ODD, error="cut short " + ODD[6:11])
    for name in "bcd":
        yield SlideDone(slide_id=name, counts={"tiles kept": 100}, seconds=1, phases={"read": 1.0})
    time.sleep(float(sys.argv[1]))
    yield Written(path="a/very/long/path/to/what/was/written/tiles.zarr", what="tiles")

Verb.run = run
raise SystemExit(command(Verb(CutConfig), ["x", "--out", "y"]))
"""


def stage(error: Exception | None = None):
    def run(_self: Verb, _config: StageConfig) -> Iterator[Event]:
        if error is not None:
            raise error
        yield StageStarted(stage="cut", total=2)
        yield SlideStarted(slide_id="a")
        yield SlideDone(slide_id="a", counts={"tiles kept": 7}, seconds=float("inf"))
        yield SlideFailed(slide_id="b", error="b.svs – cut short")

    return run


def test_a_program_reads_json_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Verb, "run", stage())
    assert command(CUT, ["x", "--out", "y", "--json"]) == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert out.isascii()
    assert err == ""
    names = [row["event"] for row in rows]
    assert names == ["StageStarted", "SlideStarted", "SlideDone", "SlideFailed", "Closing"]
    assert rows[2]["fields"]["seconds"] == {"not finite": "inf"}
    closing = rows[-1]["fields"]
    assert closing["status"] == 1
    (told,) = closing["stages"]
    assert (told["stage"], told["done"], told["counts"]) == ("cut", 1, {"tiles kept": 7})
    assert told["failed"] == {"b": "b.svs – cut short"}


def test_a_program_is_told_why_nothing_was_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(Verb, "run", stage(UsageError("no such thing")))
    assert command(CUT, ["x", "--out", "y", "--json"]) == 2
    out, err = capsys.readouterr()
    (row,) = map(json.loads, out.splitlines())
    assert row["event"] == "Closing"
    assert row["fields"] == {"status": 2, "error": "no such thing", "stages": []}
    assert err == "cut: no such thing\n"
    monkeypatch.undo()
    assert main(["report", str(tmp_path / "nowhere"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["fields"]["error"].endswith("no such run folder")


def test_a_dry_run_and_a_finished_one_close_with_what_they_came_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path), "--json", "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out.splitlines()[-1])["fields"]["stages"]
    page = str(tmp_path / "report" / "index.html")
    assert planned[0]["planned"] == [{"page": page}]
    assert main(["report", str(tmp_path), "--json"]) == 0
    closing = json.loads(capsys.readouterr().out.splitlines()[-1])["fields"]
    assert closing["status"] == 0
    assert closing["stages"][0]["written"] == {page: "report"}


def on_a_terminal(columns: int, **environment: str) -> tuple[int, str]:
    """Run the stage on a terminal of its own; return exit status and all that was drawn."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE, "0.6"], cwd=ROOT, stdout=theirs, stderr=theirs,
        stdin=subprocess.DEVNULL, env=kept | {"TERM": "xterm-256color"} | environment,
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    return process.wait(30), drawn.decode("utf-8", "replace")


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.parametrize("columns", [40, 120])
def test_slides_at_work_have_lanes_on_any_width(columns: int) -> None:
    status, drawn = on_a_terminal(columns, NO_COLOR="1")
    assert status == 1
    assert not COLOUR.search(drawn)
    lines = [CONTROL.sub("", line) for line in re.split(r"[\r\n]+", drawn)]
    free = ("failed three", "three", "tiles: a/very")  # sentences and paths are never cut
    wide = [line for line in lines if len(line) > columns and not line.startswith(free)]
    assert not wide
    lanes = [line for line in lines if line.startswith("  a long name")]
    assert lanes
    assert all("cut" in line and " s" in line for line in lanes)
    assert any(line.lstrip().startswith("two") for line in lines)
    bar = [line for line in lines if line.startswith("cut ")]
    assert any("5/6" in line and "1 failed" in line for line in bar)
    assert any("left" in line for line in lines)
    assert any("took longest" in line for line in lines)


def test_colours_where_they_are_wanted() -> None:
    assert COLOUR.search(on_a_terminal(80)[1])


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_is_survived(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STAGE, "0"], cwd=ROOT, capture_output=True, check=False, timeout=60,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )  # fmt: skip
    out = done.stdout.decode(encoding)
    assert done.returncode == 1, done.stderr
    assert b"Traceback" not in done.stderr
    said = {"ascii": "three u-x...?", "cp1252": "three µ–×…?", "utf-8": "three µ–×…█"}[encoding]
    assert f"{said}?: failed" in out
    assert "took longest" in out


def test_the_three_that_took_longest_are_named_with_what_of() -> None:
    sums = Summaries("cut")
    sums.take(StageStarted(stage="cut", total=9))
    for number in range(8):
        phases = {"decode": 1.0, "wait": 90.0}
        sums.take(SlideDone(slide_id=f"s{number}", counts={"tiles kept": 100},
                            seconds=1 + number / 10, phases=phases))  # fmt: skip
    sums.take(SlideDone(slide_id="big", counts={"tiles kept": 300}, seconds=9,
                        phases={"decode": 3.0, "write": 1.0}))  # fmt: skip
    assert sums.current.took_longest == (
        ("big", 9, "300 tiles, 3.0 × the median; decode 75%"),
        ("s7", 1.7, "100 tiles; decode 100%"),
        ("s6", 1.6, "100 tiles; decode 100%"),
    )


def test_before_the_first_slide_is_done_a_bound_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of ten have been at work for a minute: the other eight take four turns of that."""
    monkeypatch.setattr("wsi_pipeline.summary.time.monotonic", lambda: 0.0)
    sums = Summaries("cut")
    sums.take(StageStarted(stage="cut", total=11))
    sums.current.started = 0.0
    sums.take(SlideFailed(slide_id="gone", error="no file"))  # at once; it tells no rate
    for name in ("a", "b"):
        sums.take(SlideStarted(slide_id=name))
    monkeypatch.setattr("wsi_pipeline.summary.time.monotonic", lambda: 60.0)
    pace = sums.current.pace
    assert (pace.per_hour, pace.left_s, pace.at_least) == (None, 240.0, True)
    assert "over 4 min left" in progress_line(sums.current)
    sums.take(SlideDone(slide_id="a", seconds=60))
    pace = sums.current.pace
    assert (pace.left_s, pace.at_least) == (9 * 60.0, False)


def test_a_lane_goes_from_slide_to_slide() -> None:
    sums = Summaries("cut")
    sums.take(StageStarted(stage="cut", total=3))
    for name in ("a", "b"):
        sums.take(SlideStarted(slide_id=name))
    sums.take(SlideDone(slide_id="a", counts={"tiles kept": 50}))
    sums.take(SlideStarted(slide_id="c"))
    first, second = sums.current.at_work
    assert (first.slide_id, second.slide_id) == ("c", "b")
    assert first.tiles == 50
    assert first.rate is not None
    assert first.rate > 0
    assert second.rate is None
    pace = sums.current.pace
    assert (pace.finished, pace.failed, pace.total) == (1, 0, 3)
    assert pace.left_s is not None
