"""Cohort tables: read whole, written back, refused with line numbers."""

from pathlib import Path

import pytest

from wsi_pipeline.cohort import (
    CohortSlide,
    cohort_of,
    doubtful_labels,
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
        (["s,a.svs,P,hepatoma,x,"], "line 2: there is no label 'hepatoma'; Known: hcc, cca"),
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


def test_a_label_typo_is_met_with_the_nearest_label_and_the_rows(tmp_path: Path) -> None:
    rows = [f"s{n},a.svs,P{n},{label},x," for n, label in enumerate(["hcc", "hccc", "hcc", "hccc"])]
    with pytest.raises(CohortError, match=r"lines 3 and 5: .*'hccc'; did you mean 'hcc'"):
        read_cohort(table(tmp_path, *rows), labels=["hcc", "cca"])


def test_one_class_is_spelt_in_one_way(tmp_path: Path) -> None:
    rows = [f"s{n},a.svs,P{n},{label},x," for n, label in enumerate(["hcc", "HCC", "HCC", "cca"])]
    with pytest.raises(CohortError, match="line 3 and line 4: label 'HCC' is spelt 'hcc'"):
        read_cohort(table(tmp_path, *rows))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("007", "7", True), ("7", "7.0", True), ("P1", "p1", True), ("P-01", "P_1", True),
        ("TCGA-DD-A1EH", "TCGA-DD-a1eh", True), ("1-2", "12", False), ("P1", "P10", False),
        ("1.5", "15", False), ("A1", "A01", True), ("100", "1", False), ("0", "00", True),
    ],
)  # fmt: skip
def test_one_patient_is_spelt_in_one_way(tmp_path: Path, one: str, other: str, same: bool) -> None:
    """Two spellings would be two patients, and could lie on both sides of a split."""
    path = table(tmp_path, f"s1,a.svs,{one},hcc,x,", f"s2,b.svs,{other},hcc,x,")
    if same:
        with pytest.raises(CohortError, match="one patient, one spelling"):
            read_cohort(path)
    else:
        assert [slide.patient_id for slide in read_cohort(path)] == [one, other]


@pytest.mark.parametrize("word", ["NA", "nan", "N/A", "NULL", "#N/A", "<NA>"])
def test_what_programs_write_for_nothing_is_no_patient_and_no_class(
    tmp_path: Path, word: str
) -> None:
    for row in (f"s,a.svs,{word},hcc,x,", f"s,a.svs,P1,{word},x,"):
        with pytest.raises(CohortError, match=r"line 2: .* missing value"):
            read_cohort(table(tmp_path, row))
    path = tmp_path / "map.csv"
    path.write_text(f"row,column,core_id,patient_id,label\n1,1,c1,{word},hcc\n")
    with pytest.raises(CohortError, match=r"line 2: patient_id .* missing value"):
        read_core_map(path)


@pytest.mark.parametrize(
    ("often", "rare", "doubted"),
    [
        ("hcc", "hccc", True), ("hcc", "hc", True), ("normal", "nomral", True),
        ("cca", "ccb", True), ("grade1", "grade2", False), ("G1", "G10", False),
        ("hcc", "normal", False), ("normal", "anormal", True),
    ],
)  # fmt: skip
def test_a_rare_label_beside_one_like_it_is_doubted(often: str, rare: str, doubted: bool) -> None:
    labels = [often] * 20 + [rare]
    slides = [CohortSlide(slide_id=f"s{n}", path="a", label=x) for n, x in enumerate(labels)]
    assert bool(list(doubtful_labels(slides))) == doubted
    assert not list(doubtful_labels([*slides, *slides[-1:] * 3])), "five are no slip"


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
    slides, problems = cohort_of(paths, tmp_path)
    assert [slide.slide_id for slide in slides] == ["one", "zwei_drei", "slide_"]
    assert not problems


def test_equal_stems_are_told_apart_by_their_folders_or_fail_alone(tmp_path: Path) -> None:
    names = ["P1/HE.svs", "P2/HE.svs", "c.svs", "c.tif", "d/Eins.svs", "d/eins.svs", "f.svs"]
    slides, problems = cohort_of([tmp_path / name for name in names], tmp_path)
    assert {slide.slide_id: slide.path for slide in slides} == {
        "P1-HE": "P1/HE.svs", "P2-HE": "P2/HE.svs", "f": "f.svs"
    }  # fmt: skip
    assert [str(path.relative_to(tmp_path)) for path in problems] == names[2:6]
    assert all("another file; rename one" in problem for problem in problems.values())


def test_a_file_keeps_the_id_it_has_when_another_with_its_stem_comes(tmp_path: Path) -> None:
    (first,), _ = cohort_of([tmp_path / "P1" / "HE.svs"], tmp_path)
    assert first.slide_id == "HE"
    both = [tmp_path / "P1" / "HE.svs", tmp_path / "P2" / "HE.svs"]
    slides, problems = cohort_of(both, tmp_path, {first.path: first.slide_id})
    assert [slide.slide_id for slide in slides] == ["HE", "P2-HE"]
    assert not problems


def test_safe_ids_keep_dots(tmp_path: Path) -> None:
    assert safe_id("TCGA-AA-0001-01A-01-TS1.abc") == "TCGA-AA-0001-01A-01-TS1.abc"
