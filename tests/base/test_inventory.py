"""The inventory of a run folder: what is written, removed, cut off and tampered with."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from wsi_pipeline.atomic import atomic_folder, remove, write_text
from wsi_pipeline.errors import StoreCorruptError
from wsi_pipeline.inventory import (
    NAME,
    begin,
    check_listed,
    inventory_of,
    read_inventory,
    settle,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    begin(tmp_path)
    write_text(tmp_path / "tables" / "a.csv", "one")
    write_text(tmp_path / "b.csv", "two")
    return tmp_path


def write_many(folder: Path, first: int) -> None:
    for number in range(first, first + 20):
        write_text(folder / f"{number}.txt", str(number))


def test_what_is_written_is_listed_and_what_is_removed_is_gone(run: Path) -> None:
    with atomic_folder(run / "model") as partial:
        (partial / "config.json").write_text("{}")
    with atomic_folder(run / "model") as partial:
        (partial / "metrics.json").write_text("{}")
    remove(run / "b.csv")
    found = read_inventory(run)
    assert found.problems == []
    assert {name for name, entry in found.entries.items() if not entry.gone} == {
        "tables/a.csv", "model/metrics.json"
    }  # fmt: skip
    assert found.entries["b.csv"].gone
    assert found.entries["model/config.json"].gone


def test_a_run_from_before_names_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "old.csv", "old")
    begin(tmp_path)
    assert read_inventory(tmp_path).entries["old.csv"].prints == ()
    check_listed(tmp_path / "old.csv")


def test_several_processes_append_to_one_chain(run: Path) -> None:
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(write_many, [run / "many"] * 3, (0, 100, 200)))
    found = read_inventory(run)
    assert found.problems == []
    assert len(found.entries) == 2 + 60


@pytest.mark.parametrize("line", range(5))
def test_a_line_that_is_changed_or_gone_is_noticed(run: Path, line: int) -> None:
    path = run / NAME
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    for tampered in (lines[line].replace(b"path", b"pith"), lines[line].replace(b'"', b"'", 1)):
        path.write_bytes(b"".join([*lines[:line], tampered, *lines[line + 1 :]]))
        assert read_inventory(run).problems
    if line < 4:
        path.write_bytes(b"".join([*lines[:line], *lines[line + 1 :]]))
        assert read_inventory(run).problems or not read_inventory(run).begun


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_no_byte_can_change_unnoticed(run: Path, flip: int) -> None:
    """Also where the line is still JSON, and lacks a name that is looked for."""
    whole = (run / NAME).read_bytes()
    for at in range(len(whole) - 1):  # without the last line's end a writer is still at it
        damaged = bytearray(whole)
        damaged[at] ^= flip
        (run / NAME).write_bytes(damaged)
        assert read_inventory(run).problems, whole[:at]


def test_after_a_crash_the_old_and_the_new_file_are_right(run: Path) -> None:
    """Killed between the two lines of a file: the rename may have happened, or not."""
    path = run / NAME
    write_text(run / "b.csv", "three")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    for content in ("two", "three"):
        (run / "b.csv").write_text(content)
        check_listed(run / "b.csv")
    (run / "b.csv").write_text("other")
    with pytest.raises(StoreCorruptError, match="another slide or run"):
        check_listed(run / "b.csv")


def test_an_inventory_that_is_replaced_under_a_reader_is_read_anew(run: Path) -> None:
    before = (run / NAME).read_bytes()
    known = inventory_of(run).entries.copy()
    write_text(run / "b.csv", "another and longer")
    write_text(run / "c.csv", "new")
    grown = (run / NAME).read_bytes()
    assert "c.csv" in inventory_of(run).entries
    (run / NAME).write_bytes(before)
    assert inventory_of(run).entries == known
    (run / NAME).write_bytes(grown.replace(b"c.csv", b"d.csv"))
    assert "d.csv" in inventory_of(run).entries
    (run / NAME).write_bytes(grown)
    assert "d.csv" not in inventory_of(run).entries
    assert inventory_of(run).problems == []


@pytest.mark.parametrize("name", ["b.csv", "new.csv"])
def test_what_a_killed_writer_had_put_in_its_place_is_settled(run: Path, name: str) -> None:
    """A run in a bucket takes there what is listed as there, and nothing else."""
    write_text(run / name, "another")
    lines = (run / NAME).read_bytes().splitlines(keepends=True)
    (run / NAME).write_bytes(b"".join(lines[:-1]))  # killed before its last line
    assert len(read_inventory(run).entries[name].prints) == 1 + (name == "b.csv")
    settle(run)
    found = read_inventory(run)
    assert found.problems == []
    assert (found.entries[name].gone, len(found.entries[name].prints)) == (False, 1)
    (run / name).write_text("damaged")
    settle(run)
    with pytest.raises(StoreCorruptError):
        check_listed(run / name)
