"""A hole in a slide costs the tiles that lie in it, and nothing else."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_pipeline.cli import main
from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slides import open_slide, read_low
from wsi_pipeline.tiles import TileSettings, TileStore, cut_slide, open_tiles

HOLE = 4096
SETTINGS = {"mpp": 0.499, "stain": "none", "max_background_fraction": 1.0}
READERS = ("auto", "openslide", "tiffslide")
Box = tuple[int, int, int, int]


@pytest.fixture(scope="module")
def whole(data_dir: Path) -> Path:
    return data_dir / "slides" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def holed(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Box]]:
    """The slide with 4 kB of zeros in the middle of its tissue, and which native tiles it hits."""
    content = bytearray(whole.read_bytes())
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as tiff:
        page = tiff.pages[0]
        offsets, sizes = np.array(page.dataoffsets), np.array(page.databytecounts)
        columns, side = -(-page.imagewidth // page.tilewidth), page.tilewidth
    start = int(offsets[75]) + 600
    content[start : start + HOLE] = bytes(HOLE)
    hit = np.flatnonzero((offsets < start + HOLE) & (offsets + sizes > start))
    path = tmp_path_factory.mktemp("holed") / "holed.svs"
    path.write_bytes(content)
    corners = [(int(i) % columns * side, int(i) // columns * side) for i in hit]
    return path, [(x, y, x + side, y + side) for x, y in corners]


def cut(path: Path, folder: Path, **settings: object) -> TileStore:
    store = folder / f"{path.stem}.zarr"
    cut_slide(path, store, TileSettings(**SETTINGS | settings), threads=2)
    return open_tiles(store)


def touches(corner: list[int], boxes: list[Box], side: int) -> bool:
    x, y = corner
    return any(x < x1 and x + side > x0 and y < y1 and y + side > y0 for x0, y0, x1, y1 in boxes)


@pytest.mark.parametrize("reader", READERS)
def test_all_other_tiles_are_the_same_to_the_bit(
    whole: Path, holed: tuple[Path, list[Box]], tmp_path: Path, reader: str
) -> None:
    path, boxes = holed
    before = cut(whole, tmp_path, reader=reader)
    after = cut(path, tmp_path, reader=reader, max_unreadable=0.5)
    side = round(before.attributes["tile_px_level0"])
    lost = [corner for corner in before.coords.tolist() if touches(corner, boxes, side)]
    assert lost, "the hole lies in tissue"
    assert after.attributes["unreadable"]["coords"] == lost
    assert "cannot be decoded" in after.attributes["unreadable"]["reason"]
    assert after.attributes["counts"]["rejected_unreadable"] == len(lost)
    assert "unreadable" in after.attributes["flags"]
    left = [i for i, corner in enumerate(before.coords.tolist()) if corner not in lost]
    assert np.array_equal(after.coords, before.coords[left])
    assert np.array_equal(after.tiles[:], before.tiles[:][left])
    assert before.attributes["unreadable"] is None


def test_the_stain_is_fitted_on_what_is_left(
    whole: Path, holed: tuple[Path, list[Box]], tmp_path: Path
) -> None:
    before = cut(whole, tmp_path, stain="macenko").attributes["stain"]
    after = cut(holed[0], tmp_path, stain="macenko", max_unreadable=0.5).attributes["stain"]
    assert after["source"] is not None
    for name, values in before["source"].items():
        assert np.allclose(after["source"][name], values, rtol=0.1, atol=0.03)


@pytest.mark.parametrize("share", [0, 0.01])
def test_a_slide_of_which_too_much_is_lost_fails(
    holed: tuple[Path, list[Box]], tmp_path: Path, share: float
) -> None:
    with pytest.raises(SlideReadError, match="cannot be decoded near") as refused:
        cut(holed[0], tmp_path, max_unreadable=share)
    assert ("--max-unreadable 0.01" in str(refused.value)) == (share > 0)
    assert not list(tmp_path.glob("[!.]*"))


@pytest.mark.parametrize("reader", READERS)
def test_an_overview_is_filled_in_where_there_is_a_hole(
    whole: Path, holed: tuple[Path, list[Box]], reader: str
) -> None:
    with open_slide(whole, reader) as slide, open_slide(holed[0], reader) as damaged:
        expected, found = (read_low(each, 0.499).rgb.astype(int) for each in (slide, damaged))
    assert found.shape == expected.shape
    off = np.abs(found - expected).max(axis=2)
    assert 0 < (off > 0).mean() < 0.05
    hole = off > 0
    assert np.median(off[hole]) < 50
    ends = expected[hole].min(0), expected[hole].max(0)
    assert ((found[hole] >= ends[0] - 20) & (found[hole] <= ends[1] + 20)).all(), "as around it"


def test_a_hole_is_told_by_the_command_line(
    holed: tuple[Path, list[Box]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = tmp_path / "slides", tmp_path / "run"
    folder.mkdir()
    (folder / "holed.svs").write_bytes(holed[0].read_bytes())
    asked = ["tile", str(folder), "--run", str(run), "--mpp", "0.499"]
    assert main(asked) == 1
    assert "--max-unreadable 0.01" in " ".join(capsys.readouterr().out.split())
    assert main([*asked, "--max-unreadable", "0.5"]) == 0
    assert "unreadable" in capsys.readouterr().out
