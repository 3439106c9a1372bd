"""Cohort tables: read whole, written back, refused with line numbers."""

from pathlib import Path

import pytest

from wsi_pipeline.cohort import (
    CohortSlide,
    cohort_of,
    read_cohort,
    read_core_map,
    safe_id,
    write_cohort,
)
from wsi_pipeline.errors import CohortError
from wsi_pipeline.types import Region

HEADER = "slide_id,path,patient_id,label,cohort,mpp\n"


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "cohort.csv"
    path.write_text(header + "".join(row + "\n" for row in rows), encoding="utf-8")
    return path


def test_round_trip(tmp_path: Path) -> None:
    slides = [
        CohortSlide(slide_id="A-1", path="a/1.svs", patient_id="P1", label="hcc", cohort="tcga"),
        CohortSlide(
            slide_id="TMA1-A03",
            path="tma.svs",
            patient_id="P2",
            label="cca",
            cohort="tma",
            mpp=0.25,
            region=Region(x=10, y=20, width=300, height=400),
        ),
    ]
    write_cohort(tmp_path / "out.csv", slides)
    assert read_cohort(tmp_path / "out.csv") == slides


def test_a_bom_and_spaces_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b" s1 , a.svs ,P1,hcc,tcga,\r\n")
    assert read_cohort(path) == [
        CohortSlide(slide_id="s1", path="a.svs", patient_id="P1", label="hcc", cohort="tcga")
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["s,a.svs,P,hcc,x,", "S,b.svs,P,hcc,x,"], "line 3: slide_id 'S' stands in line 2 too"),
        (["s,a.svs,P,hepatoma,x,"], "line 2: label 'hepatoma' is none of hcc, cca"),
        (["s,a.svs,P,hcc,x,", "t,b.svs,P,cca,y,"], "line 3: patient 'P' is in cohort 'y'"),
        (["../s,a.svs,P,hcc,x,"], "line 2: slide_id '../s' cannot be a file name"),
        (["s,,P,hcc,x,"], "line 2: path is empty"),
        (["s,a.svs,P,hcc,x,25"], "line 2: mpp 25 is outside"),
        (["s,a.svs,P,hcc,x,half"], "line 2: mpp 'half' is not a number"),
        (["s,a.svs,P,hcc,x,0.5,more"], "line 2 has 7 cells"),
        ([], "the table has no rows"),
    ],
)
def test_what_is_wrong_is_named_by_line(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(CohortError, match=message):
        read_cohort(table(tmp_path, *rows), labels=["hcc", "cca"])


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(CohortError) as caught:
        read_cohort(table(tmp_path, "a b,x.svs,P,hcc,x,", "s,,P,hcc,x,", "t,x.svs,P,hcc,x,9999"))
    assert [line.partition("line ")[2][0] for line in str(caught.value).splitlines()] == list("234")


def test_missing_and_unknown_columns(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="columns patient_id, cohort missing"):
        read_cohort(table(tmp_path, "s,a.svs,hcc", header="slide_id,path,label\n"))
    with pytest.raises(CohortError, match="no column 'lable'; did you mean 'label'"):
        read_cohort(table(tmp_path, "s,a.svs,P,hcc,x,", header=HEADER.replace("mpp", "lable")))


def test_core_map(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("row,column,core_id,patient_id,label\nA,1,A01,P1,hcc\nA,2,A02,,control\n")
    cores = read_core_map(path)
    assert [(core.row, core.column, core.patient_id) for core in cores] == [
        ("A", "1", "P1"),
        ("A", "2", None),
    ]
    path.write_text("row,column,core_id,patient_id,label\nA,1,A01,P1,hcc\nA,1,A02,P1,hcc\n")
    with pytest.raises(CohortError, match="line 3: row A, column 1 stands in line 2"):
        read_core_map(path)


def test_a_folder_is_a_cohort(tmp_path: Path) -> None:
    paths = [tmp_path / "one.svs", tmp_path / "sub" / "zwei drei.svs", tmp_path / "😐.svs"]
    assert [slide.slide_id for slide in cohort_of(paths, tmp_path)] == [
        "one",
        "zwei_drei",
        "slide_",
    ]
    with pytest.raises(CohortError, match="share the slide_id 'one'"):
        cohort_of([tmp_path / "one.svs", tmp_path / "b" / "one.tif"], tmp_path)


def test_safe_ids_keep_dots(tmp_path: Path) -> None:
    assert safe_id("TCGA-AA-0001-01A-01-TS1.abc") == "TCGA-AA-0001-01A-01-TS1.abc"
