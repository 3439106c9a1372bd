"""Find the cores of a microarray slide, join them with its core map, draw them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from wsi_pipeline.cohort import MappedCore, safe_id
from wsi_pipeline.errors import CohortError, ConfigError, NoTissueError, SlideError
from wsi_pipeline.microarray.cores import CERTAIN, Core, Dearray, Hints, core_name, dearray
from wsi_pipeline.microarray.join import Joined, JoinedCore, Joining, join_core_map
from wsi_pipeline.microarray.preview import CoreMark, draw_marks, side_by_side
from wsi_pipeline.microarray.table import (
    NOBODY,
    PlacedCore,
    Status,
    is_control,
    place_name,
)
from wsi_pipeline.slides import LowImage, Slide, open_slide, read_low, resolve_mpp
from wsi_pipeline.types import Region, RgbImage

OVERVIEW_PX: Final = 1600  # longest side, about
MARGIN: Final = 1.1  # of a core's diameter
CLOSEST: Final = 0.8  # of it, where a neighbour would come into the square
LOST: Final = 0.1  # share of a core that is tissue, below which it is lost
APART: Final = (3.5, 2.6)  # steps between the cores of two arrays, at least
MANY: Final = 9  # cores that make an array

Naming = Literal["letters", "numbers"]
CoreMask = Literal["circle", "tissue"]
MarkKind = Literal["core", "control", "missing", "unmapped", "doubtful"]


@dataclass(frozen=True, kw_only=True)
class CoreSearch:
    """How cores are looked for.

    Attributes:
        reader: Name of the slide reader.
        mpp_override: Level-0 resolution, µm/px; None takes the file's own, if it has one.
        core_diameter_um, spacing_um: The cores' diameter and the step from one to the next where
            they are known; None measures them.
        rows, columns: Size of the array where there is no map, if it is known.
        naming: Where there is no core map: ``letters`` is A1, ``numbers`` 1-1.
        region: Level-0 rectangle in which the array lies; None: all of the slide.
        min_tissue: Share of a core that is tissue, below which it is lost.
        core_mask: What is cut of a core: a square around its ``circle`` or around its ``tissue``.
        joining: What is known of how map and array belong together.
    """

    reader: str = "auto"
    mpp_override: float | None = None
    core_diameter_um: float | None = None
    spacing_um: float | None = None
    rows: int | None = None
    columns: int | None = None
    naming: Naming = "letters"
    region: Region | None = None
    min_tissue: float = LOST
    core_mask: CoreMask = "circle"
    joining: Joining = field(default_factory=Joining)


@dataclass(frozen=True, kw_only=True)
class Microarray:
    """A TMA slide with its cores in their places.

    Attributes:
        picture: (H, W, 3) uint8, every core's outline, name and label; where another way to lay
            the map is as good, both beside each other.
        cores: The rows of the core map, or all places of the grid where there is no map; then
            the spots without a row.
        array: The grid, in pixels of the overview.
        joined: How the map was laid; None without one.
        origin: Level-0 x, y of the overview's corner.
        downsample: Level-0 pixels per pixel of the overview.
        mpp: Level-0 resolution, µm/px; None where unknown.
        doubts: Why cores may have wrong names, a sentence each; none: they are sure.
    """

    picture: RgbImage
    cores: list[PlacedCore]
    array: Dearray
    joined: Joined | None
    origin: tuple[float, float]
    downsample: float
    mpp: float | None
    doubts: tuple[str, ...]

    @property
    def unmapped(self) -> tuple[str, ...]:
        """Names, where they have one, of cores found that the map does not know."""
        found = self.joined.unmapped if self.joined else self.array.strays
        return tuple(core.name or "off the grid" for core in found)


def place_cores(
    path: str | Path, mapped: Sequence[MappedCore] | None, search: CoreSearch | None = None
) -> Microarray:
    """Find a TMA slide's cores and join them with its core map.

    Where several arrays lie on the slide, the one that alone is surely the map's is taken.

    Args:
        path: The slide, or a flat picture of it; a URL will do.
        mapped: Its core map; None names every place after the grid.
        search: How to look for them.

    Raises:
        SlideError: It cannot be read, or no cores are found.
        CohortError: The map's labels are no rows and columns.
        ConfigError: A length in µm for a slide of unknown resolution.
    """
    search = search or CoreSearch()
    whole = _place_in(path, mapped, search)
    if mapped is None or search.region is not None or not whole.doubts:
        return whole
    regions = next((found for reach in APART if len(found := _parts(whole, reach)) > 1), [])
    sure = []
    for region in regions:
        try:
            part = _place_in(path, mapped, replace(search, region=region))
        except SlideError:
            continue
        sure += [] if part.doubts else [part]
    if len(sure) == 1:
        return sure[0]
    if not regions:
        return whole
    said = "; ".join(f"{r.x},{r.y},{r.width},{r.height}" for r in regions)
    doubt = f"{len(regions)} arrays seem to lie on the slide, say which by its --region: {said}"
    return replace(whole, doubts=(*whole.doubts, doubt))


def _place_in(
    path: str | Path, mapped: Sequence[MappedCore] | None, search: CoreSearch
) -> Microarray:
    """Find the cores in the region that is asked for, and join them with the map."""
    with open_slide(path, search.reader) as slide:
        mpp = _mpp(slide, search)
        overview = _read_overview(slide, search.region)
    hints = _hints(search, None if mpp is None else mpp * overview.downsample)
    try:
        array = dearray(overview.rgb, hints)
    except NoTissueError as error:
        raise SlideError(f"{path}: {error}") from error
    shaped = mapped is None and (search.rows or search.columns)
    if mapped is None and not shaped:
        joined, rows, doubts = None, _by_grid(path, array, search.naming), array.doubts
        strays: Sequence[Core] = array.strays
    else:
        joining = search.joining
        if mapped is None:
            mapped = _shape(path, array, search)
            joining = replace(joining, turn=joining.turn or 0, row_labels=(), column_labels=())
        try:
            joined = join_core_map(array, mapped, joining)
        except CohortError as error:
            raise SlideError(f"{path}: {error}") from error
        rows, doubts, strays = joined.cores, joined.doubts, joined.unmapped
    placed = _Placing(overview, array, search)
    return Microarray(
        picture=_picture(overview.rgb, rows, strays, joined),
        cores=[placed.row(row) for row in rows] + [placed.stray(core) for core in strays],
        array=array,
        joined=joined,
        origin=overview.origin,
        downsample=overview.downsample,
        mpp=mpp,
        doubts=doubts,
    )


def _parts(found: Microarray, reach: float) -> list[Region]:
    """Regions of the slide with cores that stand apart from all others, by so many steps."""
    array = found.array
    cores = [*array.present, *array.strays]
    at = np.array([(core.x, core.y) for core in cores])
    step = reach * max(array.pitch_px)
    group = np.arange(len(at))
    for one in range(len(at)):
        near = np.hypot(*(at - at[one]).T) <= step
        group[np.isin(group, group[near])] = group[one]
    margin = max(array.pitch_px)
    regions = []
    for members in (at[group == number] for number in np.unique(group)):
        if len(members) >= MANY:
            low, high = members.min(axis=0) - margin, members.max(axis=0) + margin
            corner = np.maximum(low, 0)
            size = np.minimum(high, np.array(array.size)) - corner
            x, y = (
                round(start + value * found.downsample)
                for start, value in zip(found.origin, corner, strict=True)
            )
            width, height = (round(float(side) * found.downsample) for side in size)
            regions.append(Region(x=x, y=y, width=width, height=height))
    return regions


def picture_cores(
    path: str | Path,
    cores: Iterable[PlacedCore],
    reader: str = "auto",
    region: Region | None = None,
) -> RgbImage:
    """Draw cores where a table, perhaps corrected by hand, says that they are.

    Raises:
        SlideError: The slide cannot be read.
    """
    with open_slide(path, reader) as slide:
        overview = _read_overview(slide, region)
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
        kind: MarkKind = "control" if core.control else "core"
        if core.status in ("unmapped", "doubtful"):
            kind = "unmapped" if core.status == "unmapped" else "doubtful"
        marks.append(
            CoreMark(
                name=place_name(core.mapped) if core.mapped.core_id else "",
                note=core.mapped.label or "",
                x=x,
                y=y,
                diameter_px=core.region.width / overview.downsample / MARGIN,
                kind=kind,
            )
        )
    return draw_marks(overview.rgb, marks)


def _mpp(slide: Slide, search: CoreSearch) -> float | None:
    if search.mpp_override is not None or slide.info.mpp is not None:
        return resolve_mpp(slide.info, search.mpp_override).mpp
    if search.core_diameter_um is not None or search.spacing_um is not None:
        raise ConfigError(
            f"{slide.info.path}: a core's diameter or spacing in µm needs the slide's resolution; "
            "give --mpp-override"
        )
    return None


def _hints(search: CoreSearch, um_per_px: float | None) -> Hints:
    if um_per_px is None:
        return Hints()
    return Hints(
        core_px=search.core_diameter_um and search.core_diameter_um / um_per_px,
        pitch_px=search.spacing_um and search.spacing_um / um_per_px,
    )


def _read_overview(slide: Slide, region: Region | None) -> LowImage:
    bounds = region or slide.info.bounds
    target = max(bounds.width, bounds.height) / OVERVIEW_PX
    return read_low(slide, 1.0, max(1.0, target), region)


def _by_grid(path: str | Path, array: Dearray, naming: Naming) -> tuple[JoinedCore, ...]:
    """Every place of the grid as a row of a core map that says nothing of patients."""
    return tuple(
        JoinedCore(
            mapped=_named(path, core.row or 0, core.column or 0, naming),
            core=core,
            certain=core.missing or core.certainty >= CERTAIN,
        )
        for core in array.cores
    )


def _shape(path: str | Path, array: Dearray, search: CoreSearch) -> list[MappedCore]:
    """A core map of nothing but the array's size."""
    rows, columns = search.rows or array.rows, search.columns or array.columns
    return [
        _named(path, row, column, search.naming) for row in range(rows) for column in range(columns)
    ]


