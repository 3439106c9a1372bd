"""Which tiles of a slide are worth reading: resolution, overview, tissue, grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import MppError, NoTissueError, SlideError
from wsi_pipeline.slides import (
    LowImage,
    Slide,
    SlideInfo,
    own_mpp,
    read_low,
    reduce_area,
    resolve_mpp,
)
from wsi_pipeline.tiles.annotated import (
    TileClasses,
    allowed,
    classify,
    corrected_tissue,
    read_regions,
)
from wsi_pipeline.tiles.grid import Grid, coarsest_level, plan_grid
from wsi_pipeline.tiles.settings import (
    OVERVIEW_MPP,
    WHOLE_SLIDE,
    SlideRequest,
    TileSettings,
)
from wsi_pipeline.tiles.straighten import can_turn
from wsi_pipeline.tissue import Tissue, find_tissue, tissue_fractions
from wsi_pipeline.types import Mask, Region

if TYPE_CHECKING:  # what reads drawings is imported when there is one
    from wsi_pipeline.tissue import Annotation

PICTURE_PX: Final = 900  # least length of the thumbnail's longest side, where the slide has it
SURROUNDINGS: Final = 0.25  # of a region's side, on each side
NOT_STRAIGHTENED: Final = "not_straightened"  # asked for, but no flat image
MOST_REPLACED: Final = 0.1  # relative, of the file's own resolution, without being forced
UNKNOWN_PX: Final = 2048  # the same for a slide without resolution, on which tissue is looked for


@dataclass(frozen=True, kw_only=True)
class SlidePlan:
    """A slide before its tiles are read.

    Attributes:
        mpp: Level-0 resolution, µm/px; None where unknown.
        mpp_source: Where it came from.
        mpp_file: What the file itself says, µm/px; None if nothing usable.
        picture: The scanned part, or the region asked for and some of what surrounds it, at
            8 µm/px or finer: for people.
        tissue: On an overview of the same area at about 8 µm/px.
        tissue_downsample: Level-0 pixels per pixel of the tissue mask.
        glass: (3,) uint8, colour of empty glass.
        grid: All tile places.
        tissue_fraction: (len(grid),) float32.
        wanted: (len(grid),) bool; places with enough tissue.
        region: The part of the slide that was asked for, level-0 px; None for the whole.
        classes: What regions drawn on the slide call its tile places; None without regions.
        annotations: Those regions, level-0 px.
    """

    mpp: float | None
    mpp_source: str
    mpp_file: float | None
    picture: LowImage
    tissue: Tissue
    tissue_downsample: float
    glass: NDArray[np.uint8]
    grid: Grid
    tissue_fraction: NDArray[np.float32]
    wanted: NDArray[np.bool_]
    region: Region | None = None
    classes: TileClasses | None = None
    annotations: "Sequence[Annotation]" = ()

    def tissue_in(self, indices: NDArray[np.integer[Any]]) -> Mask:
        """Return (n, tile_px, tile_px) bool: the tissue mask at the tiles' resolution."""
        offset = (np.arange(self.grid.tile_px) + 0.5) * self.grid.tile_px_level0 / self.grid.tile_px
        start = self.grid.coords(indices) - np.array(self.picture.origin)
        places = (start[:, :, None] + offset) / self.tissue_downsample  # (n, 2, tile_px)
        height, width = self.tissue.mask.shape
        columns = np.clip(places[:, 0].astype(np.int64), 0, width - 1)
        rows = np.clip(places[:, 1].astype(np.int64), 0, height - 1)
        found = np.empty((len(indices), self.grid.tile_px, self.grid.tile_px), np.bool_)
        for tile, row, column in zip(found, rows, columns, strict=True):
            seen = self.tissue.mask[row[0] : row[-1] + 1, column[0] : column[-1] + 1]
            np.take(seen.take(column - column[0], axis=1), row - row[0], axis=0, out=tile)
        return found


def plan_slide(
    slide: Slide, settings: TileSettings, request: SlideRequest = WHOLE_SLIDE
) -> SlidePlan:
    """Find the tissue and lay out the tiles, of which at least one is worth reading.

    Raises:
        MppError: The resolution is missing, implausible, or coarser than asked.
        NoTissueError: No tile place has enough tissue.
        SlideReadError: The overview cannot be decoded.
        SlideError: What was drawn on the slide cannot be read.
    """
    plan = survey_slide(slide, settings, request)
    require_tissue(slide.info.path, plan, settings)
    return plan


