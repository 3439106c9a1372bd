"""Heatmap pyramids and detections lie where the tiles lie on the slide, for other programs too."""

import json
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from tiffslide import TiffSlide

from wsi_pipeline.errors import StoreError
from wsi_pipeline.reporting import SlideFrame, tiles_geojson, write_ome_heatmap
from wsi_pipeline.reporting.heatmap import colours_of
from wsi_pipeline.reporting.heatmap_ome import BLOCK_PX, LONGEST_PX, pyramid
from wsi_pipeline.types import Region

SIDE = 512.0
FRAME = SlideFrame(area=Region(x=1000, y=3000, width=20_000, height=30_000), mpp=0.25)
COORDS = np.array([[1000 + 512 * 4, 3000], [1000 + 512 * 20, 3000 + 512 * 40], [20_456, 32_440]])
VALUES = np.array([0.1, 0.9, 0.5])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ome") / "s.ome.tif"
    write_ome_heatmap(path, FRAME, COORDS, VALUES, SIDE, (0.0, 1.0), name="s: attention")
    return path


def test_the_pyramid_is_tiled_and_knows_its_size(written: Path) -> None:
    with tifffile.TiffFile(written) as file:
        assert file.is_ome
        assert len(file.series) == 1
        levels = file.series[0].levels
        assert [level.shape for level in levels] == [(938, 625, 3), (469, 313, 3)]
        assert all(level.pages[0].is_tiled for level in levels)
        pixels = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels")
    assert pixels is not None
    for axis in "XY":
        assert float(pixels.attrib[f"PhysicalSize{axis}"]) == 0.25 * 32
        assert pixels.attrib[f"PhysicalSize{axis}Unit"] == "µm"
    # the picture is as large as the slide, to the pixel
    assert 0 <= int(pixels.attrib["SizeX"]) * 32 - FRAME.area.width < 32
    assert 0 <= int(pixels.attrib["SizeY"]) * 32 - FRAME.area.height < 32


def test_every_level_shows_each_tile_in_its_place(written: Path) -> None:
    expected = colours_of(VALUES, 0, 1)
    with TiffSlide(written) as slide:
        assert slide.level_count == 2
        assert float(slide.properties["tiffslide.mpp-x"]) == pytest.approx(8.0)
        for level, step in enumerate(pyramid(FRAME, SIDE)):
            size = slide.level_dimensions[level]
            rgb = np.asarray(slide.read_region((0, 0), level, size).convert("RGB"))
            coloured = (rgb != 255).any(axis=2)
            for (x, y), colour in zip(COORDS - (1000, 3000), expected, strict=True):
                left, top, px = x // step, y // step, int(SIDE // step)
                assert (rgb[top : top + px, left : left + px] == colour).all()
                coloured[top : top + px, left : left + px] = False
            assert not coloured.any()


def test_openslide_reads_it(written: Path) -> None:
    with openslide.OpenSlide(written) as slide:
        assert slide.dimensions == (625, 938)
        rgb = np.asarray(slide.read_region((64, 0), 0, (16, 16)).convert("RGB"))
    assert (rgb == colours_of(VALUES, 0, 1)[0]).all()


def test_a_core_knows_where_it_lies(tmp_path: Path) -> None:
    """On the slide as a viewer counts, in µm and in level-0 px; in TIFF's own tags too."""
    frame = SlideFrame(
        area=Region(x=9000, y=5000, width=2000, height=2000), origin=(1000, 0), mpp=0.25
    )
    coords = np.array([[9000, 5000], [9512, 5512]])
    path = tmp_path / "core.ome.tif"
    write_ome_heatmap(path, frame, coords, [0.2, 0.9], 512, (0.0, 1.0))
    with tifffile.TiffFile(path) as file:
        xml = ElementTree.fromstring(file.ome_metadata)
        tags = file.pages[0].tags
        place = [np.divide(*tags[name].value) * 10_000 for name in ("XPosition", "YPosition")]
    plane = xml.find(".//{*}Plane")
    assert plane is not None
    assert (float(plane.attrib["PositionX"]), float(plane.attrib["PositionY"])) == (2000.0, 1250.0)
    assert plane.attrib["PositionXUnit"] == "µm"
    assert place == [2000.0, 1250.0]
    told = {each.attrib["K"]: each.text for each in xml.iter() if "K" in each.attrib}
    assert (told["x_level0"], told["y_level0"], told["level0_px_per_px"]) == ("8000", "5000", "32")


