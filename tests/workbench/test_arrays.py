"""Cores corrected at the screen: by the functions of ``wsi cores``, on disk at once, undone."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from workbench.conftest import HERE

from wsi_pipeline.cores import main as cores
from wsi_pipeline.errors import SlideError
from wsi_pipeline.microarray import (
    Review,
    check_review,
    read_cores,
    read_review,
    write_reviewed,
)
from wsi_pipeline.slides import slide_digest
from wsi_pipeline.workbench import workbench_app

NAME = "ABC_104_1_009_1"
PATH = f"/api/arrays/{NAME}"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("array") / "cores"
    assert cores([str(data_dir / "tma" / f"{NAME}.png"), f"--out={folder / f'{NAME}.csv'}",
                  f"--preview={folder / f'{NAME}.jpg'}"]) == 0  # fmt: skip
    return folder


@pytest.fixture
def table(found: Path, tmp_path: Path) -> Path:
    shutil.copytree(found, tmp_path / "cores")
    return tmp_path / "cores" / f"{NAME}.csv"


@pytest.fixture
def person(table: Path, tmp_path: Path, data_dir: Path) -> Iterator[TestClient]:
    app = workbench_app(tmp_path, data_dir / "tma", "word")
    with TestClient(app, base_url=HERE) as client:
        client.get("/?token=word")
        yield client


def _spots(table: Path) -> dict[str, tuple[int, int]]:
    return {
        core.mapped.core_id: (core.region.x, core.region.y)
        for core in read_cores(table) if core.region is not None and core.mapped.core_id
    }  # fmt: skip


def test_a_core_is_dragged_and_dragged_back(person: TestClient, table: Path) -> None:
    before, text = read_cores(table), table.read_text()
    first = next(core for core in before if core.region is not None and not core.status)
    assert first.region is not None
    x, y = first.region.x + first.region.width / 2 + 7, first.region.y + first.region.height / 2 - 3
    asked = {"do": "move", "core": first.mapped.core_id, "x": x, "y": y}
    preview = table.with_suffix(".jpg").read_bytes()
    told = person.post(PATH, json=asked).json()
    after = read_cores(table)
    moved = next(core for core in after if core.mapped.core_id == first.mapped.core_id)
    assert moved.region is not None
    assert (moved.region.x, moved.region.y) == (first.region.x + 7, first.region.y - 3)
    assert moved.region.width == first.region.width
    same = [core for core in after if core.mapped.core_id != first.mapped.core_id]
    assert same == [core for core in before if core.mapped.core_id != first.mapped.core_id]
    assert table.with_suffix(".jpg").read_bytes() != preview, "the picture is another table's"
    assert first.mapped.core_id in told["undo"]
    assert person.post(f"{PATH}/undo", json={}).status_code == 200
    assert table.read_text() == text
    assert person.post(f"{PATH}/undo", json={}).status_code == 422


def test_a_core_goes_missing_and_another_takes_its_name(person: TestClient, table: Path) -> None:
    one, other, third = sorted(_spots(table))[:3]
    before = _spots(table)
    person.post(PATH, json={"do": "remove", "core": one})
    assert one not in _spots(table)
    assert person.post(PATH, json={"do": "name", "core": other, "name": one}).status_code == 200
    assert _spots(table)[one] == before[other]
    assert other not in _spots(table)
    place = next(c for c in person.get(PATH).json()["cores"] if c["id"] == third)["place"]
    person.post(PATH, json={"do": "name", "core": one, "name": place})
    after = _spots(table)
    assert (after[one], after[third]) == (before[third], before[other]), "they did not change names"
    refused = person.post(PATH, json={"do": "name", "core": one, "name": "ZZ9"})
    assert refused.status_code == 422
    assert "ZZ9" in refused.json()["error"]


def test_a_missing_core_is_put_where_it_is_expected(person: TestClient, table: Path) -> None:
    name = sorted(_spots(table))[len(_spots(table)) // 2]
    region = next(c.region for c in read_cores(table) if c.mapped.core_id == name)
    assert region is not None
    person.post(PATH, json={"do": "remove", "core": name})
    x, y = next(c for c in person.get(PATH).json()["cores"] if c["id"] == name)["about"]
    off = max(abs(x - region.x - region.width / 2), abs(y - region.y - region.height / 2))
    assert off < region.width / 2, "the hint lies beside the core"
    person.post(PATH, json={"do": "move", "core": name, "x": x, "y": y})
    assert name in _spots(table)


def test_a_spot_is_added_named_and_deleted(person: TestClient, table: Path) -> None:
    name = min(_spots(table))
    person.post(PATH, json={"do": "remove", "core": name})
    told = person.post(PATH, json={"do": "add", "x": 500, "y": 300}).json()
    spot = next(c for c in told["cores"] if c["status"] == "unmapped" and not c["id"])
    assert read_cores(table)[-1].status == "unmapped"
    refused = person.post(PATH, json={"do": "use", "at": spot["box"][:2]})
    assert "name first" in refused.json()["error"]
    person.post(PATH, json={"do": "name", "at": spot["box"][:2], "name": name})
    assert _spots(table)[name] == tuple(spot["box"][:2])
    person.post(PATH, json={"do": "name", "core": name, "name": ""})
    assert name not in _spots(table)
    strays = sum(core.status == "unmapped" for core in read_cores(table))
    person.post(PATH, json={"do": "remove", "at": spot["box"][:2]})
    assert sum(core.status == "unmapped" for core in read_cores(table)) == strays - 1


def test_the_grid_is_corrected_as_by_the_command(
    person: TestClient, table: Path, found: Path, tmp_path: Path, data_dir: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(found, other)
    slide = str(data_dir / "tma" / f"{NAME}.png")
    asked = [slide, f"--out={other / f'{NAME}.csv'}", f"--preview={other / 'a.jpg'}"]
    assert cores([*asked, "--shift-rows=1", "--turn=180"]) == 0
    seen = person.get(PATH).json()["table"]
    edit = {"do": "grid", "shift_rows": 1, "turn": 180, "table": seen}
    assert person.post(PATH, json=edit).status_code == 200
    assert table.read_text() == (other / f"{NAME}.csv").read_text()
    late = person.post(PATH, json=edit)
    assert late.status_code == 422
    assert "somebody else" in late.json()["error"]


def test_two_people_at_once_lose_nothing(person: TestClient, table: Path) -> None:
    before = _spots(table)
    names = sorted(before)[:10]

    def drag(name: str) -> None:
        core = next(c for c in read_cores(table) if c.mapped.core_id == name)
        assert core.region is not None
        x, y = core.region.x + core.region.width / 2 + 5, core.region.y + core.region.height / 2
        asked = {"do": "move", "core": name, "x": x, "y": y}
        assert person.post(PATH, json=asked).status_code == 200

    people = [threading.Thread(target=drag, args=(name,)) for name in names]
    for each in people:
        each.start()
    for each in people:
        each.join()
    after = _spots(table)
    assert [after[name][0] - before[name][0] for name in names] == [5] * len(names)


def test_doubt_stands_until_a_person_accepts(
    person: TestClient, table: Path, data_dir: Path
) -> None:
    slide = data_dir / "tma" / f"{NAME}.png"
    review = Review(slide=slide_digest(slide), map=None, doubts=("it may be a row off",))
    write_reviewed(table, read_cores(table), review)
    name = min(_spots(table))
    person.post(PATH, json={"do": "remove", "core": name})
    assert person.get(PATH).json()["doubts"] == ["it may be a row off"]
    with pytest.raises(SlideError, match="a row off"):
        check_review(table, slide, None, "look")
    person.post(PATH, json={"do": "accept"})
    assert check_review(table, slide, None, "look") is not None
    person.post(f"{PATH}/undo", json={})
    with pytest.raises(SlideError, match="a row off"):
        check_review(table, slide, None, "look")


def test_a_map_is_joined_and_taken_back(person: TestClient, table: Path) -> None:
    text, rows = table.read_text(), read_cores(table)
    lines = [
        f"{c.mapped.row},{c.mapped.column},new-{c.mapped.core_id},P{n},hcc"
        for n, c in enumerate(rows) if c.mapped.core_id and c.region is not None
    ]  # fmt: skip
    head = "row,column,core_id,patient_id,label"
    asked = {"name": "lab.csv", "text": "\n".join([head, *lines]) + "\n"}
    told = person.post(f"{PATH}/map", json=asked)
    assert told.status_code == 200, told.text
    joined = read_cores(table)
    used = [c for c in joined if c.region is not None and c.mapped.core_id]
    assert len(used) > 0.9 * len(lines)
    assert all(core.mapped.patient_id for core in used)
    record = read_review(table)
    assert record is not None
    assert record.map is not None
    wrong = person.post(f"{PATH}/map", json={"name": "lab.csv", "text": "core_id,row\nx,1\n"})
    assert wrong.status_code == 422
    assert "lab.csv" in wrong.json()["error"]
    person.post(f"{PATH}/undo", json={})
    assert table.read_text() == text


def test_what_a_person_wrote_meanwhile_is_not_undone(person: TestClient, table: Path) -> None:
    name = min(_spots(table))
    person.post(PATH, json={"do": "remove", "core": name})
    table.write_text(table.read_text().replace(",missing,", ",lost,", 1))
    assert person.get(PATH).json()["undo"] is None
    refused = person.post(f"{PATH}/undo", json={})
    assert "somebody else" in refused.json()["error"]


def test_what_is_no_edit_is_refused(person: TestClient, table: Path) -> None:
    text = table.read_text()
    for asked in ({"do": "burn"}, {"do": "move", "core": "nobody"}, {"do": "move", "x": "NaN"}):
        assert person.post(PATH, json=asked).status_code in (400, 422)
    assert person.get("/api/arrays/none").status_code == 422
    assert table.read_text() == text
