"""The run's table of slides: several calls and several processes give the whole of a cohort."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.cohort import CohortSlide, read_cohort, write_cohort
from wsi_pipeline.errors import CohortError
from wsi_pipeline.events import RowsMerged, Unmatched
from wsi_pipeline.run_cohort import merge_rows, rows_of, unmatched
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tile import main
from wsi_pipeline.types import Region


def row(number: int, **changes: object) -> CohortSlide:
    made = CohortSlide(
        slide_id=f"s{number}", path=f"{number}.png", patient_id=f"P{number}", label="hcc",
        cohort="x", root="/slides",
    )  # fmt: skip
    return replace(made, **changes)


@settings(max_examples=30)
@given(st.lists(st.sets(st.integers(0, 9), min_size=1), min_size=1, max_size=4), st.randoms())
def test_the_whole_is_the_same_whoever_comes_first(
    tmp_path_factory: pytest.TempPathFactory, parts: list[set[int]], random: object
) -> None:
    tables = []
    for order in (parts, random.sample(parts, len(parts))):  # type: ignore[attr-defined]
        run = RunFolder(tmp_path_factory.mktemp("run"))
        for part in order:
            merge_rows(run, [row(number) for number in sorted(part)], Path("t.csv"))
        tables.append(rows_of(run))
    assert tables[0] == tables[1]
    assert {slide.slide_id for slide in tables[0]} == {f"s{n}" for n in set().union(*parts)}


def test_rows_are_counted(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    merge_rows(run, [row(0), row(1), row(2)], Path("one.csv"))
    changed = row(2, label="cca")
    dry = merge_rows(run, [row(1), row(3)], Path("two.csv"), write=False)
    assert dry == RowsMerged(table=str(run.cohort), new=1, same=1, changed=0, others=2)
    assert len(rows_of(run)) == 3
    told = merge_rows(run, [row(1), changed, row(3)], Path("two.csv"), overwrite=True)
    assert told == RowsMerged(table=str(run.cohort), new=1, same=1, changed=1, others=1)
    assert rows_of(run) == [row(0), row(1), changed, row(3)]
    assert told.counts["rows from this call"] == 3
    assert told.counts["rows that were there"] == 3


def test_a_changed_row_is_refused_by_line_naming_both(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    merge_rows(run, [row(0), row(1)], Path("one.csv"))
    write_cohort(tmp_path / "two.csv", [row(2), row(1, label="normal", mpp=0.25)])
    before = run.cohort.read_bytes()
    with pytest.raises(CohortError) as caught:
        merge_rows(run, read_cohort(tmp_path / "two.csv"), tmp_path / "two.csv")
    text = str(caught.value)
    assert f"two.csv: line 3: slide 's1' differs from {run.cohort}: line 3: " in text
    assert "label 'hcc' there, 'normal' here; mpp nothing there, 0.25 here" in text
    assert "--overwrite" in text
    assert run.cohort.read_bytes() == before


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (row(7, slide_id="S0"), "slide_id 'S0' stands in"),
        (row(7, patient_id="P0", cohort="y"), "patient 'P0' is in cohort 'y'"),
        (row(7, label="HCC"), "label 'HCC' is spelt 'hcc' in"),
    ],
)
def test_tables_that_contradict_each_other_are_refused(
    tmp_path: Path, new: CohortSlide, message: str
) -> None:
    run = RunFolder(tmp_path)
    merge_rows(run, [row(0)], Path("one.csv"))
    with pytest.raises(CohortError, match=message) as caught:
        merge_rows(run, [new], Path("two.csv"))
    assert "two.csv" in str(caught.value)
    assert str(run.cohort) in str(caught.value)


def test_which_file_a_row_names_decides_and_not_how_it_is_written(tmp_path: Path) -> None:
    """A slide that was moved is the same; another file under the same name is not."""
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "1.png").write_bytes(name.encode())
    run = RunFolder(tmp_path / "run")
    first = row(1, path="sub/1.png", root=str(tmp_path / "a"))
    merge_rows(run, [first], Path("t.csv"))
    alike = [
        row(1, path="1.png", root=str(tmp_path / "a" / "sub")),
        row(1, path="sub/1.png", root=str(tmp_path / "gone")),
        row(1, path="sub/1.png", root=None),
    ]
    assert merge_rows(run, alike[:1], Path("t.csv")).same == 1
    assert merge_rows(run, [first], Path("t.csv")).same == 1
    with pytest.raises(CohortError, match=r"file '.*/a/sub/1\.png' there, '.*/b/sub/1\.png' here"):
        merge_rows(run, [replace(first, root=str(tmp_path / "b"))], Path("t.csv"))
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = replace(first, root=str(tmp_path / "moved"))
    assert merge_rows(run, [moved], Path("t.csv")).same == 1
    assert rows_of(run)[0].locate() == tmp_path / "moved" / "sub" / "1.png"


def test_a_table_from_before_rows_knew_their_folder_is_taken_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_cohort(run.cohort, [row(0, root=None), row(1, root=None)])
    told = merge_rows(run, [row(0)], Path("t.csv"))
    assert (told.same, told.others) == (1, 1)
    assert [slide.root for slide in rows_of(run)] == ["/slides", None]


def test_a_core_follows_the_table_that_people_correct(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    merge_rows(run, [row(0, region=Region(x=0, y=0, width=9, height=9))], Path("t.csv"))
    there = row(0, region=Region(x=5, y=0, width=9, height=9), label=None, sample_type="control")
    assert merge_rows(run, [there], Path("t.csv")).changed == 1
    assert rows_of(run) == [there]
    with pytest.raises(CohortError, match="file"):
        merge_rows(run, [replace(there, path="other.png")], Path("t.csv"))


def test_rows_and_stores_that_do_not_match_are_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert list(unmatched(run, [], ["a"], "tile store")) == []
    assert list(unmatched(run, ["a"], ["a"], "tile store")) == []
    (told,) = unmatched(run, ["a", "b", "c"], ["b", "d"], "tile store")
    assert told == Unmatched(
        table=str(run.cohort), what="tile store", without_store=("a", "c"), without_row=("d",)
    )
    assert told.line() == (
        f"{run.cohort}: 2 of its rows have no tile store (a and c), "
        "and 1 tile stores have no row (d)"
    )


@pytest.fixture
def halves(tmp_path: Path) -> list[Path]:
    """Two tables over one folder of slides; the first two rows of the one are in the other."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for number in range(10):
        cv2.imwrite(str(slides / f"{number}.png"), np.full((64, 64, 3), 244, np.uint8))
    tables = []
    for name, numbers in (("one", range(6)), ("two", range(4, 10))):
        rows = [row(number, root=None, mpp=0.5) for number in numbers]
        write_cohort(tmp_path / f"{name}.csv", rows)
        tables.append(tmp_path / f"{name}.csv")
    return tables