def _named(path: str | Path, row: int, column: int, naming: Naming) -> MappedCore:
    name = core_name(row, column)
    label = name.removesuffix(str(column + 1)) if naming == "letters" else str(row + 1)
    if naming == "numbers":
        name = f"{row + 1}-{column + 1}"
    return MappedCore(
        row=label, column=str(column + 1), core_id=f"{safe_id(Path(path).stem)}-{name}",
        patient_id=None, label=None,
    )  # fmt: skip


class _Placing:
    """Cores of the overview as regions of the slide."""

    def __init__(self, overview: LowImage, array: Dearray, search: CoreSearch) -> None:
        self.overview = overview
        self.array = array
        self.search = search
        present = (*array.present, *array.strays)
        self.around = np.array([(core.x, core.y, core.diameter_px) for core in present])

    def row(self, joined: JoinedCore) -> PlacedCore:
        """A row of the map and where it lies."""
        core = joined.core
        status: Status = ""
        if core is None:
            status = "outside"
        elif core.missing:
            status = "missing"
        elif core.coverage < self.search.min_tissue:
            status = "lost"
        elif not joined.certain:
            status = "doubtful"
        there = core is not None and not core.missing
        return PlacedCore(
            mapped=joined.mapped,
            region=self._region(core) if core is not None and there else None,
            control=is_control(joined.mapped),
            tilt_deg=round(self.array.rotation_deg, 2),
            status=status,
            grid=_grid(core),
            tissue=core.coverage if core is not None and there else None,
            certainty=core.certainty if core is not None and there else None,
        )

    def stray(self, core: Core) -> PlacedCore:
        """A spot that the map does not have."""
        return PlacedCore(
            mapped=NOBODY,
            region=self._region(core),
            tilt_deg=round(self.array.rotation_deg, 2),
            status="unmapped",
            grid=_grid(core),
            tissue=core.coverage,
            certainty=None,
        )

    def _region(self, core: Core) -> Region:
        """The square around a core: room for its ragged edge, and none for its neighbours."""
        x, y, reach = core.x, core.y, core.diameter_px * MARGIN / 2
        if self.search.core_mask == "tissue" and (box := self.array.tissue_box(core)) is not None:
            x, y, reach = box
        apart = np.maximum(abs(self.around[:, 0] - x), abs(self.around[:, 1] - y))
        room = (apart - self.around[:, 2] / 2)[apart > core.diameter_px / 4]
        if len(room):
            reach = min(reach, max(float(room.min()), core.diameter_px * CLOSEST / 2))
        scale, origin = self.overview.downsample, self.overview.origin
        side = round(2 * reach * scale)
        left, top = (
            round(start + (centre + 0.5) * scale - side / 2)
            for start, centre in zip(origin, (x, y), strict=True)
        )
        return Region(x=left, y=top, width=side, height=side)


