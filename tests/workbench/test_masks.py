"""Masks drawn at the screen, and what is told of tiles that were not kept."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely.geometry import Polygon, shape
from starlette.testclient import TestClient
from workbench.conftest import ID

from wsi_pipeline.tile import main as tile
from wsi_pipeline.tiles import open_tiles
from wsi_pipeline.tissue import annotated_mask, draw_annotation
from wsi_pipeline.workbench import mask_area

PATH = f"/api/slides/{ID}/mask"


@settings(max_examples=300)
@given(
    mask=arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    downsample=st.sampled_from([1.0, 4.0, 16.5]),
    origin=st.tuples(st.integers(0, 999), st.integers(0, 999)),
)
def test_a_masks_outline_is_the_mask(
    mask: np.ndarray, downsample: float, origin: tuple[int, int]
) -> None:
    area = mask_area(mask, downsample, origin)
    if not mask.any():
        assert area.is_empty
        return
    drawn = draw_annotation(area, "Tissue")
    assert np.array_equal(annotated_mask([drawn], mask.shape, downsample, origin), mask)
    assert area.area == pytest.approx(mask.sum() * downsample**2)


def _drawn(folder: Path) -> Polygon:
    features = json.loads((folder / "masks" / f"{ID}.geojson").read_text())["features"]
    assert features[0]["properties"]["classification"]["name"] == "Tissue"
    return shape(features[0]["geometry"])


def test_tile_takes_the_mask_that_was_drawn(
    client: TestClient, tmp_path: Path, data_dir: Path
) -> None:
    folder = tmp_path / "run"
    store = open_tiles(folder / "tiles" / f"{ID}.zarr")
    side = store.attributes["tile_px_level0"]
    x, y = store.coords[len(store) // 2].tolist()
    ring = [[x - side, y - side], [x + 2 * side, y - side], [x + 2 * side, y + 2 * side],
            [x - side, y + 2 * side]]  # fmt: skip
    assert client.get(PATH).json()["drawn"] is False
    told = client.post(PATH, json={"do": "subtract", "ring": ring}).json()
    assert told["drawn"] is True
    assert _drawn(folder).intersection(Polygon(ring)).area < 1e-4 * Polygon(ring).area
    asked = [str(folder / "cohort.csv"), f"--slides={data_dir / 'slides'}", f"--run={folder}",
             "--mpp=2"]  # fmt: skip
    assert tile(asked) == 1
    kept = open_tiles(folder / "tiles" / f"{ID}.zarr")
    assert len(kept) == len(store), "a slide that was cut is not cut anew unasked"
    assert tile([*asked, "--overwrite"]) == 1  # the lost slide
    anew = open_tiles(folder / "tiles" / f"{ID}.zarr")
    assert "drawn_mask" in anew.attributes["flags"]
    places = {tuple(at) for at in anew.coords.tolist()}
    assert (x, y) not in places
    assert places < {tuple(at) for at in store.coords.tolist()}
    told = client.get(f"/api/slides/{ID}/rejected").json()
    found = {each["reason"]: len(each["corners"]) // 2 for each in told["reasons"]}
    assert (
        found["too little tissue"] + told["glass"] == anew.attributes["counts"]["rejected_tissue"]
    )


def test_areas_are_added_and_undone_by_two_people(client: TestClient, tmp_path: Path) -> None:
    corners = [(100 + 300 * k, 100) for k in range(8)]

    def add(at: tuple[int, int]) -> None:
        x, y = at
        ring = [[x, y], [x + 200, y], [x + 200, y + 200], [x, y + 200]]
        told = client.post(PATH, json={"do": "add", "ring": ring})
        while told.status_code == 422 and "try again" in told.text:  # a machine that is slow
            told = client.post(PATH, json={"do": "add", "ring": ring})
        assert told.status_code == 200, told.text

    with ThreadPoolExecutor(len(corners)) as people:
        list(people.map(add, corners))
    area = _drawn(tmp_path / "run")
    squares = [Polygon([(x, y), (x + 200, y), (x + 200, y + 200), (x, y + 200)])
               for x, y in corners]  # fmt: skip
    assert all(area.intersection(square).area > 39_999 for square in squares)
    for _ in squares:
        told = client.post(f"{PATH}/undo", json={})
        assert told.status_code == 200
    assert told.json()["drawn"] is False
    assert not (tmp_path / "run" / "masks" / f"{ID}.geojson").exists()


def test_what_is_no_area_is_refused(client: TestClient, tmp_path: Path) -> None:
    everything = [[-9, -9], [99999, -9], [99999, 99999], [-9, 99999]]
    for asked in (
        {"do": "add", "ring": [[1, 1], [2, 2]]},
        {"do": "add", "ring": [[1, 1], [2, 2], [3, 3]]},
        {"do": "paint", "ring": []},
        {"do": "subtract", "ring": everything},
    ):
        assert client.post(PATH, json=asked).status_code in (400, 422)
    assert not (tmp_path / "run" / "masks" / f"{ID}.geojson").exists()


def test_tiles_that_were_not_kept_are_told_by_reason(client: TestClient, run: Path) -> None:
    store = open_tiles(run / "tiles" / f"{ID}.zarr")
    told = client.get(f"/api/slides/{ID}/rejected").json()
    found = {each["reason"]: np.reshape(each["corners"], (-1, 2)) for each in told["reasons"]}
    counts = store.attributes["counts"]
    assert len(found["too much empty glass"]) == counts["rejected_background"] > 0
    assert len(found["too little tissue"]) + told["glass"] == counts["rejected_tissue"]
    kept = {tuple(at) for at in store.coords.tolist()}
    assert not kept & {tuple(at) for places in found.values() for at in places.tolist()}
