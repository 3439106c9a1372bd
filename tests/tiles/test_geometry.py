"""From a slide's file to its tiles, against the slow way: read a whole level, cut, average.

The layout alone is tested in test_grid, block-wise reading of a level in memory in test_blocks;
here both meet real readers, pyramids whose downsamples are not whole, scanned parts, and workers.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_pipeline.errors import MppError, NoTissueError
from wsi_pipeline.pipeline.tile import run
from wsi_pipeline.slides import Slide, SlideInfo, open_slide, resolve_mpp
from wsi_pipeline.tiles import Grid, TileSettings, cut_slide, open_tiles, plan_grid, read_blocks
from wsi_pipeline.tiles.plan import plan_slide
from wsi_pipeline.types import Region, RgbImage
from wsi_pipeline.verbs.tiles import TileConfig

RNG = np.random.default_rng(11)
WIDTH, HEIGHT = 907, 651
SHRUNK = ((907, 651), (453, 325), (226, 163))  # by 2.0013 and 4.0035


@pytest.fixture(scope="module")
def levels() -> list[RgbImage]:
    """Noise, different on every level, so that a wrong level or place cannot hide."""
    return [RNG.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in SHRUNK]


@pytest.fixture(scope="module")
def pyramid(levels: list[RgbImage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyramid") / "uneven.tif"
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            tiff.write(
                level, tile=(64, 80), photometric="rgb", compression="zlib", metadata=None,
                subfiletype=int(number > 0),
            )  # fmt: skip
    return path


def averaged(square: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Reduce by area: each new pixel is the mean of what it covers, parts counted as parts."""
    length = square.shape[0]
    weights = np.zeros((side, length))
    for row in range(side):
        start, end = row * length / side, (row + 1) * length / side
        for pixel in range(int(start), min(int(np.ceil(end)), length)):
            weights[row, pixel] = min(end, pixel + 1) - max(start, pixel)
    weights /= length / side
    rows = np.tensordot(weights, square, axes=1)
    return np.tensordot(weights, rows, axes=(1, 1)).transpose(1, 0, 2)


def slowly(level: RgbImage, grid: Grid, index: int) -> NDArray[np.float64]:
    """The tile, from the whole level; white beyond the grid's area."""
    x, y = (int(v) for v in grid.corners(np.array([index]))[0])
    area, side = grid.area_level, grid.tile_px_level
    tile = np.full((side, side, 3), 255.0)
    right = min(x + side, area.x + area.width)
    bottom = min(y + side, area.y + area.height)
    tile[: bottom - y, : right - x] = level[y:bottom, x:right]
    return averaged(tile, grid.tile_px)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    mpp=st.floats(0.1, 1.2),
    ratio=st.floats(0.985, 6),
    tile_px=st.sampled_from([32, 48, 100]),
    overlap=st.floats(0, 0.6),
    edge=st.sampled_from(["drop", "pad"]),
    block_px=st.sampled_from([1, 100, 333, 2048]),
    reader=st.sampled_from(["openslide", "tiffslide"]),
    region=st.none()
    | st.builds(
        Region,
        x=st.integers(-20, 600),
        y=st.integers(-20, 400),
        width=st.integers(1, 900),
        height=st.integers(1, 600),
    ),
)
def test_tiles_of_a_file_equal_the_slow_way(
    pyramid: Path,
    levels: list[RgbImage],
    mpp: float,
    ratio: float,
    tile_px: int,
    overlap: float,
    edge: str,
    block_px: int,
    reader: str,
    region: Region | None,
) -> None:
    with open_slide(pyramid, reader=reader) as slide:
        assert slide.info.level_dimensions == SHRUNK
        grid = plan_grid(
            slide.info, mpp, mpp * ratio, tile_px=tile_px, overlap_px=int(overlap * tile_px),
            edge=edge, region=region,
        )  # fmt: skip
        wanted = RNG.permutation(len(grid))[:4]
        blocks = list(read_blocks(slide, grid, wanted, block_px=block_px))
        # OpenSlide interpolates on uneven levels; then its own whole level is the truth.
        level = slide.read(grid.level, 0, 0, *SHRUNK[grid.level])
    if grid.level == 0 or reader == "tiffslide":
        assert np.array_equal(level, levels[grid.level])
    check_layout(grid, region, edge)
    given_out = np.concatenate([b.indices for b in blocks]) if blocks else np.empty(0, int)
    assert given_out.tolist() == sorted(wanted.tolist())
    for block in blocks:
        for index, tile in zip(block.indices, block.tiles, strict=True):
            difference = np.abs(tile - slowly(level, grid, int(index)))
            assert difference.max() <= 1.0


