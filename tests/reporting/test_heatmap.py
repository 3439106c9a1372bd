"""Heatmaps are where the tiles are, and say what the values are."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsi_pipeline.errors import StoreError
from wsi_pipeline.pictures import write_picture
from wsi_pipeline.reporting import (
    draw_heatmap,
    read_heatmaps,
    store_heatmap,
    write_heatmap,
)
from wsi_pipeline.reporting.heatmap import boxes_of, colours_of, lay_boxes
from wsi_pipeline.reporting.heatmap_files import mosaic
from wsi_pipeline.tiles import create_tiles, open_tiles


def coloured(rgb: np.ndarray) -> np.ndarray:
    """(H, W) bool: where a pixel is not grey."""
    return rgb.max(axis=2).astype(int) - rgb.min(axis=2) > 6


@given(
    column=st.integers(-1, 5), row=st.integers(-1, 5), value=st.floats(0, 1),
    origin=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)  # fmt: skip
def test_a_tile_is_painted_where_it_lies(
    column: int, row: int, value: float, origin: tuple[int, int]
) -> None:
    grey = np.full((50, 60, 3), 200, np.uint8)
    shift = (origin[0] * 80, origin[1] * 80)
    drawn = draw_heatmap(
        grey, np.array([[column * 80, row * 80]]), [value], 80, 8, origin=shift, limits=(0, 1)
    )
    expected = np.zeros((50, 60), bool)
    x, y = (column - origin[0]) * 10, (row - origin[1]) * 10
    expected[max(y, 0) : max(y + 10, 0), max(x, 0) : max(x + 10, 0)] = True
    assert (coloured(drawn) == expected).all()


@given(
    tiles=st.lists(st.tuples(st.integers(-300, 900), st.integers(-300, 900)), max_size=60),
    lattice=st.integers(1, 300), side=st.floats(1, 400), step=st.floats(1, 90),
)  # fmt: skip
def test_boxes_laid_at_once_lie_as_those_laid_one_by_one(
    tiles: list[tuple[int, int]], lattice: int, side: float, step: float
) -> None:
    corners = np.array(tiles, np.int64).reshape(-1, 2) // lattice * lattice
    boxes = boxes_of(corners, side, step)
    expected = np.full((40, 50), -1)
    for number, (x0, y0, x1, y1) in enumerate(boxes.clip(0)):
        assert (x1 > x0 and y1 > y0) or boxes[number].min() < 0
        expected[y0:y1, x0:x1] = number
    assert np.array_equal(lay_boxes(boxes, (50, 40)).pixels(), expected)


def test_lightness_rises_evenly_with_the_value() -> None:
    from skimage.color import rgb2lab

    lab = rgb2lab(colours_of(np.linspace(0, 1, 33), 0, 1)[None])[0]
    steps = np.diff(lab[:, 0])
    assert (steps > 0).all()
    assert steps.max() < 2 * steps.min()


def test_overlaps_and_limits() -> None:
    grey = np.full((40, 40, 3), 128, np.uint8)
    coords = np.array([[0, 0], [0, 0], [200, 200]])
    both = draw_heatmap(grey, coords, [1.0, 0.2, 0.0], 200, 10)
    alone = draw_heatmap(grey, coords[[0, 2]], [1.0, 0.0], 200, 10)
    assert (both == alone).all()
    one = draw_heatmap(grey, coords[:1], [0.3], 200, 10, colour_bar=True)
    assert one.shape == (74, 40, 3)
    with pytest.raises(StoreError, match="finite"):
        draw_heatmap(grey, coords, [1.0, np.nan, 0.0], 200, 10)
    with pytest.raises(StoreError, match="N coords"):
        draw_heatmap(grey, coords, [1.0], 200, 10)


@pytest.fixture
def store(tmp_path: Path):
    path = tmp_path / "tiles" / "s.zarr"
    path.parent.mkdir()
    tiles = np.zeros((3, 64, 64, 3), np.uint8)
    tiles[0, ..., 0], tiles[1, ..., 1], tiles[2, ..., 2] = 250, 250, 250
    coords = np.array([[1000, 2000], [1128, 2000], [1000, 2128]])
    with create_tiles(path, tile_px=64, capacity=3) as writer:
        writer.append(tiles, coords, {"tissue_fraction": np.ones(3, np.float32)})
        writer.commit({"tile_px_level0": 128})
    return open_tiles(path)


def test_mosaic_puts_tiles_back_where_they_were(store) -> None:
    rgb, downsample, origin = mosaic(store)
    centres = np.rint((store.coords + 64 - np.array(origin)) / downsample).astype(int)
    for (x, y), colour in zip(centres, np.eye(3) * 250, strict=True):
        assert (rgb[y, x] == colour).all()
    missing = np.rint((np.array([1128, 2128]) + 64 - np.array(origin)) / downsample).astype(int)
    assert (rgb[missing[1], missing[0]] == 255).all()


def test_heatmap_files_come_back(store, tmp_path: Path) -> None:
    drawn, limits = store_heatmap(store, [0.0, 0.5, 2.0])
    assert limits == (0.0, 2.0)
    write_heatmap(tmp_path / "heatmaps" / "m", "s", drawn, "attention of abmil", limits)
    (found,) = read_heatmaps(tmp_path / "heatmaps", "s")
    assert (found.what, found.low, found.high) == ("attention of abmil", 0.0, 2.0)
    assert found.picture.data[8:12] == b"WEBP"
    with Image.open(BytesIO(found.picture.data)) as shown:  # without the bar below
        assert abs(shown.width / shown.height - drawn.shape[1] / drawn.shape[0]) < 0.02
    written = cv2.imread(str(tmp_path / "heatmaps" / "m" / "s.png"))
    height = drawn.shape[0]
    assert np.array_equal(written[:height, :, ::-1], drawn)
    below = written[height:]  # the colours, their limits and what they show
    assert len(np.unique(below.reshape(-1, 3), axis=0)) > 50
    assert (below[-14:] < 150).any()
    assert read_heatmaps(tmp_path / "heatmaps", "other") == ()
    with pytest.raises(StoreError, match="3 tiles"):
        store_heatmap(store, [1.0])


def test_a_whole_slides_thumbnail_lies_beneath(store, tmp_path: Path) -> None:
    bounds = {"x": 900, "y": 1900, "width": 400, "height": 400}
    (tmp_path / "thumbnails").mkdir()
    write_picture(tmp_path / "thumbnails" / "s.jpg", np.full((100, 100, 3), 180, np.uint8))
    whole = replace(store, attributes={**store.attributes, "bounds_level0": bounds})
    drawn, _ = store_heatmap(whole, [0.0, 0.5, 1.0])
    expected = np.zeros((100, 100), bool)
    for x, y in store.coords:
        left, top = round((x - 900) / 4), round((y - 1900) / 4)
        expected[top : top + 32, left : left + 32] = True
    assert (coloured(drawn) == expected).mean() > 0.99
    core = replace(whole, attributes={**whole.attributes, "region_level0": bounds})
    assert store_heatmap(core, [0.0, 0.5, 1.0])[0].shape[0] > 100
