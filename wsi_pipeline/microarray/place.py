"""Find the cores of a microarray slide, join them with its core map, draw them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from wsi_pipeline.cohort import MappedCore, safe_id
from wsi_pipeline.errors import CohortError, ConfigError, NoTissueError, SlideError
from wsi_pipeline.microarray.dearray import (
    Core,
    Dearray,
    JoinedCore,
    core_name,
    dearray,
    join_core_map,
)
from wsi_pipeline.microarray.preview import CoreMark, draw_marks
from wsi_pipeline.microarray.table import PlacedCore, is_control, place_name
from wsi_pipeline.slides import LowImage, Slide, open_slide, read_low, resolve_mpp
from wsi_pipeline.types import Region, RgbImage

OVERVIEW_PX: Final = 1600  # longest side, about
MARGIN: Final = 1.1  # of a core's diameter

Naming = Literal["letters", "numbers"]
MarkKind = Literal["core", "control", "missing", "unmapped"]


@dataclass(frozen=True, kw_only=True)
class CoreSearch:
    """How cores are looked for.

    Attributes:
        reader: Name of the slide reader.
        mpp_override: Level-0 resolution, µm/px; None takes the file's own, if it has one.
        core_diameter_um: The cores' diameter where it is known; None measures it.
        naming: Where there is no core map: ``letters`` is A1, ``numbers`` 1-1.
    """

    reader: str = "auto"
    mpp_override: float | None = None
    core_diameter_um: float | None = None
    naming: Naming = "letters"


@dataclass(frozen=True, kw_only=True)
class Microarray:
    """A TMA slide with its cores in their places.

    Attributes:
        picture: (H, W, 3) uint8, every core's outline, name and label.
        cores: The rows of the core map, or all places of the grid where there is no map.
        array: The grid, in pixels of the overview.
        downsample: Level-0 pixels per pixel of the overview.
        mpp: Level-0 resolution, µm/px; None where unknown.
        unmapped: Names of cores found that the map does not know.
    """

    picture: RgbImage
    cores: list[PlacedCore]
    array: Dearray
    downsample: float
    mpp: float | None
    unmapped: tuple[str, ...]


def place_cores(
    path: str | Path, mapped: Sequence[MappedCore] | None, search: CoreSearch | None = None
) -> Microarray:
    """Find a TMA slide's cores and join them with its core map.

    Args:
        path: The slide, or a flat picture of it; a URL will do.
        mapped: Its core map; None names every place after the grid.
        search: How to look for them.

    Raises:
        SlideError: It cannot be read, no cores are found, or the map does not fit them.
        ConfigError: A core diameter in µm for a slide of unknown resolution.
    """
    search = search or CoreSearch()
    with open_slide(path, search.reader) as slide:
        mpp = _mpp(slide, search)
        overview = _read_overview(slide)
    um_per_px = None if mpp is None else mpp * overview.downsample
    try:
        array = dearray(overview.rgb, um_per_px, search.core_diameter_um)
        rows = _named(path, array, search.naming) if mapped is None else mapped
        joined = join_core_map(array, rows)
    except (NoTissueError, CohortError) as error:
        raise SlideError(f"{path}: {error}") from error
    unmapped = _unmapped(array, joined)
    marks = [_mark(row) for row in joined if row.core is not None]
    marks += [_mark_core(core, core.name, "", "unmapped") for core in unmapped]
    return Microarray(
        picture=draw_marks(overview.rgb, marks),
        cores=[
            PlacedCore(
                mapped=row.mapped,
                region=_place(overview, row.core),
                control=is_control(row.mapped),
                tilt_deg=round(array.rotation_deg, 2),
            )
            for row in joined
        ],
        array=array,
        downsample=overview.downsample,
        mpp=mpp,
        unmapped=tuple(core.name for core in unmapped),
    )


def picture_cores(path: str | Path, cores: Iterable[PlacedCore], reader: str = "auto") -> RgbImage:
    """Draw cores where a table, perhaps corrected by hand, says that they are.

    Raises:
        SlideError: The slide cannot be read.
    """
    with open_slide(path, reader) as slide:
        overview = _read_overview(slide)
    marks = []
    for core in cores:
        if core.region is None:
            continue
        x, y = (
            (start + side / 2 - origin) / overview.downsample - 0.5
            for start, side, origin in (
                (core.region.x, core.region.width, overview.origin[0]),
                (core.region.y, core.region.height, overview.origin[1]),
            )
        )
        marks.append(
            CoreMark(
                name=place_name(core.mapped),
                note=core.mapped.label or "",
                x=x,
                y=y,
                diameter_px=core.region.width / overview.downsample / MARGIN,
                kind="control" if core.control else "core",
            )
        )
    return draw_marks(overview.rgb, marks)


def _mpp(slide: Slide, search: CoreSearch) -> float | None:
    if search.mpp_override is not None or slide.info.mpp is not None:
        return resolve_mpp(slide.info, search.mpp_override).mpp
    if search.core_diameter_um is not None:
        raise ConfigError(
            f"{slide.info.path}: a core diameter in µm needs the slide's resolution; "
            "give --mpp-override"
        )
    return None


def _read_overview(slide: Slide) -> LowImage:
    bounds = slide.info.bounds
    target = max(bounds.width, bounds.height) / OVERVIEW_PX
    return read_low(slide, 1.0, max(1.0, target))


def _named(path: str | Path, array: Dearray, naming: Naming) -> list[MappedCore]:
    """Every place of the grid as a row of a core map that says nothing of patients."""
    rows = []
    for core in array.cores:
        letters = core_name(core.row, 0)[:-1]
        row, column = letters if naming == "letters" else str(core.row + 1), str(core.column + 1)
        name = core.name if naming == "letters" else f"{row}-{column}"
        core_id = f"{safe_id(Path(path).stem)}-{name}"
        rows.append(
            MappedCore(row=row, column=column, core_id=core_id, patient_id=None, label=None)
        )
    return rows


def _unmapped(array: Dearray, joined: Sequence[JoinedCore]) -> list[Core]:
    known = {(row.core.row, row.core.column) for row in joined if row.core is not None}
    return [core for core in array.present if (core.row, core.column) not in known]


def _mark(row: JoinedCore) -> CoreMark:
    assert row.core is not None
    kind: MarkKind = "control" if is_control(row.mapped) else "core"
    if row.core.missing:
        kind = "missing"
    return _mark_core(row.core, place_name(row.mapped), row.mapped.label or "", kind)


def _mark_core(core: Core, name: str, note: str, kind: MarkKind) -> CoreMark:
    return CoreMark(
        name=name, note=note, x=core.x, y=core.y, diameter_px=core.diameter_px, kind=kind
    )


def _place(overview: LowImage, core: Core | None) -> Region | None:
    """Return the square around a core, with room for its ragged edge."""
    if core is None or core.missing:
        return None
    side = round(core.diameter_px * overview.downsample * MARGIN)
    x, y = (
        round(origin + (centre + 0.5) * overview.downsample - side / 2)
        for origin, centre in zip(overview.origin, (core.x, core.y), strict=True)
    )
    return Region(x=x, y=y, width=side, height=side)