def check_layout(grid: Grid, region: Region | None, edge: str) -> None:
    """In bounds, unique, in canonical order, covering what is claimed; in level-0 pixels."""
    coords, side = grid.coords(), grid.tile_px_level0
    assert len(np.unique(coords, axis=0)) == len(grid)
    order = np.lexsort((coords[:, 0], coords[:, 1]))
    assert (order == np.arange(len(grid))).all()
    left, top, right, bottom = 0, 0, WIDTH, HEIGHT
    if region is not None:
        left, top = max(0, region.x), max(0, region.y)
        right = min(WIDTH, region.x + region.width)
        bottom = min(HEIGHT, region.y + region.height)
    slack = 1.5 * grid.downsample  # of rounding to whole pixels of the level
    if not len(grid):
        small = min(right - left, bottom - top) < side + slack
        assert small if edge == "drop" else min(right - left, bottom - top) < slack
        return
    assert (coords.min(axis=0) >= (left - slack, top - slack)).all()
    ends = coords.max(axis=0) + side
    stride = grid.stride_px_level * grid.downsample
    for end, limit in zip(ends, (right, bottom), strict=True):
        if edge == "drop":
            assert end <= limit + slack
            assert end > limit - stride - slack, "no room for another tile"
        else:
            assert end >= limit - slack, "all is covered"
            assert end < limit + side + slack


