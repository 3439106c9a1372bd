"""Slides in a folder: what cannot be used is named and costs itself, from the command line too."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline.events import SlideFailed, SlideSkipped
from wsi_pipeline.pipeline.tile import run
from wsi_pipeline.run_cohort import rows_of
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.slides import find_slides
from wsi_pipeline.tile import main
from wsi_pipeline.verbs.tiles import TileConfig

WHITE = cv2.imencode(".png", np.full((64, 64, 3), 244, np.uint8))[1].tobytes()


def slide(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(WHITE)
    return path


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Two good slides among everything else that a folder may hold."""
    folder = tmp_path / "slides"
    slide(folder / "good.png")
    slide(folder / "sub" / "fine.png")
    (folder / "sub" / "back").symlink_to(folder)
    (folder / "twin").symlink_to(folder / "sub")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "self.png").symlink_to(folder / "self.png")
    os.mkfifo(folder / "pipe.svs")
    slide(Path(os.fsdecode(os.fsencode(folder) + b"/b\xff.png")))
    slide(Path(os.fsdecode(os.fsencode(folder) + b"/d\xfe/inside.png")))
    slide(folder / "two\nlines.png")
    return folder


PROBLEMS = {
    r"b\xff.png": "has a name that no table can hold",
    r"d\xfe": "has a name that no table can hold",
    r"two\nlines.png": "has a name that no table can hold",
    "dangling.png": "is a link that leads to nothing",
    "self.png": "is a link that leads to nothing",
    "pipe.svs": "is neither a file nor a folder",
    "sub/back": "leads to",
    "twin": "leads to",
}


def test_what_cannot_be_used_is_named_and_the_rest_is_found(hostile: Path) -> None:
    found = find_slides(hostile)
    assert [str(path.relative_to(hostile)) for path in found.paths] == ["good.png", "sub/fine.png"]
    assert len(found.problems) == len(PROBLEMS)


def test_a_folder_that_cannot_be_read_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide(tmp_path / "good.png")
    slide(tmp_path / "closed" / "hidden.png")
    listing = Path.iterdir

    def refusing(path: Path) -> object:  # whoever runs the tests may be allowed to read all
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    found = find_slides(tmp_path)
    assert found.paths == [tmp_path / "good.png"]
    assert found.problems == {tmp_path / "closed": "cannot be read (Permission denied)"}


def test_a_hostile_folder_costs_what_is_wrong_with_it_also_on_resume(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(hostile), "--run", str(tmp_path / "run"), "--mpp-override", "0.5"]
    for _ in range(2):
        assert main(asked) == 1
        shown = capsys.readouterr().out
        for name, problem in PROBLEMS.items():
            told = [line for line in shown.splitlines() if line.startswith(f"failed {name}: ")]
            assert len(told) == 1, name
            assert problem in told[0]
        ids = [row.slide_id for row in rows_of(RunFolder(tmp_path / "run"))]
        assert ids == ["good", "fine"]


def test_equal_stems_are_told_apart_and_keep_their_ids(tmp_path: Path) -> None:
    folder, run_folder = tmp_path / "slides", RunFolder(tmp_path / "run")
    config = TileConfig(cohort=folder, run=run_folder.root, mpp_override=0.5)
    slide(folder / "P1" / "HE.png")
    list(run(config))
    slide(folder / "P2" / "HE.png")
    slide(folder / "c.png")
    slide(folder / "c.tif")
    events = list(run(config))
    assert {e.slide_id for e in events if isinstance(e, SlideSkipped)} == {"HE", "P2-HE"}
    assert {e.slide_id for e in events if isinstance(e, SlideFailed)} == {"c.png", "c.tif"}
    assert {row.slide_id: row.path for row in rows_of(run_folder)} == {
        "HE": "P1/HE.png", "P2-HE": "P2/HE.png"
    }  # fmt: skip


def test_a_row_whose_file_is_gone_costs_itself_also_on_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        slide(tmp_path / f"{name}.png")
    os.mkfifo(tmp_path / "pipe.png")
    table = tmp_path / "t.csv"
    rows = [f"{name},{name}.png,P{name},hcc,x,0.5," for name in ("a", "b", "c", "pipe")]
    table.write_text(
        "slide_id,path,patient_id,label,cohort,mpp,annotations\n"
        + "\n".join([*rows, "drawn,c.png,Pd,hcc,x,0.5,none.geojson"])
    )
    asked = [str(table), "--run", str(tmp_path / "run")]
    (tmp_path / "b.png").unlink()
    for _ in range(2):
        assert main(asked) == 1
        shown = capsys.readouterr().out
        for name, problem in (
            ("b", f"no file {tmp_path / 'b.png'}"),
            ("pipe", "is neither a file nor a folder"),
            ("drawn", "fetch the annotations"),
        ):
            (told,) = [line for line in shown.splitlines() if line.startswith(f"failed {name}: ")]
            assert problem in told
        assert "a: skipped, no tissue" in shown
        assert len(rows_of(RunFolder(tmp_path / "run"))) == 5
    assert main([str(table), "--slides", str(tmp_path / "nowhere"), "--run", str(tmp_path)]) == 2
    assert "give the right --slides folder" in capsys.readouterr().err