def survey_slide(
    slide: Slide, settings: TileSettings, request: SlideRequest = WHOLE_SLIDE
) -> SlidePlan:
    """Like :func:`plan_slide`, but a slide on which nothing is worth reading gives a plan too."""
    info = slide.info
    mpp, source = native_mpp(slide, settings, request)
    grid = grid_for(info, mpp, settings, request.region)
    area = info.bounds if request.region is None else _with_surroundings(request.region, info)
    picture = _read_picture(slide, mpp, area)
    overview = _overview(picture, mpp)
    regions = _regions(slide, settings, request)
    tissue = _tissue(info, overview, mpp, settings, request)
    inside = allowed(regions, overview, only=settings.annotated_only)
    tissue = replace(tissue, mask=tissue.mask & inside)
    if settings.straighten and not can_turn(slide, request):
        tissue = replace(tissue, flags=(*tissue.flags, NOT_STRAIGHTENED))
    if settings.crop_to_tissue and tissue.mask.any():
        grid = grid_for(info, mpp, settings, _around_tissue(tissue.mask, overview, grid))
    fraction = tissue_fractions(
        tissue.mask, grid.coords(), grid.tile_px_level0, overview.downsample, overview.origin
    )
    return SlidePlan(
        mpp=mpp,
        mpp_source=source,
        mpp_file=own_mpp(info),
        picture=picture,
        tissue=tissue,
        tissue_downsample=overview.downsample,
        glass=np.rint(tissue.glass).astype(np.uint8),
        grid=grid,
        tissue_fraction=fraction,
        wanted=(fraction >= settings.min_tissue_fraction) & (fraction > 0),
        region=request.region,
        classes=classify(regions, grid, settings.min_annotation_overlap) if regions else None,
        annotations=regions,
    )


def require_tissue(path: str, plan: SlidePlan, settings: TileSettings) -> None:
    """Refuse a plan in which no tile is wanted.

    Raises:
        NoTissueError: As said.
    """
    grid, area = plan.grid, plan.grid.area_level
    if not len(grid):
        raise NoTissueError(
            f"{path}: {area.width}×{area.height} px are less than one tile of "
            f"{grid.tile_px_level}; pad the edges, or ask for a finer mpp"
        )
    if not plan.wanted.any():
        raise NoTissueError(
            f"{path}: of {len(grid)} tile places none has {settings.min_tissue_fraction:.0%} "
            f"tissue (method {settings.tissue_method}); look at the thumbnail, then try another "
            f"method or a lower share"
        )


def grid_for(
    info: SlideInfo, mpp: float | None, settings: TileSettings, region: Region | None
) -> Grid:
    """Lay out the tile places of the slide or of a region of it, level-0 px.

    Raises:
        MppError: The slide is coarser than asked.
    """
    return plan_grid(
        info, mpp, settings.mpp, tile_px=settings.tile_px, overlap_px=settings.overlap_px,
        edge=settings.edge, region=region, allow_coarser=settings.allow_coarser,
    )  # fmt: skip


