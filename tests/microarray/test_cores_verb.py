"""The cores verb: what it finds, what it draws, and what a person may correct."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline.cohort import CohortSlide
from wsi_pipeline.cores import main
from wsi_pipeline.errors import CohortError, SlideError
from wsi_pipeline.events import SlideDone, SlideFailed
from wsi_pipeline.microarray import as_slides, check_review, read_cores
from wsi_pipeline.pipeline.tile import run as tile
from wsi_pipeline.verbs.tiles import TileConfig

DIAMETER = 90
LOST = "TMA-A3"


@pytest.fixture(scope="module")
def array(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 × 4 pink cores, A3 lost, C4 a control; B2 is not in the map."""
    folder = tmp_path_factory.mktemp("array")
    rng = np.random.default_rng(2)
    picture = np.full((480, 640, 3), 243, np.uint8)
    lines = ["row,column,core_id,patient_id,label"]
    for row, letter in enumerate("ABC"):
        for column in range(4):
            name = f"TMA-{letter}{column + 1}"
            if name != "TMA-B2":
                label = "control liver" if name == "TMA-C4" else ("hcc", "cca")[column % 2]
                lines.append(f"{letter},{column + 1},{name},P{column},{label}")
            if name == LOST:
                continue
            x, y = 100 + 140 * column, 90 + 140 * row
            cv2.circle(picture, (x, y), DIAMETER // 2, (170, 110, 190), -1)
    noise = rng.integers(-8, 8, picture.shape)
    cv2.imwrite(str(folder / "tma.png"), np.clip(picture + noise, 0, 255).astype(np.uint8))
    (folder / "map.csv").write_text("\n".join(lines) + "\n")
    return folder


def rows(path: Path) -> dict[str, dict[str, str]]:
    return {row["core_id"]: row for row in csv.DictReader(path.open())}


def test_cores_are_found_named_joined_and_drawn(
    array: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preview = tmp_path / "out.png"
    asked = [str(array / "tma.png"), "--map", str(array / "map.csv"), "--preview", str(preview)]
    assert main([*asked, "--mpp-override", "8", "--lies", "as-scanned"]) == 0
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    assert "3 × 4 places" in text
    assert "not in the core map: B2" in text
    found = rows(tmp_path / "out.csv")
    assert found.pop("")["status"] == "unmapped"
    assert len(found) == 11
    assert found[LOST]["x"] == ""
    assert [name for name, row in found.items() if row["control"]] == ["TMA-C4"]
    core = found["TMA-B4"]
    assert int(core["x"]) + int(core["width"]) / 2 == pytest.approx(520, abs=5)
    assert int(core["y"]) + int(core["height"]) / 2 == pytest.approx(230, abs=5)
    drawn = cv2.imread(str(preview))
    assert max(drawn.shape) == 1600
    original = cv2.resize(cv2.imread(str(array / "tma.png")), drawn.shape[1::-1])
    assert np.abs(drawn.astype(int) - original).max(axis=2)[540:610, 1260:1340].max() > 60  # B4


def test_a_corrected_table_is_drawn_and_left_alone(array: Path, tmp_path: Path) -> None:
    preview, table = tmp_path / "a.png", tmp_path / "run" / "cores" / "tma.csv"
    asked = [str(array / "tma.png"), "--map", str(array / "map.csv"), "--preview", str(preview)]
    assert main([*asked, "--out", str(table), "--lies", "as-scanned"]) == 0
    before = cv2.imread(str(preview))
    lines = table.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if LOST in line)
    lines[at] = f"A,3,{LOST},P2,hcc,330,40,100,100,yes,,,,,,"
    table.write_text("\n".join(lines) + "\n")
    corrected = table.read_bytes()
    assert main([*asked, "--out", str(table)]) == 0
    assert table.read_bytes() == corrected
    ring = np.abs(cv2.imread(str(preview)).astype(int) - before)[60:400, 800:1100]
    assert ring.max() > 60
    # the tile stage takes the same table
    (array / "cohort.csv").write_text(
        "slide_id,path,patient_id,label,cohort,tma_map\ntma,tma.png,,,x,map.csv\n"
    )
    config = TileConfig(
        cohort=array / "cohort.csv", run=tmp_path / "run", mpp=8, mpp_override=8, dry_run=True
    )
    list(tile(config))
    placed = {core.mapped.core_id: core for core in read_cores(table)}
    assert placed[LOST].region is not None
    assert placed[LOST].control
    slides = as_slides(CohortSlide(slide_id="tma", path="tma.png"), placed.values())
    marked = [slide.slide_id for slide in slides if slide.sample_type == "control"]
    assert marked == [LOST, "TMA-C4"]
    labels = {slide.slide_id: slide.label for slide in slides}
    assert labels["TMA-C4"] is None, "a control is no patient's tissue"
    assert labels["TMA-C3"] == "hcc"
    assert main([*asked, "--out", str(table), "--overwrite"]) == 1, "nobody has looked at this one"
    assert read_cores(table)[2].region is None


def test_tables_of_earlier_versions_stay_readable(tmp_path: Path) -> None:
    table = tmp_path / "old.csv"
    table.write_text(
        "row,column,core_id,patient_id,label,x,y,width,height,control,tilt_deg\n"
        "A,1,T-A1,P1,hcc,10,20,50,50,,1.20\nA,2,T-A2,P2,cca,,,,,,1.20\n"
    )
    one, two = read_cores(table)
    assert (one.region is not None, one.status, one.tilt_deg) == (True, "", 1.2)
    assert two.region is None
    slides = as_slides(CohortSlide(slide_id="T", path="t.svs"), (one, two))
    assert [slide.slide_id for slide in slides] == ["T-A1"]
    assert check_review(table, tmp_path / "gone.svs", None, "") is None


def test_without_a_map_places_are_named_after_the_grid(array: Path, tmp_path: Path) -> None:
    for naming, first in (("letters", "tma-A1"), ("numbers", "tma-1-1")):
        preview = tmp_path / f"{naming}.jpg"
        assert main([str(array / "tma.png"), "--preview", str(preview), "--names", naming]) == 0
        found = rows(preview.with_suffix(".csv"))
        assert (next(iter(found)), len(found)) == (first, 12)


def test_exit_status(array: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slide, preview = str(array / "tma.png"), ["--preview", str(tmp_path / "p.png")]
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((400, 400, 3), 244, np.uint8))
    assert main([str(blank), *preview]) == 1
    assert main([str(tmp_path / "none.svs"), *preview]) == 1
    assert main([slide, *preview, "--map", str(tmp_path / "none.csv")]) == 2
    assert main([slide, *preview, "--core-diameter-um", "600"]) == 2
    assert main([slide, "--preview", str(tmp_path / "p.txt")]) == 2
    assert not (tmp_path / "p.png").exists()
    assert main([slide, *preview, "--dry-run"]) == 0
    assert not (tmp_path / "p.png").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_a_real_overview(data_dir: Path, tmp_path: Path) -> None:
    preview = tmp_path / "real.jpg"
    assert main([str(data_dir / "tma" / "ABC_104_1_009_1.png"), "--preview", str(preview)]) == 0
    placed = read_cores(preview.with_suffix(".csv"))
    assert sum(core.region is not None for core in placed) > 100


def test_rows_in_doubt_stop_without_a_map_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The right half lies half a row lower: which row is it?"""
    picture = np.full((640, 900, 3), 243, np.uint8)
    for row in range(5):
        for column in range(8):
            centre = (90 + 100 * column + 15 * (column > 3), 90 + 100 * row + 50 * (column > 3))
            cv2.circle(picture, centre, 33, (170, 110, 190), -1)
    slide, preview = tmp_path / "torn.png", tmp_path / "p.jpg"
    cv2.imwrite(str(slide), picture)
    asked = [str(slide), "--preview", str(preview)]
    for _ in range(2):  # what was written in doubt is no more sure when it is read
        assert main(asked) == 1
        said = " ".join(capsys.readouterr().out.split())
        assert "its rows and columns are in doubt" in said
        assert "may belong a row or column beside" in said
        assert preview.exists()
        with pytest.raises(SlideError, match="in doubt"):
            check_review(tmp_path / "p.csv", slide, None, "")
    assert main([*asked, "--accept"]) == 0
    assert main(asked) == 0
    assert check_review(tmp_path / "p.csv", slide, None, "") is not None


def test_doubt_stops_until_a_person_has_looked(
    array: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preview, table = tmp_path / "run" / "cores" / "tma.jpg", tmp_path / "run" / "cores" / "tma.csv"
    (array / "cohort.csv").write_text(
        "slide_id,path,patient_id,label,cohort,tma_map\ntma,tma.png,,,x,map.csv\n"
    )
    config = TileConfig(
        cohort=array / "cohort.csv", run=tmp_path / "run", mpp=8, mpp_override=8, tile_px=32
    )
    (failed,) = [event for event in tile(config) if isinstance(event, SlideFailed)]
    assert "hardly better" in failed.error
    assert "--accept" in failed.error
    assert str(preview) in failed.error
    assert preview.exists()
    asked = [str(array / "tma.png"), "--map", str(array / "map.csv"), "--preview", str(preview)]
    assert main([*asked, "--accept"]) == 0
    done = [event.slide_id for event in tile(config) if isinstance(event, SlideDone)]
    assert len(done) == 10
    # another map is not what was accepted
    text = (array / "map.csv").read_text()
    (array / "map.csv").write_text(text.replace("TMA-A1,P0,hcc", "TMA-A1,P0,cca"))
    try:
        (failed,) = [event for event in tile(config) if isinstance(event, SlideFailed)]
    finally:
        (array / "map.csv").write_text(text)
    assert "has changed" in failed.error
    # a table that a person has corrected needs no more
    assert main([*asked, "--overwrite"]) == 1
    lines = table.read_text().replace("TMA-A1,P0", "TMA-A1,P7")
    table.write_text(lines)
    assert not [event for event in tile(config) if isinstance(event, SlideFailed) and
                event.slide_id == "tma"]  # fmt: skip


def test_a_core_map_that_cannot_be_read_costs_its_slide_alone(array: Path, tmp_path: Path) -> None:
    (array / "wrong.csv").write_text("row,column\nA,1\n")
    table = array / "two.csv"
    rows_of = "slide_id,path,patient_id,label,cohort,tma_map,tma_lies\n"
    wrong = "bad,tma.png,,,x,wrong.csv,\n"
    table.write_text(rows_of + wrong + "tma,tma.png,,,x,map.csv,as-scanned\n")
    config = TileConfig(cohort=table, run=tmp_path / "run", mpp=8, mpp_override=8, tile_px=32)
    events = list(tile(config))
    (failed,) = [event for event in events if isinstance(event, SlideFailed)]
    assert failed.slide_id == "bad"
    assert "wrong.csv" in failed.error
    assert sum(isinstance(event, SlideDone) for event in events) == 10
    table.write_text(rows_of + wrong)
    with pytest.raises(CohortError, match=r"wrong\.csv"):
        list(tile(config.model_copy(update={"run": tmp_path / "other"})))


def test_words_and_matrices_are_maps_too(
    array: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide, lies = str(array / "tma.png"), ["--lies", "as-scanned"]
    preview = ["--preview", str(tmp_path / "p.png"), "--overwrite"]
    plain = (array / "map.csv").read_text()
    assert main([slide, *lies, *preview, "--map", str(array / "map.csv")]) == 0
    straight = rows(tmp_path / "p.csv")
    words = tmp_path / "words.csv"
    for letter, word in {"A": "top", "B": "middle", "C": "bottom"}.items():
        plain = plain.replace(f"\n{letter},", f"\n{word},")
    words.write_text(plain)
    asked = [slide, *lies, *preview, "--map", str(words)]
    assert main(asked) == 1
    assert "give the labels in their order" in " ".join(capsys.readouterr().out.split())
    assert main([*asked, "--row-labels", "top,middle,bottom", "--core-mask", "tissue"]) == 0
    tight = rows(tmp_path / "p.csv")
    for name, row in straight.items():
        if name and row["x"]:
            assert int(tight[name]["width"]) <= int(row["width"])
            assert int(tight[name]["x"]) == pytest.approx(int(row["x"]), abs=10)
    matrix = tmp_path / "matrix.csv"
    matrix.write_text(",1,2,3,4\nA,P0|hcc,P1,P2,P3\nB,P0,-,P2,P3\nC,P0,P1,P2,P3|control\n")
    assert main([slide, *lies, *preview, "--map", str(matrix)]) == 0
    found = rows(tmp_path / "p.csv")
    assert (found["matrix-A1"]["x"], found["matrix-A1"]["label"]) == (
        straight["TMA-A1"]["x"],
        "hcc",
    )
    assert found["matrix-C4"]["control"] == "yes"


def test_a_grid_is_corrected_by_a_flag(array: Path, tmp_path: Path) -> None:
    preview = tmp_path / "p.png"
    asked = [str(array / "tma.png"), "--map", str(array / "map.csv"), "--preview", str(preview)]
    assert main([*asked, "--lies", "180"]) == 0
    turned = rows(tmp_path / "p.csv")
    assert main([*asked, "--turn", "180"]) == 0
    upright = rows(tmp_path / "p.csv")
    assert main([*asked, "--lies", "as-scanned", "--overwrite"]) == 0
    straight = rows(tmp_path / "p.csv")
    assert turned["TMA-A1"]["x"] != straight["TMA-A1"]["x"]
    for name in straight:
        if name:
            assert upright[name]["x"] == straight[name]["x"], name
    assert main([*asked, "--shift-columns", "1"]) == 0
    shifted = rows(tmp_path / "p.csv")
    assert shifted["TMA-B3"]["x"] == straight[""]["x"], "B2, which the map has not, is B3 now"
    assert shifted["TMA-A1"]["status"] == "missing"
    assert shifted["TMA-A2"]["x"] == straight["TMA-A1"]["x"]
    assert main([*asked, "--shift-columns", "-1"]) == 0
    back = rows(tmp_path / "p.csv")
    assert {n: r["x"] for n, r in back.items() if n} == {
        n: r["x"] for n, r in straight.items() if n
    }


def test_cores_go_to_qupath_and_come_back(array: Path, tmp_path: Path) -> None:
    preview, there = tmp_path / "p.png", tmp_path / "cores.geojson"
    asked = [str(array / "tma.png"), "--map", str(array / "map.csv"), "--preview", str(preview)]
    given = ["--lies", "as-scanned", "--qupath-out", str(there)]
    assert main([*asked, *given]) == 0
    found = json.loads(there.read_text())
    names = [core["properties"].get("name") for core in found["features"]]
    assert len(names) == 11
    assert None in names
    before = rows(tmp_path / "p.csv")
    for core in found["features"]:
        assert core["properties"]["objectType"] == "tmaCore"
        if core["properties"].get("name") == "TMA-A1":
            core["properties"]["isMissing"] = True
        if core["properties"].get("name") == "TMA-A2":
            ring = core["geometry"]["coordinates"][0]
            core["geometry"]["coordinates"][0] = [[x + 30, y] for x, y in ring]
    there.write_text(json.dumps(found))
    assert main([*asked, "--qupath-in", str(there)]) == 0
    after = rows(tmp_path / "p.csv")
    assert after["TMA-A1"]["x"] == ""
    assert int(after["TMA-A2"]["x"]) - int(before["TMA-A2"]["x"]) == pytest.approx(30, abs=1)
    assert after["TMA-C3"]["x"] == before["TMA-C3"]["x"]


def test_one_of_several_arrays_on_a_slide(array: Path, tmp_path: Path) -> None:
    one = cv2.imread(str(array / "tma.png"))
    both = np.hstack([one, one[::-1, ::-1]])
    cv2.imwrite(str(tmp_path / "two.png"), both)
    asked = [str(tmp_path / "two.png"), "--map", str(array / "map.csv")]
    given = ["--preview", str(tmp_path / "p.png"), "--lies", "180", "--region", "640,0,640,480"]
    assert main([*asked, *given]) == 0
    found = rows(tmp_path / "p.csv")
    core = found["TMA-C4"]
    assert int(core["x"]) + int(core["width"]) / 2 == pytest.approx(640 + 639 - 520, abs=6)


def test_a_corrected_grid_is_carried_to_the_next_section(array: Path, tmp_path: Path) -> None:
    asked = [str(array / "tma.png"), "--map", str(array / "map.csv")]
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    assert main([*asked, "--preview", str(first), "--lies", "as-scanned"]) == 0
    picture = cv2.imread(str(array / "tma.png"))
    cv2.imwrite(str(tmp_path / "next.png"), np.roll(picture, (6, 9), (0, 1)))
    like = ["--like", str(tmp_path / "a.csv"), "--lies", "as-scanned"]
    assert main([str(tmp_path / "next.png"), "--preview", str(second), *like]) == 0
    one, two = rows(tmp_path / "a.csv"), rows(tmp_path / "b.csv")
    for name in ("TMA-A1", "TMA-C3", "TMA-B4"):
        assert int(two[name]["x"]) - int(one[name]["x"]) == pytest.approx(9, abs=3)
        assert two[name]["patient_id"] == one[name]["patient_id"]


def test_of_several_arrays_the_one_that_is_the_maps_is_taken(tmp_path: Path) -> None:
    """Two arrays side by side, each with gaps of its own and a map of its own."""
    rng = np.random.default_rng(4)
    holes = {
        "one": {(0, 0), (0, 1), (1, 4), (3, 2), (4, 5), (2, 2)},
        "two": {(4, 0), (3, 1), (0, 3), (2, 4), (1, 1), (0, 5)},
    }
    pictures = []
    for name, empty in holes.items():
        picture = np.full((620, 740, 3), 243, np.uint8)
        lines = ["row,column,core_id,patient_id,label"]
        for row in range(5):
            for column in range(6):
                if (row, column) in empty:
                    continue
                lines.append(f"{'ABCDE'[row]},{column + 1},{name}-{row}{column},P{row},hcc")
                centre = (120 + 100 * column, 110 + 100 * row)
                cv2.circle(picture, centre, 34, (170, 110, 190), -1)
        noise = rng.integers(-8, 8, picture.shape)
        pictures.append(np.clip(picture + noise, 0, 255).astype(np.uint8))
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    gap = np.full((620, 200, 3), 243, np.uint8)
    cv2.imwrite(str(tmp_path / "both.png"), np.hstack([pictures[0], gap, pictures[1]]))
    for name, left in (("one", 0), ("two", 940)):
        asked = [str(tmp_path / "both.png"), "--map", str(tmp_path / f"{name}.csv")]
        assert main([*asked, "--preview", str(tmp_path / f"{name}.jpg"), "--out",
                     str(tmp_path / f"{name}.cores.csv")]) == 0  # fmt: skip
        found = rows(tmp_path / f"{name}.cores.csv")
        core = found[f"{name}-30"]
        assert int(core["x"]) + int(core["width"]) / 2 == pytest.approx(left + 120, abs=5)
        assert int(core["y"]) + int(core["height"]) / 2 == pytest.approx(410, abs=5)