@settings(max_examples=40, deadline=None)
@given(
    side=st.sampled_from([240, 254, 256, 512, 1024]),
    x=st.integers(0, 4000),
    y=st.integers(0, 4000),
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    edge=st.sampled_from(["drop", "pad"]),
)
def test_a_region_is_tiled_from_its_own_corner(
    side: int, x: int, y: int, width: int, height: int, edge: str
) -> None:
    """Coordinates stay those of the whole slide."""
    bounds = Region(x=x, y=y, width=width, height=height)
    info = info_of((10_000, 10_000), bounds=bounds)
    grid = plan_grid(info, 0.25, 0.25, tile_px=side, edge=edge, region=info.bounds)
    if edge == "pad" or min(width, height) >= side:
        assert grid.coords()[0].tolist() == [x, y]
    if edge == "drop":
        assert len(grid) == (width // side) * (height // side)
    else:
        assert len(grid) == -(-width // side) * -(-height // side)


def test_tiles_outside_the_scanned_part_are_not_wanted(data_dir: Path) -> None:
    """MIRAX: the grid is the slide's, and tissue is looked for within the bounds alone."""
    bounds = Region(x=500, y=700, width=1100, height=1300)
    with open_slide(data_dir / "slides/CMU-1-Small-Region.svs") as slide:
        whole = plan_slide(slide, TileSettings())
        slide.info = replace(slide.info, bounds=bounds)  # type: ignore[misc]
        part = plan_slide(slide, TileSettings())
    assert part.picture.origin == pytest.approx((500, 700), abs=8)
    np.testing.assert_array_equal(part.grid.coords(), whole.grid.coords())
    centres = part.grid.coords() + part.grid.tile_px_level0 / 2
    inside = ((centres >= (500, 700)) & (centres < (1600, 2000))).all(axis=1)
    assert part.wanted.sum() > 5
    assert not (part.wanted & ~inside).any()
    well_inside = ((centres >= (630, 830)) & (centres < (1470, 1870))).all(axis=1)
    assert (part.wanted == whole.wanted)[well_inside].mean() > 0.9


def info_of(
    *sizes: tuple[int, int], bounds: Region | None = None, mpp: tuple[float, float] | None = None
) -> SlideInfo:
    width, height = sizes[0]
    return SlideInfo(
        path="slide.mrxs", reader="test", reader_version="1", vendor="mirax",
        level_dimensions=sizes, level_downsamples=tuple(width / w for w, _ in sizes),
        mpp_x=mpp[0] if mpp else None, mpp_y=mpp[1] if mpp else None,
        mpp_source="test" if mpp else None, objective_power=None,
        bounds=bounds or Region(x=0, y=0, width=width, height=height), properties={},
        associated=(),
    )  # fmt: skip


@given(mpp=st.floats(0.1, 1.2), skew=st.floats(0, 0.2), flip=st.booleans())
def test_pixels_that_are_not_square_are_averaged_or_refused(
    mpp: float, skew: float, flip: bool
) -> None:
    pair = (mpp, mpp * (1 + skew))
    info = info_of((5000, 5000), mpp=pair[::-1] if flip else pair)
    if skew > 0.0501:
        with pytest.raises(MppError, match="pixels should be square"):
            resolve_mpp(info)
    elif skew < 0.0499:
        resolved = resolve_mpp(info).mpp
        assert resolved == pytest.approx(sum(pair) / 2)
        grid = plan_grid(info, resolved, resolved * 2)
        assert grid.tile_px_level == 512
        assert grid.effective_mpp == pytest.approx(resolved * 2)


def test_a_slide_smaller_than_one_tile(tmp_path: Path) -> None:
    path = tmp_path / "small.tif"
    tissue = RNG.integers(120, 180, (90, 130, 3), dtype=np.uint8)
    tifffile.imwrite(path, tissue, photometric="rgb", rowsperstrip=7)
    asked = {"mpp_override": 0.5, "tissue_method": "none", "stain": "none"}
    with pytest.raises(NoTissueError, match="less than one tile of 256"):
        cut_slide(path, tmp_path / "a.zarr", TileSettings(**asked))
    with open_slide(path) as slide:
        grid = plan_grid(slide.info, 0.5, edge="pad")
        (block,) = read_blocks(slide, grid, np.array([0]))
    assert np.array_equal(block.tiles[0, :90, :130], tissue)
    assert (block.tiles[0, 90:] == 255).all()
    assert (block.tiles[0, :, 130:] == 255).all()


@pytest.mark.parametrize("reader", ["image", "tiffslide"])
def test_strips_are_as_good_as_tiles(tmp_path: Path, reader: str) -> None:
    pixels = RNG.integers(0, 256, (400, 500, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "strips.tif", pixels, photometric="rgb", rowsperstrip=9)
    with open_slide(tmp_path / "strips.tif", reader=reader) as slide:
        check_all_tiles(slide, pixels)


def check_all_tiles(slide: Slide, pixels: RgbImage) -> None:
    grid = plan_grid(slide.info, 0.25, 0.5, tile_px=64)
    for block in read_blocks(slide, grid, np.arange(len(grid))):
        for index, tile in zip(block.indices, block.tiles, strict=True):
            assert np.abs(tile - slowly(pixels, grid, int(index))).max() <= 1.0


def test_workers_change_nothing(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "slides/CMU-1-Small-Region.svs"
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.svs").symlink_to(source)
    for workers in (0, 2):
        config = TileConfig(cohort=folder, run=tmp_path / str(workers), workers=workers)
        assert len(list(run(config))) > 2
    for name in ("a", "b"):
        one, other = (open_tiles(tmp_path / run_ / "tiles" / f"{name}.zarr") for run_ in "02")
        assert np.array_equal(one.coords, other.coords)
        assert np.array_equal(one.tiles[:], other.tiles[:])
