"""What a tile store says about itself, and the picture in which a person checks it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.pictures import write_picture
from wsi_pipeline.slides import Slide
from wsi_pipeline.tiles.annotated import COLUMN, NO_CLASS
from wsi_pipeline.tiles.finish import UNREADABLE, Finished, SlideFit, Tally
from wsi_pipeline.tiles.flags import FLAGS, NO_FLAG
from wsi_pipeline.tiles.plan import SlidePlan
from wsi_pipeline.tiles.reference import stain_reference
from wsi_pipeline.tiles.settings import TileSettings
from wsi_pipeline.tiles.straighten import StraightSlide, TurnedCore
from wsi_pipeline.tissue import (
    KEPT,
    NAMELESS,
    LeftOut,
    Outline,
    TileLayer,
    class_colours,
    draw_overlay,
    tissue_tilt,
)
from wsi_pipeline.types import Coords

SAME_MPP: Final = 1e-3  # relative
THUMBNAIL_PX: Final = 1600  # longest side, at most
JPEG_QUALITY: Final = 88
SHARE_THAT_FLAGS: Final = 0.1  # of a slide's tiles: so many flagged ones flag the slide


def describe_slide(slide: Slide) -> dict[str, Any]:
    """Return attributes that name the input and what read it."""
    info = slide.info
    width, height = info.level_dimensions[0]
    ct = {
        name.removeprefix("ct."): text
        for name, text in info.properties.items()
        if name.startswith("ct.")
    }
    turned = slide.to_attributes() if isinstance(slide, StraightSlide | TurnedCore) else None
    return {
        "slide": info.path.rstrip("/").rsplit("/", 1)[-1],
        "reader": info.reader,
        "reader_version": info.reader_version,
        "vendor": info.vendor,
        "objective_power": info.objective_power,
        "level0_width": width,
        "level0_height": height,
        "bounds_level0": asdict(info.bounds),
        "icc_profile": info.properties.get("icc.description"),
        "icc_applied": "icc.applied" in info.properties,
        "straightened": turned,
        **({"ct": ct} if ct else {}),
    }


def describe_tiles(
    plan: SlidePlan, fit: SlideFit, settings: TileSettings, tally: Tally
) -> dict[str, Any]:
    """Return attributes that say where the tiles lie, what was done to them and to the others."""
    grid, tissue = plan.grid, plan.tissue
    return {
        "mpp_requested": settings.mpp,
        "mpp_native": plan.mpp,
        "mpp_file": plan.mpp_file,
        "mpp_source": plan.mpp_source,
        "mpp_effective": grid.effective_mpp,
        "level": grid.level,
        "level_downsample": grid.downsample,
        "tile_px_level": grid.tile_px_level,
        "tile_px_level0": grid.tile_px_level0,
        "overlap_px": settings.overlap_px,
        "columns": grid.columns,
        "rows": grid.rows,
        "region_level0": None if plan.region is None else asdict(plan.region),
        "denoise": _denoise(settings),
        "cropped_level0": _cropped(plan, settings),
        "tissue": {
            "method": tissue.method,
            "thresholds": dict(tissue.thresholds),
            "flags": list(tissue.flags),
            "left_out": [_left_out(one, plan) for one in tissue.left_out],
            "downsample": plan.tissue_downsample,
            "tilt": asdict(tissue_tilt(tissue.mask)),
        },
        "annotation_classes": None if plan.classes is None else list(plan.classes.names),
        "annotation_colours": {
            name: list(rgb) for name, rgb in class_colours(plan.annotations).items()
        },
        "stain": fit.stain.to_attributes(),
        "stain_reference": stain_reference(settings).to_attributes(),
        "background_level": fit.background_level,
        **fit.rules.numbers(),
        "flag_limits": dict(fit.rules.limits),
        "dropped_flags": list(fit.drop),
        "counts": dict(sorted(tally.counts.items())),
        UNREADABLE: _unreadable(plan, tally),
        "flags": list(slide_flags(plan, fit, tally)),
    }


def _left_out(piece: LeftOut, plan: SlidePlan) -> dict[str, Any]:
    """Return a piece that is no tissue: its area, why, and its box as level-0 x0, y0, x1, y1."""
    x, y = plan.picture.origin
    scaled = [value * plan.tissue_downsample for value in piece.box]
    box = [round(value + start) for value, start in zip(scaled, (x, y, x, y), strict=True)]
    return {"area_mm2": round(piece.area_um2 / 1e6, 4), "reason": piece.reason, "box_level0": box}


def slide_flags(plan: SlidePlan, fit: SlideFit, tally: Tally) -> tuple[str, ...]:
    """Return what a person should know of the slide: of its tissue, grid, stain and tiles."""
    stain = tuple(f"stain_{flag}" for flag in fit.stain.flags)
    replaced = _replaced_mpp(plan)
    marks = tuple(
        name
        for name in FLAGS
        if tally.counts[f"flagged_{name}"] > SHARE_THAT_FLAGS * tally.counts["kept"]
    )
    lost = (UNREADABLE,) if tally.unreadable.reasons else ()
    return (*replaced, *plan.grid.flags, *plan.tissue.flags, *stain, *fit.flags, *marks, *lost)


def _unreadable(plan: SlidePlan, tally: Tally) -> dict[str, Any] | None:
    """Return where tiles were lost, level-0 (x, y), and what the reader said of the first."""
    indices = tally.unreadable.indices()
    if not len(indices):
        return None
    return {
        "coords": plan.grid.coords(indices).tolist(),
        "reason": tally.unreadable.reasons[int(indices[0])],
    }


def _replaced_mpp(plan: SlidePlan) -> tuple[str, ...]:
    """Say that a person's resolution stands in the place of the file's, if it does."""
    own, used = plan.mpp_file, plan.mpp
    if own is None or used is None or abs(used / own - 1) < SAME_MPP:
        return ()
    return (f"mpp {own:.4g} of the file replaced by {used:.4g}",)


def _denoise(settings: TileSettings) -> dict[str, Any] | None:
    if settings.denoise == "none":
        return None
    return {"method": settings.denoise, "radius_px": settings.denoise_radius_px}


def _cropped(plan: SlidePlan, settings: TileSettings) -> dict[str, float] | None:
    """Return the area that the grid covers if it is anchored at the tissue, level-0 px."""
    if not settings.crop_to_tissue:
        return None
    area = asdict(plan.grid.area_level)
    return {name: value * plan.grid.downsample for name, value in area.items()}


@dataclass(frozen=True, kw_only=True)
class PlacedTiles:
    """Where n kept tiles lie and how they are drawn.

    Attributes:
        coords: (n, 2) int64 level-0 (x, y).
        flagged: (n,) int8, as in :class:`Finished`.
        classes: (n,) int32, position in the slide's annotation classes or ``NO_CLASS``.
    """

    coords: Coords
    flagged: NDArray[np.int8]
    classes: NDArray[np.int32]

    @classmethod
    def of(cls, tiles: Finished) -> Self:
        """Take over what is drawn of finished tiles; their pixels are soon others'."""
        none = np.full(len(tiles.coords), NO_CLASS, np.int32)
        classes = np.asarray(tiles.columns.get(COLUMN, none), np.int32)
        return cls(coords=tiles.coords, flagged=tiles.flagged, classes=classes)


