"""A slide and a run in a cell of a notebook; overviews of slides that have no small level."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from starlette.testclient import TestClient
from workbench.conftest import HERE, ID

import wsi_pipeline as wsi
from benchmarks.browser import Tab
from benchmarks.slides import Scan, write_scan
from wsi_pipeline.slides import open_slide
from wsi_pipeline.workbench import Kept, OpenedSlide, Shrunk, levels_of, slide_app


def test_a_cell_shows_a_slide_to_who_has_its_address(data_dir: Path) -> None:
    view = wsi.view(data_dir / "slides/CMU-1-Small-Region.svs", height=300)
    try:
        frame = view._repr_html_()
        found = re.search(r'<iframe src="(http://127\.0\.0\.1:\d+/)([\w-]+)/"', frame)
        assert found
        host, token = found.groups()
        name = "CMU-1-Small-Region.svs"
        with urllib.request.urlopen(f"{host}{token}/slides/{name}/0/0_0.jpg", timeout=20) as got:
            assert simplejpeg.decode_jpeg(got.read()).shape == (1, 1, 3)
        with urllib.request.urlopen(f"{host}{token}/", timeout=20) as page:
            assert b'src="static/workbench.js"' in page.read()
        for stranger in (host, f"{host}api/cohort", f"{host}{token[:-1]}/api/cohort"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(stranger, timeout=20)
    finally:
        view.close()


def test_a_cell_shows_one_pane(data_dir: Path) -> None:
    if shutil.which("chromium") is None and shutil.which("chromium-browser") is None:
        pytest.skip("chromium is not installed, so the cell is not opened in a browser")
    view = wsi.view(data_dir / "slides/CMU-1-Small-Region.svs")
    try:
        with Tab(view.url) as tab:
            tab.wait("window.workbench?.pane.ready")
            tab.wait("document.querySelector('.scale span').textContent.includes('µm')")
            assert tab.run("document.querySelectorAll('#viewer .pane').length") == 1
    finally:
        view.close()


def test_a_cell_shows_a_run_and_nothing_else(run: Path, tmp_path: Path) -> None:
    view = wsi.view(run)
    try:
        with urllib.request.urlopen(f"{view.url}api/slides/{ID}/tiles", timeout=20) as got:
            assert got.status == 200
    finally:
        view.close()
    with pytest.raises(wsi.WsiError, match=r"no run folder"):
        wsi.view(tmp_path)


def test_a_sketch_becomes_the_average_and_is_kept(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a slide whose smallest level is large, what is shown at once is near, and right soon."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with open_slide(data_dir / "slides/liver_glycogen_HE.tif") as real:
        patch = real.read(0, 6000, 1500, 2048, 2048)
    path = write_scan(tmp_path / "large.svs", Scan(side=28672, downsamples=(1, 4)), patch)
    with open_slide(path) as slide:
        kept = Kept.of(slide)
        assert kept is not None
        opened = OpenedSlide(slide, kept)
        level = levels_of(slide.dimensions) - 7
        first = opened.tile(level, 0, 0)
        assert first is not None
        assert not opened.coarse.whole, "it is shown before all of the slide is read"
        end = time.monotonic() + 60
        while not opened.coarse.whole and time.monotonic() < end:
            time.sleep(0.05)
        assert opened.coarse.share == 1
        found = opened.tile(level, 0, 0)
        assert found is not None
        truth = slide.thumbnail(max(found.shape))
        truth = cv2.resize(truth, found.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(found.astype(int) - truth).mean() < 3
        assert np.abs(first.astype(int) - truth).mean() < 25
        opened.coarse.stop()
        again = OpenedSlide(slide, kept)
        later = again.tile(level, 0, 0)
        assert again.coarse.whole, "as it was kept"
        assert later is not None
        assert np.abs(later.astype(int) - found).mean() < 2
        kept.path.write_bytes(kept.path.read_bytes()[:-5000])
        assert kept.read() is None, "a damaged one is not shown"
        os.utime(path, (1, 1))
        assert Kept.of(slide) != kept, "nor one of another file in the same place"


def test_a_coarse_tile_of_a_slide_without_small_levels_is_bounded(
    data_dir: Path, tmp_path: Path
) -> None:
    """It needs 4096 × 4096 px: decoded to an eighth, or, where that cannot be, not read at all."""
    with open_slide(data_dir / "slides/liver_glycogen_HE.tif") as real:
        patch = real.read(0, 6000, 1500, 2048, 2048)
    path = write_scan(tmp_path / "large.svs", Scan(side=69632, downsamples=(1,)), patch)
    with open_slide(path) as slide, open_slide(path, "openslide") as plain:
        level, at, side = levels_of(slide.dimensions) - 4, 8, 4096
        source = Shrunk.of(slide, 0, 16)
        assert (source.factor, source.downsample, source.size) == (8, 8.0, (8704, 8704))
        assert Shrunk.of(plain, 0, 16).factor == 1
        opened = OpenedSlide(slide)
        assert not opened.sketched(level)
        found = opened.tile(level, at, at)
        assert found is not None
        truth = cv2.resize(slide.read(0, at * side, at * side, side, side), (256, 256),
                           interpolation=cv2.INTER_AREA)  # fmt: skip
        assert np.abs(found.astype(int) - truth).mean() < 2
        edge = opened.tile(level, 16, 16)
        assert edge is not None
        assert edge.shape == (256, 256, 3)
        assert OpenedSlide(plain).sketched(level)


def test_the_workbench_waits_for_no_torch_and_no_figures() -> None:
    asked = (
        "import sys, wsi_pipeline.workbench; "
        "print(sorted({'torch', 'matplotlib', 'scipy.stats'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_slide_by_itself_has_a_scale(data_dir: Path) -> None:
    app = slide_app(str(data_dir / "slides/CMU-1-Small-Region.svs"), "word")
    with TestClient(app, base_url=HERE) as client:
        client.get("/?token=word")
        told = client.get("/api/slides/CMU-1-Small-Region.svs").json()
        assert told["mpp"] == pytest.approx(0.499)
        assert (told["width"], told["height"]) == (2220, 2967)
        assert client.get("/slides/CMU-1-Small-Region.svs/0/0_0.jpg").status_code == 200
        assert client.get("/slides/CMU-1-Small-Region.svs/share").json() == {"share": 1.0}
