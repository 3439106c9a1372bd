"""What the logs say of each slide."""

from pathlib import Path

from wsi_pipeline.events import Note, SlideDone, SlideFailed, SlideSkipped, StageStarted
from wsi_pipeline.reporting.outcomes import read_outcomes


def write_log(path: Path, events: list, extra: str = "") -> None:
    lines = [f"2026-01-02 03:04:05,678 {event.line()}\n" for event in events]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines) + extra, encoding="utf-8")


def test_the_last_word_of_each_stage_counts(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_log(
        logs / "tile.log",
        [
            StageStarted(stage="tile", total=4),
            SlideFailed(slide_id="a", error="a.svs: cannot be opened; copy it again"),
            SlideFailed(slide_id="b", error="b.svs: no mpp, give --mpp-override: 0.5"),
            SlideSkipped(slide_id="c", reason="no tissue"),
            Note(text="see the handbook, failed slides are listed there"),
            StageStarted(stage="tile", total=4),
            SlideDone(slide_id="a", counts={"tiles kept": 3}, seconds=1.5),
            StageStarted(stage="extract", total=2),
            SlideFailed(slide_id="a", error="no memory"),
        ],
        "Traceback (most recent call last):\n  b: failed, this is no log line\n",
    )
    found = {(o.slide_id, o.stage): (o.fate, o.words) for o in read_outcomes(logs)}
    assert found.pop(("a", "tile"))[0] == "done"
    assert found == {
        ("b", "tile"): ("failed", "b.svs: no mpp, give --mpp-override: 0.5"),
        ("c", "tile"): ("skipped", "no tissue"),
        ("a", "extract"): ("failed", "no memory"),
    }


def test_no_logs_no_outcomes(tmp_path: Path) -> None:
    assert read_outcomes(tmp_path / "logs") == []
