"""Regions that people drew: QuPath's GeoJSON and ASAP's XML.

Polygons, with holes and in several parts, become include or exclude regions in level-0 pixels.
What was read from GeoJSON is written back as it was, whatever this module makes of it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LinearRing, MultiPolygon, Polygon, mapping, shape
from skimage.draw import polygon as polygon_pixels

from wsi_pipeline.atomic import write_text
from wsi_pipeline.errors import SlideError
from wsi_pipeline.tissue.asap import read_asap
from wsi_pipeline.types import Coords, Mask

EXCLUDE = ("ignore*", "ignore", "exclude", "exclusion")  # QuPath's own class is "Ignore*"
MAX_BYTES = 256 * 2**20
MAX_PX = 2**31

Feature = Mapping[str, Any]
Colour = tuple[int, int, int]

PALETTE: Final[tuple[Colour, ...]] = (
    (240, 170, 0),
    (204, 121, 167),
    (86, 180, 233),
    (140, 86, 75),
    (120, 200, 40),
    (128, 60, 190),
    (0, 200, 200),
    (250, 235, 60),
)
"""Of classes whose file says no colour; none is an overlay's green, blue or magenta."""
NAMELESS: Final[Colour] = (70, 70, 70)
"""Of regions without a class."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One drawn region.

    Attributes:
        label: Its class, or None.
        area: Level-0 pixels; empty for points and lines.
        include: False if the class says that the region is to be left out.
        feature: The GeoJSON feature it stands for, in the frame of its file.
    """

    label: str | None
    area: MultiPolygon
    include: bool
    feature: Feature


def read_annotations(
    path: Path, origin: tuple[float, float] = (0, 0), exclude: Sequence[str] = EXCLUDE
) -> list[Annotation]:
    """Read a file of drawn regions.

    Args:
        path: ``.geojson`` or ``.json`` of QuPath, or ``.xml`` of ASAP.
        origin: Level-0 (x, y) at which the file's coordinates start: where a program counts from
            the scanned bounds (QuPath on MIRAX), their corner.
        exclude: Classes, in any case, whose regions are to be left out.

    Raises:
        SlideError: The file is missing, too large, or neither of the two formats.
    """
    if not path.is_file():
        raise SlideError(f"{path}: there is no such annotation file.")
    if path.stat().st_size > MAX_BYTES:
        raise SlideError(f"{path}: more than {MAX_BYTES >> 20} MiB; no drawing is that large.")
    text = path.read_bytes()
    features = read_asap(path, text) if path.suffix.lower() == ".xml" else _features(path, text)
    left_out = {name.casefold() for name in exclude}
    return [_annotation(path, feature, origin, left_out) for feature in features]


