"""The journal: every event comes back as it was, from several processes, behind torn lines too."""

import dataclasses
import inspect
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline import events, screen
from wsi_pipeline.events import (
    Event,
    FileProgress,
    Note,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    StageStarted,
)
from wsi_pipeline.journal import KINDS, UNTOLD, Entry, Journal, from_line, read_journal, to_line
from wsi_pipeline.journal import read_outcomes as outcomes_of
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.settings import StageConfig
from wsi_pipeline.timing import duration

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
TEXT = st.text(max_size=6)  # with lone surrogates, as names of files have them


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Return what a field of this type may hold; a new type has to be added here."""
    if get_origin(hint) is tuple:
        return st.lists(values(get_args(hint)[0]), max_size=3).map(tuple)
    if get_origin(hint) is not None and issubclass(get_origin(hint), Mapping):
        return st.dictionaries(TEXT, values(get_args(hint)[1]), max_size=3)
    if get_args(hint):
        return st.one_of(*map(values, get_args(hint)))
    return {
        str: TEXT,
        int: st.integers(-(2**40), 2**40),
        float: st.floats(allow_nan=False),
        type(None): st.none(),
    }[hint]


def made(kind: type[Event]) -> st.SearchStrategy[Event]:
    hints = get_type_hints(kind)
    told = [item.name for item in dataclasses.fields(kind) if item.name not in UNTOLD]
    return st.builds(kind, **{name: values(hints[name]) for name in told})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_event_comes_back_as_it_was(kind: type[Event]) -> None:
    @given(made(kind))
    def check(event: Event) -> None:
        entry = Entry(time=WHEN, verb="tile", call="c", event=event)
        line = to_line(entry)
        assert "\n" not in line
        assert json.loads(line)["event"] == kind.__name__
        assert from_line(line) == entry
        assert isinstance(event.line(), str)

    check()


def test_no_event_is_forgotten() -> None:
    """All there are stand in one module, which the journal's table is made of."""
    found = {cls for _, cls in inspect.getmembers(events, inspect.isclass)}

    def below(kind: type[Event]) -> Iterator[type[Event]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    ours = {kind for kind in below(Event) if kind.__module__.startswith("wsi_pipeline")}
    assert ours <= found
    assert ours | {Event} == set(KINDS.values())


def test_a_number_that_is_none_comes_back() -> None:
    entry = Entry(
        time=WHEN, verb="train", call="c",
        event=events.EpochDone(model="m", epoch=1, epochs=2, metrics={"loss": math.nan}),
    )  # fmt: skip
    line = to_line(entry)
    json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    found = from_line(line)
    assert found is not None
    assert math.isnan(found.event.metrics["loss"])  # type: ignore[attr-defined]


def test_torn_and_unknown_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "journal.jsonl"
    with Journal(path, "tile") as journal:
        journal.take(Note(text="one"))
        journal.take(FileProgress(slide_id="a", done_bytes=1, total_bytes=2, bytes_per_s=1.0,
                                  eta_s=None))  # fmt: skip
    whole = path.read_text()
    strange = whole.replace("Note", "Later")
    richer = whole.replace('"text"', '"later": 1, "text"')
    path.write_text(whole + strange + richer + "[]\n\n" + whole[: len(whole) // 2])
    with Journal(path, "tile") as journal:
        journal.take(Note(text="two"))
    assert [entry.event for entry in read_journal(path)] == [
        Note(text="one"), Note(text="one"), Note(text="two")
    ]  # fmt: skip
    assert list(read_journal(tmp_path / "none.jsonl")) == []


def test_processes_do_not_get_into_each_others_lines(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from wsi_pipeline.events import Note\n"
        "from wsi_pipeline.journal import Journal\n"
        "with Journal(pathlib.Path(sys.argv[1]), 'tile') as journal:\n"
        "    for n in range(400):\n"
        "        journal.take(Note(text=sys.argv[2] * 3000 + str(n)))\n"
    )
    path = tmp_path / "journal.jsonl"
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [job.wait(timeout=60) for job in jobs] == [0, 0]
    entries = list(read_journal(path))
    assert len(entries) == 800
    for name in "ab":
        own = [e.event.line()[3000:] for e in entries if e.event.line().startswith(name)]
        assert own == [str(n) for n in range(400)]
    assert len({entry.call for entry in entries}) == 2


def test_the_last_word_of_each_stage_counts(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, "run") as first, Journal(path, "extract") as second:
        for event in (
            StageStarted(stage="tile", total=4),
            SlideFailed(slide_id="a", error="a.svs: cannot be opened; copy it again"),
            SlideFailed(slide_id="b", error="b.svs: no mpp, give --mpp-override: 0.5"),
            SlideSkipped(slide_id="c", reason="no tissue", detail="white"),
            Note(text="d: failed, says a note"),
        ):
            first.take(event)
        second.take(SlideFailed(slide_id="a", error="no memory"))
        first.take(SlideDone(slide_id="a", counts={"tiles kept": 3}, seconds=1.5))
    found = {key: (o.fate, o.words) for key, o in outcomes_of(path).items()}
    assert found.pop(("a", "tile"))[0] == "done"
    assert found == {
        ("b", "tile"): ("failed", "b.svs: no mpp, give --mpp-override: 0.5"),
        ("c", "tile"): ("skipped", "no tissue: white"),
        ("a", "extract"): ("failed", "no memory"),
    }


class Config(StageConfig):
    run: Path


def test_a_stage_that_is_silent_for_long_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screen, "TICK_S", 0.2)

    def stage() -> Iterator[Event]:
        yield StageStarted(stage="tile", total=4)
        yield SlideStarted(slide_id="a")
        yield SlideFailed(slide_id="a", error="broken")
        yield SlideStarted(slide_id="c")
        yield SlideDone(slide_id="c")  # a rate: one that fails tells none
        yield SlideStarted(slide_id="b")
        time.sleep(0.9)
        yield SlideDone(slide_id="b")

    assert screen.show("tile", Config(run=tmp_path), stage()) == 1
    run = RunFolder(tmp_path)
    for told in (run.log("tile").read_text(), capsys.readouterr().out):
        lines = [line for line in told.splitlines() if "2 of 4 slides, 1 failed" in line]
        assert len(lines) >= 2
        assert "an hour, about" in lines[-1]
        assert "; at work on b for up to " in lines[-1]
    kinds = [type(entry.event).__name__ for entry in read_journal(run.journal)]
    assert kinds == [
        "StageStarted",
        "SlideStarted",
        "SlideFailed",
        *["SlideStarted", "SlideDone"] * 2,
    ]


def test_a_dry_run_keeps_nothing(tmp_path: Path) -> None:
    screen.show("tile", Config(run=tmp_path, dry_run=True), iter([Note(text="x")]))
    assert list(tmp_path.iterdir()) == []


def test_durations_are_said_as_people_say_them() -> None:
    assert [duration(s) for s in (0, 89, 90, 3600, 5400, 11100)] == [
        "0 s", "89 s", "2 min", "60 min", "1 h 30 min", "3 h 05 min"
    ]  # fmt: skip
