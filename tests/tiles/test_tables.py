"""A toy of each kind that is chosen by name, through its one door, from the command line."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline import qc, tile
from wsi_pipeline.reporting.funnel import read_funnel
from wsi_pipeline.stain import restore_stain
from wsi_pipeline.tiles import open_tiles
from wsi_pipeline.tiles.flags import FLAGS, Learnt, Look, TileFlag, store_marks

OWN = """
import numpy as np
from wsi_pipeline.stain import REFERENCE

def bright_left(view):
    mask = view.density > 0.05
    mask[:, mask.shape[1] // 2:] = False
    return mask

def published(pixels):
    assert pixels.ndim == 2 and pixels.dtype == np.uint8
    return REFERENCE.matrix
"""


@pytest.fixture
def slides(data_dir: Path, tmp_path: Path) -> Path:
    """Real liver, 4 × 2 tiles of 256 px, on glass."""
    files = sorted((data_dir / "liver_tiles").rglob("*.jpg"))[:8]
    tiles = [cv2.imread(str(file)) for file in files]
    rows = [np.concatenate(tiles[start : start + 4], axis=1) for start in (0, 4)]
    image = cv2.copyMakeBorder(
        np.concatenate(rows), 256, 256, 256, 256, cv2.BORDER_CONSTANT, value=(245, 245, 245)
    )
    folder = tmp_path / "slides"
    folder.mkdir()
    cv2.imwrite(str(folder / "mosaic.png"), image)
    return folder


def cut(slides: Path, run: Path, *flags: str) -> int:
    return tile.main([str(slides), "--run", str(run), "--mpp-override", "0.5", *flags])


def test_a_users_own_stain_and_tissue_methods(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_methods.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = ["--stain", "own_methods:published", "--tissue-method", "own_methods:bright_left"]
    assert cut(slides, tmp_path / "run", *asked) == 0
    store = open_tiles(tmp_path / "run" / "tiles" / "mosaic.zarr")
    assert 0 < len(store) <= 4
    assert store.coords[:, 0].max() < 3 * 256
    stain = store.attributes["stain"]
    assert stain["method"] == "own_methods:published"
    assert not stain["flags"]
    raw = np.full((1, 4, 4, 3), (200, 120, 180), np.uint8)
    assert (restore_stain(stain).apply(raw) != raw).any()


def test_a_new_flag_is_one_entry(
    slides: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def redness(look: Look) -> np.ndarray:
        return look.coarse.rgb[..., 0].mean(axis=(1, 2)).astype(np.float32)

    toy = TileFlag(
        label="Rather red",
        fate="too red",
        colour=(255, 0, 0),
        column="redness",
        limit=lambda _knobs, sample: float(np.median(redness(sample))),
        rule=lambda _knobs, _sample: Learnt(measure=redness, numbers={"toy": 1.0}),
    )
    monkeypatch.setattr(FLAGS, "_entries", {**FLAGS, "red": toy})
    run = tmp_path / "run"
    assert cut(slides, run) == 0
    assert "too red, kept" in capsys.readouterr().out
    store = open_tiles(run / "tiles" / "mosaic.zarr")
    marked = store_marks(store)["red"]
    assert 0 < marked.sum() < len(store)
    assert (store.columns["redness"][marked] > store.attributes["flag_limits"]["red"]).all()
    assert store.attributes["toy"] == 1.0
    assert qc.main([str(run), "--drop", "red"]) == 0
    assert "Rather red" in (run / "qc" / "index.html").read_text()
    assert "red " in (run / "qc" / "decisions.csv").read_text()
    funnel = read_funnel([], {"mosaic": store}, [])
    assert "too red" in funnel.tiles[1].lost
    # a store from before the flag was known bears none of it
    monkeypatch.setattr(FLAGS, "_entries", {**FLAGS, "later": replace(toy, column="later")})
    assert not store_marks(store)["later"].any()


def test_unknown_names_are_met_with_the_nearest(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qc.main([str(tmp_path), "--drop", "blured"]) == 2
    assert "'blurred'" in capsys.readouterr().err