def write_geojson(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write annotations as a GeoJSON FeatureCollection that QuPath opens."""
    features = [annotation.feature for annotation in annotations]
    write_text(path, json.dumps({"type": "FeatureCollection", "features": features}) + "\n")


def draw_annotation(
    area: Polygon | MultiPolygon, label: str | None = None, include: bool = True
) -> Annotation:
    """Make an annotation of a shape in level-0 pixels."""
    whole = _polygons(area)
    properties: dict[str, Any] = {"objectType": "annotation"}
    if label is not None:
        properties["classification"] = {"name": label}
    feature = {"type": "Feature", "geometry": mapping(area), "properties": properties}
    return Annotation(label=label, area=whole, include=include, feature=feature)


def class_colours(annotations: Iterable[Annotation]) -> dict[str, Colour]:
    """Return the RGB of each class, sorted by name: QuPath's where it is told, else our own.

    No class without a colour takes one that another class has, as long as there are others.
    """
    known = [annotation for annotation in annotations if annotation.label is not None]
    told = {one.label: colour for one in known if (colour := _told_colour(one.feature))}
    free = [colour for colour in PALETTE if colour not in told.values()] or list(PALETTE)
    found: dict[str, Colour] = {}
    for name in sorted({one.label for one in known if one.label is not None}):
        found[name] = told[name] if name in told else free[len(found.keys() - told) % len(free)]
    return found


def _told_colour(feature: Feature) -> Colour | None:
    """Return what QuPath writes: of the class before the region's; new files before old ones."""
    own = feature.get("properties") or {}
    named = own.get("classification")
    for part in (named, own):
        if not isinstance(part, dict):
            continue
        colour, packed = part.get("color"), part.get("colorRGB")
        if isinstance(colour, list) and len(colour) == 3 and all(map(_is_byte, colour)):
            return (colour[0], colour[1], colour[2])
        if isinstance(packed, int) and not isinstance(packed, bool):
            return (packed >> 16 & 255, packed >> 8 & 255, packed & 255)
    return None


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def annotated_mask(
    annotations: Iterable[Annotation],
    shape_px: tuple[int, int],
    downsample: float,
    origin: tuple[float, float] = (0, 0),
) -> Mask:
    """Included regions less the excluded ones, on an overview.

    Where nothing is included, everything is.

    Args:
        annotations: Regions in level-0 pixels.
        shape_px: (height, width) of the mask.
        downsample: Level-0 pixels per mask pixel.
        origin: Level-0 (x, y) of the mask's top-left corner.

    Returns:
        (H, W) bool; a pixel belongs to a region when its centre does.

    Raises:
        ValueError: A downsample that is not positive.
    """
    if not downsample > 0:
        raise ValueError(f"downsample must be positive; got {downsample}.")
    known = [annotation for annotation in annotations if not annotation.area.is_empty]
    included = [annotation for annotation in known if annotation.include]
    mask = np.zeros(shape_px, bool) if included else np.ones(shape_px, bool)
    for annotation in included:
        mask |= _raster(annotation.area, shape_px, downsample, origin)
    for annotation in known:
        if not annotation.include:
            mask &= ~_raster(annotation.area, shape_px, downsample, origin)
    return mask


def tile_labels(
    annotations: Iterable[Annotation],
    coords: Coords,
    tile_px_level0: float,
    min_overlap: float = 0.5,
) -> list[str | None]:
    """The class that covers most of each tile, if it covers enough of it.

    Excluded regions take their area away from every class.

    Args:
        annotations: Regions in level-0 pixels.
        coords: (N, 2) int64 level-0 (x, y) of the tiles' top-left corners.
        tile_px_level0: Side of a tile in level-0 pixels.
        min_overlap: Share of the tile that the class must cover, above 0 to 1.

    Returns:
        N labels; None where no class covers enough.

    Raises:
        ValueError: ``min_overlap`` or the tile's side is out of range.
    """
    if not (0 < min_overlap <= 1 and tile_px_level0 > 0):
        raise ValueError(
            "min_overlap must lie in (0, 1] and tile_px_level0 above 0; "
            f"got {min_overlap} and {tile_px_level0}."
        )
    shares = _class_shares(list(annotations), coords, tile_px_level0)
    if not shares or not len(coords):
        return [None] * len(coords)
    names = sorted(shares)
    table = np.stack([shares[name] for name in names])
    best = table.argmax(axis=0)
    enough = table.max(axis=0) >= min_overlap - 1e-9
    return [names[k] if ok else None for k, ok in zip(best, enough, strict=True)]


def _class_shares(
    annotations: Sequence[Annotation], coords: Coords, side: float
) -> dict[str, NDArray[np.float64]]:
    """Share of each tile under each class, less what is excluded."""
    excluded = shapely.union_all([a.area for a in annotations if not a.include])
    corners = coords.astype(np.float64)
    tiles = shapely.box(corners[:, 0], corners[:, 1], corners[:, 0] + side, corners[:, 1] + side)
    shares = {}
    for name in {a.label for a in annotations if a.include and a.label is not None}:
        parts = [a.area for a in annotations if a.include and a.label == name]
        area = shapely.difference(shapely.union_all(parts), excluded)
        shapely.prepare(area)
        touched = shapely.intersects(area, tiles)
        share = np.zeros(len(coords))
        share[touched] = shapely.area(shapely.intersection(area, tiles[touched])) / side**2
        shares[name] = share
    return shares


def _features(path: Path, text: bytes) -> list[Feature]:
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SlideError(f"{path}: not GeoJSON ({str(error)[:80]}).") from None
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not all(_is_feature(one) for one in content):
        raise SlideError(
            f"{path}: not GeoJSON; expected a FeatureCollection, a list of features or a feature, "
            "as QuPath exports annotations."
        )
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no coordinate")


def _is_feature(one: object) -> bool:
    return (
        isinstance(one, dict)
        and one.get("type") == "Feature"
        and isinstance(one.get("geometry"), dict)
        and isinstance(one.get("properties") or {}, dict)
    )


def _annotation(
    path: Path, feature: Feature, origin: tuple[float, float], left_out: set[str]
) -> Annotation:
    try:
        drawn = shape(feature["geometry"])
        bounds = drawn.bounds
        area = _polygons(shapely.transform(drawn, lambda xy: xy + np.asarray(origin)))
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        shapely.errors.ShapelyError,
        RecursionError,
    ) as error:
        kind = str(feature["geometry"].get("type"))[:40]
        raise SlideError(f"{path}: a {kind} cannot be read ({str(error)[:80]}).") from None
    if not drawn.is_empty and not all(abs(value) < MAX_PX for value in bounds):  # NaN fails too
        raise SlideError(f"{path}: coordinates reach beyond any slide: {bounds}.")
    label = _label(feature)
    include = label is None or label.casefold() not in left_out
    return Annotation(label=label, area=area, include=include, feature=feature)


def _label(feature: Feature) -> str | None:
    """QuPath keeps the class in ``classification``; some exports have a plain string there."""
    found = (feature.get("properties") or {}).get("classification")
    name = found.get("name") if isinstance(found, dict) else found
    return name if isinstance(name, str) and name else None


def _polygons(drawn: Any) -> MultiPolygon:
    """The areas of a geometry, valid; lines and points have none."""
    rest = [drawn if drawn.is_valid else shapely.make_valid(drawn)]
    found = []
    while rest:
        one = rest.pop()
        if isinstance(one, Polygon):
            found += [] if one.is_empty else [one]
        else:
            rest += list(getattr(one, "geoms", ()))[::-1]
    whole = MultiPolygon(found)
    return whole if whole.is_valid else _polygons(shapely.union_all(found))


def _raster(
    area: MultiPolygon, shape_px: tuple[int, int], downsample: float, origin: tuple[float, float]
) -> Mask:
    """Pixels whose centres lie in the area."""
    height, width = shape_px
    window = shapely.box(
        origin[0], origin[1], origin[0] + width * downsample, origin[1] + height * downsample
    )
    mask = np.zeros(shape_px, bool)
    for polygon in _polygons(shapely.intersection(area, window.buffer(downsample))).geoms:
        piece = _inside(polygon.exterior, shape_px, downsample, origin)
        for hole in polygon.interiors:
            piece &= ~_inside(hole, shape_px, downsample, origin)
        mask |= piece
    return mask


def _inside(
    ring: LinearRing, shape_px: tuple[int, int], downsample: float, origin: tuple[float, float]
) -> Mask:
    x, y = ((np.asarray(ring.coords) - origin) / downsample - 0.5).T
    mask = np.zeros(shape_px, bool)
    mask[polygon_pixels(y, x, shape_px)] = True
    return mask