def _grid(core: Core | None) -> tuple[int, int] | None:
    if core is None or core.row is None or core.column is None:
        return None
    return core.row, core.column


def _picture(
    rgb: RgbImage, rows: Sequence[JoinedCore], strays: Sequence[Core], joined: Joined | None
) -> RgbImage:
    """The cores with their names; where another way is as good, both."""
    marks = [_mark(row) for row in rows if row.core is not None]
    marks += [_mark_core(core, "", "", "unmapped") for core in strays]
    picture = draw_marks(rgb, marks)
    if joined is None or joined.runner_up is None:
        return picture
    _, others = joined.runner_up
    other = draw_marks(rgb, [_mark(row) for row in others if row.core is not None])
    return side_by_side(picture, other, ("taken", "as good"))


def _mark(row: JoinedCore) -> CoreMark:
    assert row.core is not None
    kind: MarkKind = "control" if is_control(row.mapped) else "core"
    if row.core.missing:
        kind = "missing"
    elif not row.certain:
        kind = "doubtful"
    return _mark_core(row.core, place_name(row.mapped), row.mapped.label or "", kind)


def _mark_core(core: Core, name: str, note: str, kind: MarkKind) -> CoreMark:
    return CoreMark(
        name=name, note=note, x=core.x, y=core.y, diameter_px=core.diameter_px, kind=kind
    )
