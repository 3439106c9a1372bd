"""A table of cores and its record, looked at while they are being written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from wsi_pipeline.atomic import write_text
from wsi_pipeline.errors import SlideError
from wsi_pipeline.microarray import (
    PlacedCore,
    Review,
    check_review,
    put_back,
    read_cores,
    read_map,
    read_review,
    review,
    review_path,
    write_reviewed,
)
from wsi_pipeline.slides import slide_digest

DOUBT = "it may be mirrored"
INTERRUPTED = "did not come to the end"


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "slide.svs"
    path.write_bytes(b"x" * 100)
    return path


def _cores(folder: Path, name: str) -> list[PlacedCore]:
    path = folder / f"{name}.csv"
    path.write_text(f"row,column,core_id,patient_id,label\nA,1,{name},p,hcc\n")
    return [PlacedCore(mapped=core, region=None) for core in read_map(path)]


def _name(table: Path) -> str:
    return read_cores(table)[0].mapped.core_id


def _refused(table: Path, slide: Path) -> bool:
    try:
        check_review(table, slide, None, "look")
    except SlideError as error:
        return DOUBT in str(error) or INTERRUPTED in str(error)
    return False


@pytest.mark.parametrize("was", ["in doubt", "sure", "by hand"])
@pytest.mark.parametrize("back", [False, True])
def test_at_no_instant_a_table_is_missing_or_wrongly_sure(
    tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch, was: str, back: bool
) -> None:
    """Between any two files that are written, and between those of an undo."""
    table = tmp_path / "tma.csv"
    sure = Review(slide=slide_digest(slide), map=None)
    unsure = replace(sure, doubts=(DOUBT,))
    write_reviewed(table, _cores(tmp_path, "old"), unsure if was == "in doubt" else sure)
    if was == "by hand":
        review_path(table).unlink()
    text = table.read_text()
    record = review_path(table).read_text() if review_path(table).exists() else None
    right = {"new"} if was != "in doubt" else {"new", "old"}  # to be refused
    seen: list[tuple[str, bool]] = []

    def looking(work: Callable[[Path, str], None]) -> Callable[[Path, str], None]:
        def write(path: Path, text: str) -> None:
            work(path, text)
            seen.append((_name(table), _refused(table, slide)))

        return write

    if back:
        write_reviewed(table, _cores(tmp_path, "new"), unsure)
    monkeypatch.setattr(review, "write_text", looking(write_text))
    if back:
        put_back(table, text, record)
    else:
        write_reviewed(table, _cores(tmp_path, "new"), unsure)
    assert seen
    assert all(refused for name, refused in seen if name in right)
    assert _name(table) == ("old" if back else "new")
    assert _refused(table, slide) == (_name(table) in right)
    if back:
        assert (table.read_text(), read_review(table) is None) == (text, record is None)


def test_a_table_of_another_file_is_not_made_this_ones(
    tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sure of the file that it was made from; whoever writes the next is interrupted."""
    table = tmp_path / "tma.csv"
    old = Review(slide=slide_digest(slide), map=None)
    write_reviewed(table, _cores(tmp_path, "old"), old)
    slide.write_bytes(b"another" * 100)
    monkeypatch.setattr(review, "write_text", _no_table(write_text))
    with pytest.raises(KeyboardInterrupt):
        write_reviewed(table, _cores(tmp_path, "new"), replace(old, slide=slide_digest(slide)))
    assert _name(table) == "old"
    assert _refused(table, slide)


def _no_table(work: Callable[[Path, str], None]) -> Callable[[Path, str], None]:
    def write(path: Path, text: str) -> None:
        if path.suffix == ".csv":
            raise KeyboardInterrupt
        work(path, text)

    return write


def test_who_reads_meanwhile_never_takes_it_for_sure(tmp_path: Path, slide: Path) -> None:
    table, unsure = tmp_path / "tma.csv", Review(
        slide=slide_digest(slide), map=None, doubts=(DOUBT,)
    )  # fmt: skip
    both = [_cores(tmp_path, name) for name in ("one", "two")]
    write_reviewed(table, both[0], unsure)

    def write() -> None:
        for turn in range(150):
            write_reviewed(table, both[turn % 2], unsure)

    writer = Thread(target=write)
    writer.start()
    looks = 0
    while writer.is_alive():
        assert _refused(table, slide)
        looks += 1
    writer.join()
    assert looks > 10
