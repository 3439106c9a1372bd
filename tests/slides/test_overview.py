"""Overviews: exact scale, averaged, the same however they were read, in bounded memory."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_pipeline.slides import Slide, SlideInfo, open_slide, overview, read_low, reduce_area
from wsi_pipeline.slides.overview import _read_reduced, choose_level
from wsi_pipeline.slides.reader import SlideReader
from wsi_pipeline.slides.tile_codec import JpegTiles
from wsi_pipeline.types import Region, RgbImage


class Gradient(SlideReader):
    """A slide whose red counts columns and whose green counts rows, computed when read."""

    def __init__(self, width: int, height: int, downsamples: tuple[float, ...] = (1.0,)) -> None:
        self.largest_read = 0
        self.info = SlideInfo(
            path="gradient",
            reader="computed",
            reader_version="1",
            vendor="none",
            level_dimensions=tuple((int(width / d), int(height / d)) for d in downsamples),
            level_downsamples=downsamples,
            mpp_x=0.25,
            mpp_y=0.25,
            mpp_source="computed",
            objective_power=None,
            bounds=Region(x=0, y=0, width=width, height=height),
            properties={},
            associated=(),
        )

    def read_inside(self, level: int, x: int, y: int, width: int, height: int) -> RgbImage:
        self.largest_read = max(self.largest_read, width * height)
        scale = self.info.level_downsamples[level]
        full_width, full_height = self.info.dimensions
        rgb = np.full((height, width, 3), 128, np.uint8)
        rgb[..., 0] = ((np.arange(x, x + width) + 0.5) * scale / full_width * 255)[None]
        rgb[..., 1] = ((np.arange(y, y + height) + 0.5) * scale / full_height * 255)[:, None]
        return rgb

    def read_associated(self, name: str) -> RgbImage:
        raise KeyError(name)

    def close(self) -> None: ...


class Averaging:
    """A slide that knows no way to decode its tiles smaller."""

    def __init__(self, slide: Slide) -> None:
        self.read = slide.read


def mean_of_blocks(rgb: RgbImage, factor: int) -> np.ndarray:
    """Plain average per block, partial blocks over what they hold."""
    rows = range(0, rgb.shape[0], factor)
    columns = range(0, rgb.shape[1], factor)
    return np.array(
        [[rgb[r : r + factor, c : c + factor].mean((0, 1)) for c in columns] for r in rows]
    )


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    factor=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_reduce_area_is_the_mean_of_blocks(height: int, width: int, factor: int, seed: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    reduced = reduce_area(rgb, factor)
    expected = mean_of_blocks(rgb, factor)
    assert reduced.shape == expected.shape
    assert np.abs(reduced - expected).max() <= 0.51


@given(target=st.floats(1, 200))
def test_the_level_chosen_is_never_coarser_than_asked(target: float) -> None:
    downsamples = (1.0, 4.0001, 15.99, 31.9)
    level, factor = choose_level(downsamples, target)
    assert downsamples[level] <= target * 1.02
    assert all(ds > target * 1.02 or ds <= downsamples[level] for ds in downsamples)
    assert abs(downsamples[level] * factor - target) <= downsamples[level] / 2 + 1e-9


def test_a_pyramid_and_a_flat_slide_give_the_same_overview() -> None:
    flat = read_low(Gradient(8192, 4096), 0.25)
    pyramid = read_low(Gradient(8192, 4096, (1.0, 4.0, 16.0)), 0.25)
    assert flat.downsample == pyramid.downsample == 32.0
    assert flat.rgb.shape == pyramid.rgb.shape == (128, 256, 3)
    assert np.abs(flat.rgb.astype(int) - pyramid.rgb).max() <= 1


def test_a_region_is_placed_where_it_says() -> None:
    slide = Gradient(8192, 4096, (1.0, 4.0))
    region = Region(x=2048, y=1024, width=1000, height=900)
    low = read_low(slide, 0.25, 2.0, region=region)
    assert low.origin == (2048.0, 1024.0)
    assert low.downsample == 8.0
    assert low.rgb.shape[:2] == (113, 125)
    whole = read_low(slide, 0.25, 2.0)
    assert np.array_equal(low.rgb[:112], whole.rgb[128:240, 256:381])


def test_bounds_are_the_default_region() -> None:
    slide = Gradient(8192, 4096)
    slide.info = replace(slide.info, bounds=Region(x=4096, y=0, width=2048, height=2048))
    low = read_low(slide, 0.25)
    assert low.origin == (4096.0, 0.0)
    assert low.rgb.shape == (64, 64, 3)


def test_an_unknown_resolution_gives_a_picture_of_bounded_size(tmp_path: Path) -> None:
    assert read_low(Gradient(9000, 5000), None).rgb.shape == (1250, 2250, 3)
    Image.new("RGB", (856, 856)).save(tmp_path / "crop.png")
    with open_slide(tmp_path / "crop.png") as slide:
        low = read_low(slide, None)
    assert (low.downsample, low.rgb.shape) == (1.0, (856, 856, 3))


def test_memory_is_bounded_by_the_overview_and_a_block() -> None:
    slide = Gradient(40_000, 10_000)
    tracemalloc.start()
    try:
        low = read_low(slide, 0.25)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert low.rgb.shape == (313, 1250, 3)
    assert slide.largest_read <= 2048 * 2048
    assert peak < 60e6


def test_the_overview_of_a_real_slide_is_its_mean(data_dir: Path) -> None:
    with open_slide(data_dir / "slides/CMU-1-Small-Region.svs") as slide:
        low = read_low(slide, slide.info.mpp)
        whole = slide.read(0, 0, 0, *slide.info.dimensions)
    assert low.downsample == 16.0
    assert np.abs(low.rgb - mean_of_blocks(whole, 16)).max() <= 0.51


@pytest.mark.parametrize(
    ("name", "mean", "most"),
    [
        ("slides/CMU-1-Small-Region.svs", 0.3, 3),
        ("real_liver/liver_margin_ink.tif", 0.3, 3),
        ("slides/TCGA-CR-7395-01A-01-TS1.svs", 2.0, 40),  # JPEG 2000 has another low-pass
    ],
)
@pytest.mark.parametrize("corner", [(0, 0), (512, 256), (88, 24), (5, 3), (-40, -16)])
def test_tiles_decoded_smaller_give_nearly_the_same_overview(
    data_dir: Path,
    name: str,
    mean: float,
    most: int,
    corner: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview, "SCALED_FROM_PX", 0)
    with open_slide(data_dir / name) as slide:
        width, height = slide.level_dimensions[0]
        x, y = corner
        region = Region(x=x, y=y, width=width - x, height=min(2500, height - y))
        scaled = _read_reduced(slide, 0, region, 16)
        averaged = _read_reduced(cast("Slide", Averaging(slide)), 0, region, 16)
    assert scaled.shape == averaged.shape
    apart = np.abs(scaled.astype(int) - averaged)
    assert apart.mean() <= mean
    assert apart.max() <= (0 if corner == (5, 3) else most)  # between pixels nothing is scaled


def test_no_native_tile_is_decoded_larger_than_needed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slide without low levels: what lies on whole eighths is not decoded at full size."""
    with open_slide(data_dir / "slides/CMU-1-Small-Region.svs") as slide:
        sizes = []
        decode = JpegTiles.decode

        def noted(tiles: JpegTiles, stored: bytes, out: RgbImage) -> None:
            sizes.append(out.shape[0])
            decode(tiles, stored, out)

        monkeypatch.setattr(JpegTiles, "decode", noted)
        monkeypatch.setattr(overview, "SCALED_FROM_PX", 2208 * 2960 - 1)
        whole = Region(x=0, y=0, width=2208, height=2960)
        assert read_low(slide, slide.info.mpp, region=whole).rgb.shape == (185, 138, 3)
    assert set(sizes) == {30}


@pytest.mark.parametrize("from_px", [0, 1 << 40])
def test_every_block_of_an_overview_is_a_sign_of_life(
    data_dir: Path, from_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class GivenUpError(Exception): ...

    def give_up() -> None:
        raise GivenUpError

    monkeypatch.setattr(overview, "SCALED_FROM_PX", from_px)
    beats: list[int] = []
    with open_slide(data_dir / "slides/CMU-1-Small-Region.svs") as slide:
        assert isinstance(slide, SlideReader)
        slide.beat = lambda: beats.append(1)
        read_low(slide, slide.info.mpp)
        assert len(beats) >= 4  # of 2,220 x 2,967 px in blocks of 2,048
        slide.beat = give_up
        with pytest.raises(GivenUpError):
            read_low(slide, slide.info.mpp)


@pytest.mark.parametrize("size", [(1, 1), (5, 3000)])
def test_odd_shapes_have_an_overview(size: tuple[int, int]) -> None:
    slide = Gradient(*size, (1.0, 2.0)) if min(size) > 1 else Gradient(*size)
    assert min(read_low(slide, 0.25).rgb.shape) >= 1
    assert max(slide.thumbnail(100).shape[:2]) <= 100
