"""Tables: what is written is read back, what people and spreadsheets break is named by line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.cli import main
from wsi_pipeline.errors import CohortError, LearnError, named
from wsi_pipeline.tables import read_table, to_csv, write_csv

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=6))
def test_whatever_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    write_csv(path, ("a", "b"), rows)
    found = [(row.cells["a"], row.cells["b"]) for row in read_table(path, multiline=True)]
    told = [(a.strip(), b.strip()) for a, b in rows]
    assert found == [row for row in told if any(row)]  # a row that says nothing is no row


def test_text_tables_have_plain_line_ends_and_no_nul() -> None:
    assert to_csv(("a", "b"), [["x\0y", None], {"a": 1, "b": "c,d", "e": 2}]) == (
        'a,b\nx␀y,\n1,"c,d"\n'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,a\n1,2,3\n", "column 'a' stands twice"),
        ("a;b\n1;2\n", "columns a, b missing; found a;b; cells are parted by commas, not by ';'"),
        ("", "columns a, b missing; found nothing"),
        ("a,b\n1,2\n3\n", r"line 3 has 1 cells, and the header 2 \(a and b\)"),
        ("a,b\n1,2,3\n", "line 2 has 3 cells"),
        ("a,b\n1,2\n3,\0\n", "line 3 holds a NUL byte"),
        ('a,b\n1,2\n3,"4\n5,6\n7,8\n', "line 3: a quote is opened there and not closed"),
        (
            'a,b\n1,2\n3,"4\n5,6"\n7,8\n',
            "line 3: a quote is opened there and only closed in line",
        ),
        ('a,b\n1,"2" x\n', "line 2: a quote is opened there and not closed as it should be"),
        ("a,b\n1,2\n1.23E+11,4\n", "line 3: a '1.23E.11' is a long number that a spreadsheet"),
        ("a,b\n1,23E+11,4\n", "line 2 has 3 cells"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CohortError, match=message):
        read_table(path, ("a", "b"), ids=("a",))


def test_a_quote_that_swallows_megabytes_is_named_where_it_opens(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n" + '3,"4\n' + "5,6\n" * 1_000_000, encoding="utf-8")
    with pytest.raises(CohortError, match="line 3: a quote is opened there") as caught:
        read_table(path)
    assert len(str(caught.value)) < 500


def test_bytes_that_are_no_text_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n\xff\xfe,2\n")
    for path, message in (
        (tmp_path / "t.csv", "not a CSV table in UTF-8"),
        (tmp_path, "not a CSV table in UTF-8"),
        (tmp_path / "none.csv", "there is no such table"),
    ):
        with pytest.raises(LearnError, match=message):
            read_table(path, error=LearnError)


def test_empty_rows_and_empty_columns_of_a_spreadsheet_are_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf a ,b,,\r\n 1 ,2,,\r\n,,,\r\n\r\n3,4,,\r\n")
    table = read_table(path, ("a", "b"))
    assert table.columns == ("a", "b")
    assert [(row.line, dict(row.cells)) for row in table] == [
        (2, {"a": "1", "b": "2"}),
        (5, {"a": "3", "b": "4"}),
    ]


def test_long_lists_of_names_are_cut() -> None:
    assert named([]) == ""
    assert named(["a"]) == "a"
    assert named(["a", "b", "c"]) == "a, b and c"
    assert named([f"s{i}" for i in range(17)]) == "s0, s1, s2, s3, s4 and 12 more"


HEAD = "slide_id,path,patient_id,label,cohort\n"
ROW = "s1,a.svs,P1,hcc,x\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide_id,path,patient_id,label,cohort,label\n" + ROW, "column 'label' stands twice"),
        (HEAD + ROW + '"s2,b.svs\n' + "5,6\n" * 500_000, "line 3: a quote is opened there"),
        (HEAD + ROW + "1.23E+11,b.svs,P2,hcc,x\n", "line 3: slide_id '1.23E+11' is a long number"),
        (HEAD + ROW + "s2,b\0.svs,P2,hcc,x\n", "line 3 holds a NUL byte"),
        (HEAD + ROW + "s2,b.svs\n", "line 3 has 2 cells, and the header 5"),
    ],
    ids=["column twice", "quote", "spreadsheet", "NUL", "short row"],
)
@pytest.mark.parametrize("verb", ["tile", "extract"])
def test_the_command_line_refuses_a_damaged_table_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, text: str, message: str
) -> None:
    table, run = tmp_path / "cohort.csv", tmp_path / "run"
    table.write_text(text, encoding="utf-8")
    asked = {
        "tile": ["tile", str(table), "--run", str(run)],
        "extract": ["extract", str(run), "--source", "slide", "--cohort", str(table),
                    "--encoder", "test_resnet", "--weights", "random"],
    }  # fmt: skip
    assert main(asked[verb]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "cohort.csv" in said
    assert message in said
    assert not (run / "tiles").exists()
