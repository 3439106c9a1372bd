"""Where the time goes: added up by phase, the limit named, a trace that can be opened."""

import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.events import SlideDone
from wsi_pipeline.journal import read_journal
from wsi_pipeline.pipeline.forecast import recorded_rate
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.timing import AHEAD, Span, Stopwatch, bottleneck, trace_events


def test_phases_add_up_from_all_threads() -> None:
    watch = Stopwatch(keep_spans=True)

    def work() -> None:
        for _ in range(50):
            with watch.phase("decode"):
                time.sleep(0.0005)

    threads = [threading.Thread(target=work, name=f"reader-{n}") for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watch.seconds["decode"] >= 4 * 50 * 0.0005
    assert sum(span.seconds for span in watch.spans) == pytest.approx(watch.seconds["decode"])
    assert {span.thread for span in watch.spans} == {thread.name for thread in threads}
    watch.move(0.01, "decode", "read")
    assert watch.seconds["read"] == 0.01
    assert not Stopwatch().spans


def test_time_is_counted_when_the_work_fails() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="no"), watch.phase("write"):
        raise ValueError("no")
    assert watch.seconds["write"] > 0


@pytest.mark.parametrize(
    ("phases", "limit"),
    [
        ({}, None),
        ({"wait": 9.0}, None),
        ({"decode": 5.0, "read": 1.0, "judge": 3.0, "normalise": 2.9, "wait": 9.0}, "decode"),
        ({"decode": 2.0, "judge": 3.0, "write": 9.0, "wait": 1.0}, "judge"),
        ({"decode": 9.0, "judge": 8.0, "encode": 3.0, "write": 2.0, "wait": 0.1}, "write"),
        ({"decode": 2.0, "judge": 1.0, "encode": 3.0, "write": 2.0, "wait": 9.0}, "encode"),
        ({"decode": 3.0, "forward": 20.0, "wait": 0.1}, "forward"),
        ({"decode": 30.0, "forward": 20.0, "wait": 9.0}, "decode"),
        ({"read": 3.0, "forward": 2.0, "write": 0.5}, "read"),
        ({"decode": 3.0, "judge": 2.0, "forward": 4.0, "write": 0.5}, "decode"),
        ({"decode": 3.0, "judge": 2.0, "forward": 6.0}, "forward"),
    ],
)
def test_the_longest_phase_of_those_waited_for_limits(
    phases: dict[str, float], limit: str | None
) -> None:
    assert bottleneck(phases) == limit


@given(st.dictionaries(st.sampled_from([*AHEAD, "write", "forward", "wait"]), st.floats(0, 1e6)))
def test_what_limits_is_work_that_was_done(phases: dict[str, float]) -> None:
    worked = phases.keys() - {"wait"}
    assert bottleneck(phases) in worked or not worked


def test_a_trace_tells_processes_threads_and_slides() -> None:
    span = Span(phase="decode", start=2.0, seconds=0.5, process=7, thread="read-blocks_0")
    trace = json.loads(json.dumps(trace_events({"S1": (span,), "S2": (span,)})))
    named, first, second = trace["traceEvents"]
    assert named["args"] == {"name": "read-blocks_0"}
    assert (first["name"], first["ph"], first["ts"], first["dur"]) == ("decode", "X", 2e6, 5e5)
    assert (first["pid"], first["tid"]) == (named["pid"], named["tid"])
    assert [first["args"]["slide"], second["args"]["slide"]] == ["S1", "S2"]


def test_stages_say_where_the_time_went_and_write_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from wsi_pipeline.extract import main as extract
    from wsi_pipeline.synthetic import plan_cohort, write_slide
    from wsi_pipeline.tile import main as tile

    spec = next(s for s in plan_cohort(patients_per_label=1, side_px=1536) if s.label)
    (tmp_path / "slides").mkdir()
    write_slide(spec, tmp_path / "slides")
    run = tmp_path / "run"
    command = [str(tmp_path / "slides"), "--run", str(run), "--profile"]
    assert tile([*command, "--codec=jpeg", "--workers=1"]) == 0
    slowest, fastest = rate_bounds(capsys.readouterr().out, run)
    assert {"read", "decode", "resample", "normalise", "encode", "write"} <= phases(run, "tile")
    assert "limits" in (run / "logs/tile.log").read_text()
    network = ["--encoder=test_resnet", "--weights=random", "--device=cpu", "--profile"]
    assert extract([str(run), *network]) == 0
    assert " limits" in capsys.readouterr().out
    assert {"read", "forward", "wait", "write"} <= phases(run, "extract")
    fused = ["--source=slide", f"--cohort={tmp_path / 'slides'}", "--overwrite"]
    assert extract([str(run), *network, *fused]) == 0
    assert {"decode", "normalise", "forward"} <= phases(run, "extract")
    capsys.readouterr()
    assert tile([str(tmp_path / "slides"), "--run", str(run), "--dry-run"]) == 0
    rate = recorded_rate(RunFolder(run), "tile")
    assert rate is not None
    assert slowest <= rate <= fastest
    assert f"{rate:,.1f} tiles a second by this run's journal" in capsys.readouterr().out


def rate_bounds(shown: str, run: Path) -> tuple[float, float]:
    """The closing table tells tiles a second, and both ways to count seconds, as they are."""
    (done,) = [
        entry.event for entry in read_journal(RunFolder(run).journal)
        if isinstance(entry.event, SlideDone)
    ]  # fmt: skip

    cells = [line.split("│")[1:3] for line in shown.splitlines() if line.count("│") == 3]
    told = {name.strip(): value.strip().replace(",", "") for name, value in cells}

    def cell(name: str) -> float:
        return float(told[name])

    clock, summed = cell("by the clock"), cell("all phases, summed over threads")
    assert clock >= done.seconds - 0.1
    assert summed == pytest.approx(sum(done.phases.values()), abs=0.1)
    assert cell("tiles kept") == done.counts["tiles kept"] > 0
    rate = cell("tiles kept a second, by the clock")
    assert rate == pytest.approx(cell("tiles kept") / clock, rel=0.05 / clock + 0.01, abs=0.1)
    assert f"{clock:.1f} s by the clock" in (run / "logs/tile.log").read_text()
    kept = cell("tiles kept")  # the journal's rate ends with the slide, not with the workers
    return kept / (clock + 0.1), kept / done.seconds


def phases(run: Path, verb: str) -> set[str]:
    """Return the phases of the verb's trace and its log."""
    trace = json.loads((run / "logs" / f"{verb}-trace.json").read_text())
    spans = {event["name"] for event in trace["traceEvents"] if event["ph"] == "X"}
    line = [x for x in (run / "logs" / f"{verb}.log").read_text().splitlines() if " limits" in x]
    told = {part.split()[0] for part in line[-1].split(f"{verb}: ")[1].split(", ")}
    assert spans <= told
    return told
