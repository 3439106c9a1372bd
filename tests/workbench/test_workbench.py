"""The workbench: who gets in, whose pixels it shows, what a decision leaves on disk."""

import threading
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles import open_tiles, read_decisions
from wsi_pipeline.workbench import (
    SIDE,
    OpenedSlide,
    OpenSlides,
    SlideFile,
    levels_of,
    workbench_app,
)

ID = "liver"
HERE = "http://127.0.0.1:8000"
FIND_NORMAL = """const words = document.getElementById("find"); words.value = "normal";
words.dispatchEvent(new Event("input"))"""
SLIDES = (
    "slides/CMU-1-Small-Region.svs",
    "slides/TCGA-CR-7395-01A-01-TS1.svs",
    "slides/liver_glycogen_HE.tif",
    "slides/PDAC-tru-cut_HE3.svs",
)


def test_who_has_no_token_sees_nothing(run: Path) -> None:
    with TestClient(workbench_app(run, None, "word"), base_url=HERE) as client:
        for path in ("/", "/api/cohort", "/static/workbench.js", "/?token=wrong"):
            assert client.get(path).status_code == 403
        assert client.get("/?token=word").status_code == 200
        assert client.get("/api/cohort").status_code == 200
        elsewhere = {"origin": "http://evil.example"}
        assert client.get("/api/cohort", headers=elsewhere).status_code == 403
        assert client.get("/api/cohort", headers={"host": "evil.example:8000"}).status_code == 403
        client.cookies.clear()
        assert client.get("/?token=word").status_code == 403, "the token worked twice"


def test_every_slide_is_told_of_also_the_lost_one(client: TestClient) -> None:
    told = {row["id"]: row for row in client.get("/api/cohort").json()["slides"]}
    assert told[ID]["tiles"] > 20
    assert told[ID]["label"] == "normal"
    assert "gone.svs" in told["gone"]["failure"]


def test_tiles_lie_where_the_store_has_them(client: TestClient, run: Path) -> None:
    store = open_tiles(run / "tiles" / f"{ID}.zarr")
    told = client.get(f"/api/slides/{ID}/tiles").json()
    assert np.array_equal(np.reshape(told["corners"], (-1, 2)), store.coords)
    side = store.attributes["tile_px_level0"]
    assert np.allclose(told["edges"], [[side, 0], [0, side]])
    assert "tissue fraction" in told["layers"]
    layer = client.get(f"/api/slides/{ID}/layers?name=tissue fraction").json()
    assert np.allclose(layer["values"], store.columns["tissue_fraction"], atol=1e-4)
    assert client.get(f"/api/slides/{ID}/layers?name=beauty").status_code == 422
    one = client.get(f"/api/slides/{ID}/tiles/7").json()
    assert [one["x"], one["y"]] == store.coords[7].tolist()
    assert client.get(f"/api/slides/{ID}/tiles/999999").status_code == 422


def test_a_tile_is_shown_as_stored_and_as_scanned(client: TestClient, run: Path) -> None:
    store = open_tiles(run / "tiles" / f"{ID}.zarr")
    stored = client.get(f"/tiles/{ID}/7/stored.jpg").content
    apart = np.abs(simplejpeg.decode_jpeg(stored).astype(int) - store.tiles[7])
    assert apart.mean() < 5
    scanned = simplejpeg.decode_jpeg(client.get(f"/tiles/{ID}/7/scanned.jpg").content)
    assert scanned.shape == store.tiles[7].shape
    assert np.abs(scanned.astype(int) - store.tiles[7]).mean() > 1  # it was normalised since


def test_decisions_stand_on_disk_whoever_makes_them(client: TestClient) -> None:
    told = client.get(f"/api/slides/{ID}/tiles").json()
    places = np.reshape(told["corners"], (-1, 2)).astype(int).tolist()[:12]

    def drop(place: list[int]) -> None:
        asked = {"place": place, "choice": "drop"}
        assert client.post(f"/api/slides/{ID}/decisions", json=asked).status_code == 200

    people = [threading.Thread(target=drop, args=(place,)) for place in places]
    for person in people:
        person.start()
    for person in people:
        person.join()
    asked = {"place": places[0], "choice": "undo"}
    now = client.post(f"/api/slides/{ID}/decisions", json=asked).json()
    assert now == {"whole": None, "dropped": list(range(1, 12))}
    assert client.get(f"/api/slides/{ID}").json()["decided"] == now
    wrong = client.post(f"/api/slides/{ID}/decisions", json={"place": None, "choice": "burn"})
    assert wrong.status_code == 400


def test_a_decision_is_extracts(client: TestClient, tmp_path: Path) -> None:
    client.post(f"/api/slides/{ID}/decisions", json={"place": None, "choice": "drop"})
    assert read_decisions(tmp_path / "run" / "qc" / "decisions.csv").drops_slide(ID)


def test_a_slide_that_is_not_at_hand_is_said(client: TestClient, tmp_path: Path) -> None:
    table = tmp_path / "run" / "cohort.csv"
    table.write_text(table.read_text().replace("liver_glycogen_HE.tif", "moved.tif"))
    told = client.get(f"/api/slides/{ID}").json()
    assert "moved.tif" in told["missing"]
    assert "--slides" in told["missing"]
    assert client.get(f"/slides/{ID}/3/0_0.jpg").status_code == 404
    assert client.get(f"/thumbnails/{ID}.jpg").status_code == 200


@pytest.mark.parametrize("name", SLIDES)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_pyramids_tiles_are_the_slides_pixels(data_dir: Path, name: str, seed: int) -> None:
    """The last level bit by bit; coarser ones beside OpenSlide's nearest level, averaged."""
    rng = np.random.default_rng(seed)
    with open_slide(data_dir / name) as slide, openslide.OpenSlide(data_dir / name) as theirs:
        opened, (width, height) = OpenedSlide(slide), slide.dimensions
        top = levels_of((width, height))
        level = int(rng.integers(top - 2, top + 1))
        scale = 2 ** (top - level)
        column, row = (int(rng.integers(-(-side // (scale * SIDE)))) for side in (width, height))
        found = opened.tile(level, column, row)
        assert found is not None
        corner = (column * SIDE * scale, row * SIDE * scale)
        seen = (min(SIDE * scale, width - corner[0]), min(SIDE * scale, height - corner[1]))
        assert found.shape[1::-1] == tuple(-(-side // scale) for side in seen)
        whole = np.asarray(theirs.read_region(corner, 0, seen).convert("RGB"))
        if scale == 1:
            assert np.array_equal(found, whole)
        else:
            size = found.shape[1::-1]
            mean = cv2.resize(whole, size, interpolation=cv2.INTER_AREA).astype(int)
            assert (
                np.abs(
                    cv2.blur(found, (9, 9)).astype(int) - cv2.blur(mean.astype(np.uint8), (9, 9))
                ).mean()
                < 12
            )
        assert opened.tile(top + 1, 0, 0) is None
        assert opened.tile(level, 10**6, 0) is None


def test_slides_in_use_are_not_closed(data_dir: Path) -> None:
    files = [SlideFile(str(data_dir / name)) for name in SLIDES[:3]]
    slides = OpenSlides(most=1)
    with slides.use(files[0]) as first:
        for file in files[1:]:
            with slides.use(file) as other:
                assert other.tile(levels_of(other.slide.dimensions), 0, 0) is not None
        assert first.tile(levels_of(first.slide.dimensions), 0, 0) is not None
    with slides.use(files[1]):
        pass
    assert len(slides) == 1
    slides.close()