def test_numbers_are_those_given_and_nothing_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "values.ome.tif"
    write_ome_heatmap(path, FRAME, COORDS, VALUES, SIDE, None)
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        for level, step in zip(file.series[0].levels, pyramid(FRAME, SIDE), strict=True):
            found = level.asarray()
            assert found.dtype == np.float32
            for (x, y), value in zip(COORDS - (1000, 3000), VALUES, strict=True):
                left, top, px = x // step, y // step, int(SIDE // step)
                assert (found[top : top + px, left : left + px] == np.float32(value)).all()
                found[top : top + px, left : left + px] = np.nan
            assert np.isnan(found).all()


@given(
    side=st.floats(20, 4000), width=st.integers(1, 300_000), height=st.integers(1, 300_000)
)  # fmt: skip
def test_a_pyramid_is_bounded_and_ends_in_one_block(side: float, width: int, height: int) -> None:
    frame = SlideFrame(area=Region(x=0, y=0, width=width, height=height))
    steps = pyramid(frame, side)
    longest = max(width, height)
    assert longest / steps[0] <= LONGEST_PX
    assert longest / steps[-1] <= BLOCK_PX
    assert all(lower == 2 * upper for upper, lower in pairwise(steps))


def test_of_overlapping_tiles_the_larger_value_is_seen_at_every_level(tmp_path: Path) -> None:
    frame = SlideFrame(area=Region(x=0, y=0, width=40_000, height=10_000))
    coords = np.array([[0, 0], [128, 0], [256, 0]])
    write_ome_heatmap(tmp_path / "o.ome.tif", frame, coords, [0.2, 0.9, 0.1], 512, (0.0, 1.0))
    with tifffile.TiffFile(tmp_path / "o.ome.tif") as file:
        for level, step in zip(file.series[0].levels, pyramid(frame, 512), strict=True):
            rgb = level.asarray()
            middle = rgb[: 512 // step, 128 // step : 640 // step]
            assert (middle == colours_of(np.array([0.9]), 0, 1)).all()


def test_geojson_is_what_qupath_reads() -> None:
    rings = FRAME.rings(np.array([[512, 1024], [1024, 1024]]), 512)
    text = tiles_geojson(
        rings, ["hcc", "normal"], np.array([[0.9, 0.1], [0.25, 0.75]]),
        {"attention": np.array([2.5, 0.5])},
    )  # fmt: skip
    found = json.loads(text)
    first, second = found["features"]
    assert found["type"] == "FeatureCollection"
    ring = first["geometry"]["coordinates"][0]
    assert ring == [[512, 1024], [1024, 1024], [1024, 1536], [512, 1536], [512, 1024]]
    assert first["properties"]["objectType"] == "detection"
    assert first["properties"]["classification"]["name"] == "hcc"
    assert second["properties"]["classification"]["name"] == "normal"
    colours = [f["properties"]["classification"]["color"] for f in (first, second)]
    assert colours[0] != colours[1]
    assert all(0 <= value <= 255 for colour in colours for value in colour)
    assert second["properties"]["measurements"] == {
        "p(hcc)": 0.25, "p(normal)": 0.75, "attention": 0.5
    }  # fmt: skip
    with pytest.raises(StoreError, match="disagree"):
        tiles_geojson(rings, ["hcc"], np.ones((2, 2)))


def test_a_viewer_counts_from_the_scanned_bounds() -> None:
    bounds = {"x": 300, "y": 700, "width": 5000, "height": 4000}
    frame = SlideFrame.from_attributes({"bounds_level0": bounds, "mpp_native": 0.25})
    assert frame.rings(np.array([[300, 700]]), 10)[0].tolist() == [
        [0, 0],
        [10, 0],
        [10, 10],
        [0, 10],
    ]
    core = SlideFrame.from_attributes(
        {"bounds_level0": bounds, "region_level0": {"x": 400, "y": 800, "width": 9, "height": 9}}
    )
    assert (core.area.x, core.area.width) == (400, 9)
    assert core.rings(np.array([[400, 800]]), 10)[0, 0].tolist() == [100, 100]
    with pytest.raises(StoreError, match="S1: its store does not tell the slide's size"):
        SlideFrame.from_attributes({"slide_id": "S1"})


@given(angle=st.floats(-180, 180), x=st.integers(0, 10_000), y=st.integers(0, 10_000))
def test_tiles_of_a_turned_slide_are_turned_back(angle: float, x: int, y: int) -> None:
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn), 120.0], [np.sin(turn), np.cos(turn), -40.0]])
    size = {"level0_width": 9000, "level0_height": 9000}
    frame = SlideFrame.from_attributes({**size, "straightened": {"matrix": matrix.tolist()}})
    ring = frame.rings(np.array([[x, y]]), 256)[0]
    there = ring @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(
        there, [[x, y], [x + 256, y], [x + 256, y + 256], [x, y + 256]], atol=1e-6
    )