def _around_tissue(mask: Mask, overview: LowImage, grid: Grid) -> Region:
    """Return the tissue's bounding box, level-0 px, grown right and down to whole tiles."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = (
        overview.origin[i] + ends[0] * overview.downsample for i, ends in ((0, columns), (1, rows))
    )
    right = overview.origin[0] + (columns[-1] + 1) * overview.downsample
    bottom = overview.origin[1] + (rows[-1] + 1) * overview.downsample
    return Region(
        x=int(x),
        y=int(y),
        width=_whole_tiles(right - int(x), grid),
        height=_whole_tiles(bottom - int(y), grid),
    )


def _whole_tiles(extent: float, grid: Grid) -> int:
    """Return the length, level-0 px, of the fewest tiles that cover ``extent`` level-0 px."""
    side, stride = grid.tile_px_level, grid.stride_px_level
    steps = max(0, int(np.ceil((extent / grid.downsample - side) / stride)))
    return int(np.ceil((steps * stride + side + 1) * grid.downsample))


def native_mpp(
    slide: Slide, settings: TileSettings, request: SlideRequest
) -> tuple[float | None, str]:
    """Return the slide's resolution, µm/px, and where it comes from; None and ``unknown``.

    Raises:
        MppError: It is missing or implausible, and unknown ones are not to be cut; or what is to
            replace it is far from what the file says.
    """
    info, given = slide.info, request.mpp_given(settings)
    own = own_mpp(info)
    if request.mpp is None and given is not None and own is not None and not settings.force_mpp:
        off = abs(given / own - 1)
        if off > MOST_REPLACED:
            raise MppError(
                f"{info.path}: the file says {own:.4g} µm/px, --mpp-override {given:g} is off by "
                f"{off:.0%}; leave it out (--mpp-default is for files that say nothing), or pass "
                "--force-mpp"
            )
    if given is None and info.mpp is None and settings.mpp_default is not None:
        return resolve_mpp(info, settings.mpp_default).mpp, "default"
    try:
        resolved = resolve_mpp(info, given)
    except MppError:
        if settings.takes_unknown_mpp and info.mpp is None:
            return None, "unknown"
        raise
    return resolved.mpp, resolved.source


def _read_picture(slide: Slide, mpp: float | None, area: Region) -> LowImage:
    """Read ``area`` once, fine enough for people and for finding tissue."""
    longest = max(area.width, area.height)
    if mpp is None:
        target = max(1.0, longest / UNKNOWN_PX)
    else:
        target = max(1.0, min(OVERVIEW_MPP / mpp, longest / PICTURE_PX))
    downsamples = slide.info.level_downsamples
    base = downsamples[coarsest_level(downsamples, target)]
    return read_low(slide, 1.0, base * max(1, int(target / base)), area)


def _overview(picture: LowImage, mpp: float | None) -> LowImage:
    """Reduce the picture to about 8 µm/px."""
    if mpp is None:
        return picture
    factor = max(1, round(OVERVIEW_MPP / (mpp * picture.downsample)))
    return LowImage(
        rgb=reduce_area(picture.rgb, factor),
        downsample=picture.downsample * factor,
        origin=picture.origin,
    )


def _with_surroundings(region: Region, info: SlideInfo) -> Region:
    """Add glass around a region, without which tissue is hard to tell; stay on the slide."""
    width, height = info.dimensions
    add_x, add_y = round(SURROUNDINGS * region.width), round(SURROUNDINGS * region.height)
    left, right = max(0, region.x - add_x), min(width, region.x + region.width + add_x)
    top, bottom = max(0, region.y - add_y), min(height, region.y + region.height + add_y)
    return Region(x=left, y=top, width=max(1, right - left), height=max(1, bottom - top))


def _regions(slide: Slide, settings: TileSettings, request: SlideRequest) -> "list[Annotation]":
    if request.is_drawn and settings.straighten and can_turn(slide, request):
        raise SlideError(
            f"{slide.info.path}: what was drawn on it would no longer fit once it is turned; "
            "leave --straighten out"
        )
    return read_regions(slide.info, request.annotations, settings)


def _tissue(
    info: SlideInfo,
    overview: LowImage,
    mpp: float | None,
    settings: TileSettings,
    request: SlideRequest,
) -> Tissue:
    um_per_px = None if mpp is None else mpp * overview.downsample
    tissue = corrected_tissue(info, overview, request.mask, settings)
    if tissue is None:
        tissue = find_tissue(overview.rgb, um_per_px, settings.tissue_method)
    if request.region is None:
        return tissue
    return tissue.within(_inside(overview, request.region))


def _inside(overview: LowImage, region: Region) -> Mask:
    """Return (H, W) bool: the ellipse inscribed in the region, on the overview."""
    height, width = overview.rgb.shape[:2]
    x = overview.origin[0] + (np.arange(width) + 0.5) * overview.downsample
    y = overview.origin[1] + (np.arange(height) + 0.5) * overview.downsample
    across = (x - region.x) / region.width * 2 - 1  # -1 to 1 within the region
    down = ((y - region.y) / region.height * 2 - 1)[:, None]
    return np.asarray(across**2 + down**2 <= 1, dtype=np.bool_)
