"""A slide's layout in tiles: in bounds, unique, complete, in order; and figures worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError, MppError
from wsi_pipeline.slides import SlideInfo
from wsi_pipeline.tiles import Grid, plan_grid
from wsi_pipeline.types import Region


def info_of(*sizes: tuple[int, int]) -> SlideInfo:
    """A slide of these levels; downsamples as OpenSlide has them, the mean of both axes."""
    width, height = sizes[0]
    return SlideInfo(
        path="slide.svs",
        reader="test",
        reader_version="1",
        vendor="test",
        level_dimensions=sizes,
        level_downsamples=tuple((width / w + height / h) / 2 for w, h in sizes),
        mpp_x=None,
        mpp_y=None,
        mpp_source=None,
        objective_power=None,
        bounds=Region(x=0, y=0, width=width, height=height),
        properties={},
        associated=(),
    )


def layout(grid: Grid) -> tuple[int, int, int, int]:
    return grid.columns, grid.rows, grid.level, grid.tile_px_level


@pytest.mark.parametrize(
    ("sizes", "mpp", "target", "expected", "effective"),
    [
        ([(2220, 2967)], 0.499, 0.5, (8, 11, 0, 256), 0.499),  # within 2 %: pixels as they are
        ([(2220, 2967)], 0.25, 0.5, (4, 5, 0, 512), 0.5),
        ([(22792, 22816)], 0.2630, 0.5, (46, 46, 0, 487), 0.2630 * 487 / 256),
        ([(4000, 4000), (1000, 1000), (250, 250)], 0.25, 0.5, (7, 7, 0, 512), 0.5),
        ([(4000, 4000), (1000, 1000), (250, 250)], 0.25, 1.0, (3, 3, 1, 256), 1.0),
        ([(4000, 4000), (1000, 1000), (250, 250)], 0.25, 2.0, (1, 1, 1, 512), 2.0),
        ([(4000, 4000), (1000, 1000), (250, 250)], 0.25, 4.0, (0, 0, 2, 256), 4.0),
        ([(4000, 4000), (1000, 1000)], 0.2525, 1.0, (3, 3, 1, 256), 1.01),
        ([(512, 256)], 0.508, 0.5, (2, 1, 0, 256), 0.508),
    ],
)
def test_layouts_worked_out_by_hand(
    sizes: list[tuple[int, int]],
    mpp: float,
    target: float,
    expected: tuple[int, int, int, int],
    effective: float,
) -> None:
    grid = plan_grid(info_of(*sizes), mpp, target)
    assert layout(grid) == expected
    assert grid.effective_mpp == pytest.approx(effective)
    assert grid.flags == ()


def test_coordinates_worked_out_by_hand() -> None:
    grid = plan_grid(info_of((1100, 600)), 0.25, 0.5)
    assert grid.coords().tolist() == [[0, 0], [512, 0]]
    padded = plan_grid(info_of((1100, 600)), 0.25, 0.5, edge="pad")
    assert padded.coords().tolist() == [
        [0, 0], [512, 0], [1024, 0], [0, 512], [512, 512], [1024, 512]
    ]  # fmt: skip
    assert padded.coords(np.array([4, 2])).tolist() == [[512, 512], [1024, 0]]
    overlapping = plan_grid(info_of((1100, 600)), 0.25, 0.5, overlap_px=128)
    assert overlapping.coords().tolist() == [[0, 0], [256, 0], [512, 0]]
    core = Region(x=100, y=40, width=1000, height=520)
    assert plan_grid(info_of((1100, 600)), 0.25, 0.5, region=core).coords().tolist() == [[100, 40]]


def test_a_downsample_that_is_not_whole_is_kept_in_level_0_coordinates() -> None:
    grid = plan_grid(info_of((10001, 10001), (2500, 2500)), 0.25, 1.0)
    assert grid.downsample == 4.0004
    assert (grid.columns, grid.rows) == (9, 9)
    assert grid.coords()[-1].tolist() == [8193, 8193]  # 8 × 256 × 4.0004 = 8192.8
    assert grid.corners()[-1].tolist() == [2048, 2048]
    assert grid.tile_px_level0 == pytest.approx(1024.1024)


def test_a_slide_smaller_than_a_tile() -> None:
    small = info_of((200, 300))
    assert len(plan_grid(small, 0.5)) == 0
    assert plan_grid(small, 0.5).coords().shape == (0, 2)
    padded = plan_grid(small, 0.5, edge="pad")
    assert layout(padded) == (1, 2, 0, 256)


def test_unknown_mpp_takes_native_pixels() -> None:
    grid = plan_grid(info_of((856, 856), (428, 428)), None, 0.5)
    assert layout(grid) == (3, 3, 0, 256)
    assert grid.effective_mpp is None
    assert grid.flags == ("mpp_unknown",)


def test_a_coarser_slide_is_refused_unless_allowed() -> None:
    with pytest.raises(MppError, match=r"slide\.svs: 0\.52 µm/px is coarser than the 0\.5"):
        plan_grid(info_of((856, 856)), 0.52, 0.5)
    grid = plan_grid(info_of((856, 856)), 0.52, 0.5, allow_coarser=True)
    assert layout(grid) == (3, 3, 0, 256)
    assert grid.effective_mpp == 0.52
    assert grid.flags == ("coarser_than_target",)


@pytest.mark.parametrize("overlap_px", [-1, 256, 300])
def test_impossible_overlaps_are_refused(overlap_px: int) -> None:
    with pytest.raises(ConfigError, match="overlap_px"):
        plan_grid(info_of((856, 856)), 0.5, overlap_px=overlap_px)


@st.composite
def grids(draw: st.DrawFn, edge: str) -> Grid:
    width, height = draw(st.integers(1, 9000)), draw(st.integers(1, 9000))
    sizes = [(width, height)]
    for _ in range(draw(st.integers(0, 3))):
        step = draw(st.sampled_from([2, 3, 4]))
        sizes.append((max(1, sizes[-1][0] // step), max(1, sizes[-1][1] // step)))
    x, y = st.integers(-50, width), st.integers(-50, height)
    extent = st.integers(0, 9000)
    region = draw(st.none() | st.builds(Region, x=x, y=y, width=extent, height=extent))
    tile_px = draw(st.sampled_from([64, 100, 256]))
    mpp = draw(st.floats(0.1, 1.0))
    return plan_grid(
        info_of(*sizes), mpp, mpp * draw(st.floats(0.99, 9)), tile_px=tile_px, edge=edge,
        overlap_px=draw(st.integers(0, tile_px // 2)), region=region,
    )  # fmt: skip


def check_common(grid: Grid) -> None:
    assert grid.target_mpp is not None
    assert grid.effective_mpp is not None
    rounding = 0.5 / (grid.tile_px_level - 0.5)
    tolerance = max(0.02, rounding) if grid.tile_px_level == grid.tile_px else rounding
    assert grid.effective_mpp == pytest.approx(grid.target_mpp, rel=tolerance + 1e-6)
    assert grid.tile_px_level >= grid.tile_px, "never enlarged"
    coords = grid.coords()
    assert coords.dtype == np.int64
    assert len(coords) == len(grid)
    right, down = np.diff(coords, axis=0).T
    assert ((down > 0) | ((down == 0) & (right > 0))).all(), "row by row, no tile twice"
    np.testing.assert_array_equal(coords, np.rint(grid.corners() * grid.downsample))


@settings(deadline=None)
@given(grid=grids("drop"))
def test_dropped_edges_stay_in_bounds_and_leave_no_room_for_another_tile(grid: Grid) -> None:
    check_common(grid)
    area, side, stride = grid.area_level, grid.tile_px_level, grid.stride_px_level
    for axis, start, extent, count in (
        (0, area.x, area.width, grid.columns),
        (1, area.y, area.height, grid.rows),
    ):
        assert (count - 1) * stride + side <= extent or count == 0
        assert count * stride + side > extent
        if len(grid):
            corners = grid.corners()[:, axis]
            assert corners.min() == start
            assert corners.max() + side <= start + extent


@settings(deadline=None)
@given(grid=grids("pad"))
def test_padded_edges_cover_all_of_the_area_without_a_tile_to_spare(grid: Grid) -> None:
    check_common(grid)
    area, side, stride = grid.area_level, grid.tile_px_level, grid.stride_px_level
    assert stride <= side, "no gaps between neighbours"
    assert (len(grid) == 0) == (area.width <= 0 or area.height <= 0)
    for extent, count in ((area.width, grid.columns), (area.height, grid.rows)):
        if extent > 0:
            assert (count - 1) * stride + side >= extent
            assert count == 1 or (count - 2) * stride + side < extent
