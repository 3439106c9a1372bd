"""Manifests as they are found, as they could be, and as they must be refused."""

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import UsageError
from wsi_pipeline.gdc import ManifestEntry, read_manifest, write_manifest

ID = "3d3b0c1c-fb8d-4d1d-bba5-f0033320adbb"
OTHER = "d31c8be2-ee73-4d8e-8772-a71fd8398745"
MD5 = "3eaff0c63e9fe48adca94c688ac73e8c"
ROW = f"{ID}\ta.svs\t{MD5}\t12\treleased"
HEADER = "id\tfilename\tmd5\tsize\tstate"
ENTRY = ManifestEntry(id=ID, filename="a.svs", md5=MD5, size=12, state="released")
STATELESS = ManifestEntry(id=ID, filename="a.svs", md5=MD5, size=12)


@pytest.mark.parametrize(
    ("name", "rows", "slides"),
    [
        ("TCGA-LIHC_slides_manifest_2022-12_from_slideflow.tsv", 870, 870),
        ("TCGA-CHOL_slides_manifest_2022-12_from_slideflow.tsv", 110, 110),
        ("KimiaNet_LIHC_CHOL_subset.txt", 38, 38),
        ("gdc_docs_manifest_DR13_2018_slides.txt", 36, 36),
        ("portal_manifest_2017_TCGA-lung_slides_head20_DeepPATH.txt", 20, 20),
        ("priyanshumahey_gdc_manifest.txt", 2, 2),
        ("mixed_types_manifest_2023_head2000.txt", 1999, 74),
        ("gdc_docs_extended_manifest_GCv36_TCGA-CHOL_head2.tsv", 2, 0),
    ],
)
def test_manifests_from_the_wild(data_dir: Path, name: str, rows: int, slides: int) -> None:
    entries = read_manifest(data_dir / "gdc" / name).entries
    assert len(entries) == rows
    assert sum(entry.is_slide for entry in entries) == slides


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HEADER}\n{ROW}\n", ENTRY),
        (f"{HEADER}\r\n{ROW}\r\n", ENTRY),
        (f"\ufeff{HEADER}\n{ROW}", ENTRY),
        (f"\n\n{HEADER}\n\n{ROW}\n\n\n", ENTRY),
        (f"id\tfilename\tmd5\tsize\n{ID}\ta.svs\t{MD5}\t12\n", STATELESS),
        (f"file_size\tmd5sum\tfile_name\tfile_id\n12\t{MD5}\ta.svs\t{ID}", STATELESS),
        (f"ID\tFilename\tMD5\tSize\n{ID.upper()}\ta.svs\t{MD5.upper()}\t12\n", STATELESS),
        (f"size\tproject\tid\tmd5\tfilename\n12\tTCGA-LIHC\t{ID}\t{MD5}\ta.svs\n", STATELESS),
        (f"{HEADER}\n{ROW}\t\t\n", ENTRY),
    ],
)
def test_variants(tmp_path: Path, text: str, expected: ManifestEntry) -> None:
    path = tmp_path / "manifest.txt"
    path.write_bytes(text.encode())
    assert read_manifest(path).entries == (expected,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (f"{HEADER}\n", "names no file"),
        (f"# from the portal\n{HEADER}\n{ROW}", "line 1: '# from the portal' is no manifest head"),
        (f"{HEADER.replace(chr(9), ',')}\n", "line 1: .* id, filename, md5, size missing"),
        (f"id\tfilename\tsize\n{ID}\ta.svs\t12\n", "line 1: .* md5 missing"),
        (f"id\tfile_id\tfilename\tmd5\tsize\n{ROW}", "column id stands twice"),
        (f"{ROW}\n", "line 1: .* is no manifest header"),
        (f"{HEADER}\n{ROW}\nnot-a-uuid\tb.svs\t{MD5}\t1\tlive", "line 3: id 'not-a-uuid'"),
        (f"{HEADER}\n{ID}\ta.svs\t{MD5[:-1]}\t12\tlive", "line 2: md5"),
        (f"{HEADER}\n{ID}\ta.svs\t{MD5}\t1.2e3\tlive", "line 2: size '1.2e3'"),
        (f"{HEADER}\n{ID}\ta.svs\t{MD5}\t0\tlive", "line 2: size '0'"),
        (f"{HEADER}\n{ID}\ta.svs\t{MD5}\t-5\tlive", "line 2: size '-5'"),
        (f"{HEADER}\n{ID}\ta.svs\t{MD5}", "line 2: 3 fields where the header has 5"),
        (f"{HEADER}\n{ROW}\textra", "line 2: 6 fields"),
        (f"{HEADER}\n{ID}\t../a.svs\t{MD5}\t12\tlive", "line 2: filename '../a.svs'"),
        (f"{HEADER}\n{ID}\t..\t{MD5}\t12\tlive", r"line 2: filename '\.\.'"),
        (f"{HEADER}\n{ID}\t\t{MD5}\t12\tlive", "line 2: filename ''"),
        (f"{HEADER}\n{ID}\ta\x07.svs\t{MD5}\t12\tlive", "line 2: filename"),
        (f"{HEADER}\n{ROW}\n{ROW.replace('12', '13')}", f"line 3: id {ID} stands in line 2"),
    ],
)
def test_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "manifest.txt"
    path.write_bytes(text.encode())
    with pytest.raises(UsageError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(str(path))
    assert re.search(message, str(caught.value)), caught.value


def test_all_bad_lines_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "manifest.txt"
    path.write_text(f"{HEADER}\n" + "x\ty\n" * 30)
    with pytest.raises(UsageError) as caught:
        read_manifest(path)
    lines = str(caught.value).splitlines()
    assert "line 2:" in lines[0]
    assert lines[-1].endswith("and 10 more such lines")


def test_no_text_at_all(tmp_path: Path) -> None:
    path = tmp_path / "manifest.txt"
    path.write_bytes(f"{HEADER}\n{ROW}\n".encode("utf-16"))
    with pytest.raises(UsageError, match="not a text file in UTF-8"):
        read_manifest(path)
    with pytest.raises(UsageError, match="no such manifest"):
        read_manifest(tmp_path / "absent.txt")


def test_repeated_rows_count_once(tmp_path: Path) -> None:
    path = tmp_path / "manifest.txt"
    path.write_text(f"{HEADER}\n{ROW}\n{ROW.replace(ID, OTHER)}\n{ROW}\n")
    manifest = read_manifest(path)
    assert [entry.id for entry in manifest.entries] == [ID, OTHER]
    assert manifest.repeated == 1
    assert manifest.total_bytes == 24


NAMES = st.text(
    st.characters(blacklist_categories=("C", "Z"), blacklist_characters='/\\:*?"<>|'),
    min_size=1,
    max_size=40,
).filter(lambda name: not name.startswith("."))
ENTRIES = st.builds(
    ManifestEntry,
    id=st.uuids().map(str),
    filename=NAMES.map(lambda name: f"{name}.svs"),
    md5=st.text("0123456789abcdef", min_size=32, max_size=32),
    size=st.integers(1, 1 << 44),
    state=st.none() | st.sampled_from(["released", "live"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ENTRIES, min_size=1, max_size=5, unique_by=lambda entry: entry.id))
def test_what_is_written_is_read(entries: list[ManifestEntry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "manifest.txt")
        write_manifest(path, entries)
        assert list(read_manifest(path).entries) == entries