def write_thumbnail(path: Path, plan: SlidePlan, tiles: Sequence[PlacedTiles]) -> None:
    """Write a JPEG of the area: tissue outline, drawn regions, kept and flagged tiles."""
    picture = plan.picture.rgb
    scale = min(1.0, THUMBNAIL_PX / max(picture.shape[:2]))
    if scale < 1:
        size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    per_px = plan.picture.downsample / scale
    drawn = draw_overlay(
        picture,
        plan.tissue.mask,
        list(_layers(plan, tiles, per_px)) if tiles else [],
        plan.tissue.left_out_mask(),
        list(_outlines(plan, per_px)),
    )
    write_picture(path, drawn, JPEG_QUALITY)


def _layers(plan: SlidePlan, tiles: Sequence[PlacedTiles], per_px: float) -> Iterator[TileLayer]:
    """Kept tiles in their annotation class's colour, flagged ones filled with their flag's."""
    start = (np.concatenate([one.coords for one in tiles]) - np.array(plan.picture.origin)) / per_px
    boxes = np.concatenate([start, start + plan.grid.tile_px_level0 / per_px], axis=1)
    flagged = np.concatenate([one.flagged for one in tiles])
    classes = np.concatenate([one.classes for one in tiles])
    colours, names = class_colours(plan.annotations), plan.classes.names if plan.classes else ()
    plain = flagged == NO_FLAG
    yield TileLayer(boxes=boxes[plain & (classes == NO_CLASS)], colour=KEPT)
    for position, name in enumerate(names):
        yield TileLayer(boxes=boxes[plain & (classes == position)], colour=colours[name])
    for position, flag in enumerate(FLAGS.values()):
        yield TileLayer(boxes=boxes[flagged == position], colour=flag.colour, filled=True)


def _outlines(plan: SlidePlan, per_px: float) -> Iterator[Outline]:
    colours, origin = class_colours(plan.annotations), np.array(plan.picture.origin)
    for region in plan.annotations:
        rings = [ring for part in region.area.geoms for ring in (part.exterior, *part.interiors)]
        yield Outline(
            rings=[(np.asarray(ring.coords)[:, :2] - origin) / per_px for ring in rings],
            colour=NAMELESS if region.label is None else colours[region.label],
        )