def asked(table: Path) -> list[str]:
    return [str(table), "--slides", str(table.parent / "slides"), "--run", str(table.parent / "r")]


def test_a_second_table_adds_its_rows(
    halves: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [main(asked(table)) for table in halves] == [0, 0]
    run = RunFolder(halves[0].parent / "r")
    assert [slide.slide_id for slide in rows_of(run)] == [f"s{n}" for n in range(10)]
    shown = capsys.readouterr().out
    assert "6 rows from this call (4 new, 2 as they were); 4 more were there" in shown
    for what, number in (("rows from this call", 6), ("  new", 4), ("rows that were there", 6)):
        assert f"│ {what:<21}│ {number:>6} │" in shown.replace("…", "")


def test_a_changed_row_ends_the_call_with_status_2_unless_overwritten(
    halves: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(halves[0])) == 0
    other = halves[0].with_name("three.csv")
    other.write_text(halves[0].read_text().replace("P1,hcc", "P1,cca"))
    assert main(asked(other)) == 2
    assert "three.csv: line 3: slide 's1' differs from" in capsys.readouterr().err
    assert main([*asked(other), "--overwrite"]) == 0
    assert {s.label for s in rows_of(RunFolder(other.parent / "r"))} == {"hcc", "cca"}


def test_two_processes_with_half_a_cohort_each_give_the_whole(halves: list[Path]) -> None:
    for _ in range(2):
        jobs = [
            subprocess.Popen(
                [sys.executable, "-m", "wsi_pipeline.tile", *asked(table)],
                stdout=subprocess.DEVNULL,
            )
            for table in halves
        ]
        assert [job.wait(timeout=120) for job in jobs] == [0, 0]
        rows = rows_of(RunFolder(halves[0].parent / "r"))
        assert [slide.slide_id for slide in rows] == [f"s{n}" for n in range(10)]
