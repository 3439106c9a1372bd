"""Regions that people drew: QuPath's GeoJSON and ASAP's XML.

Polygons, with holes and in several parts, become include or exclude regions in level-0 pixels.
What was read from GeoJSON is written back as it was, whatever this module makes of it.
"""

import gzip
import json
import zlib
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
from wsi_pipeline.tissue.colours import own_colour
from wsi_pipeline.tissue.nested import areas_alone
from wsi_pipeline.types import Coords, Mask

EXCLUDE = ("ignore*", "ignore", "exclude", "exclusion")  # QuPath's own class is "Ignore*"
MAX_BYTES = 256 * 2**20
MAX_PX = 2**31

Feature = Mapping[str, Any]
DERIVED: Final = ": "  # between the names of a class and those derived from it: Tumor: Positive
GZIP: Final = ".gz"


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One drawn region.

    Attributes:
        label: Its class, or None; of a derived one all names, as QuPath shows it
            (``Tumor: Positive``).
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
        path: ``.geojson`` or ``.json`` of QuPath, or ``.xml`` of ASAP; each may be gzipped.
        origin: Level-0 (x, y) at which the file's coordinates start: where a program counts from
            the scanned bounds (QuPath on MIRAX), their corner.
        exclude: Classes, in any case, whose regions are to be left out; so are those of classes
            derived from them.

    Raises:
        SlideError: The file is missing, too large, or neither of the two formats.
    """
    if not path.is_file():
        raise SlideError(f"{path}: there is no such annotation file.")
    text = _content(path)
    features = read_asap(path, text) if is_asap(path) else _features(path, text)
    left_out = {name.casefold() for name in exclude}
    return [_annotation(path, feature, origin, left_out) for feature in features]


def is_asap(path: Path) -> bool:
    """Whether a file of drawn regions is ASAP's, by its name."""
    return path.name.lower().removesuffix(GZIP).endswith(".xml")


def _content(path: Path) -> bytes:
    """Read a file, unpacked.

    Raises:
        SlideError: It is too large, or no gzip file though it is named so.
    """
    opening = gzip.open if path.suffix.lower() == GZIP else open
    try:
        with opening(path, "rb") as file:
            text: bytes = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SlideError(f"{path}: cannot be read ({error}).") from None
    if len(text) > MAX_BYTES:
        raise SlideError(f"{path}: more than {MAX_BYTES >> 20} MiB; no drawing is that large.")
    return text


def write_geojson(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write annotations as a GeoJSON FeatureCollection that QuPath opens."""
    features = [annotation.feature for annotation in annotations]
    write_text(path, json.dumps({"type": "FeatureCollection", "features": features}) + "\n")


def draw_annotation(
    area: Polygon | MultiPolygon, label: str | None = None, include: bool = True
) -> Annotation:
    """Make an annotation of a shape in level-0 pixels; its class has a colour, as QuPath needs."""
    whole = _polygons(area)
    properties: dict[str, Any] = {"objectType": "annotation"}
    if label is not None:
        names = label.split(DERIVED)
        named = {"name": label} if len(names) == 1 else {"names": names}
        properties["classification"] = named | {"color": list(own_colour(label))}
    feature = {"type": "Feature", "geometry": mapping(area), "properties": properties}
    return Annotation(label=label, area=whole, include=include, feature=feature)


def annotated_mask(
    annotations: Iterable[Annotation],
    shape_px: tuple[int, int],
    downsample: float,
    origin: tuple[float, float] = (0, 0),
    *,
    everywhere: bool = False,
) -> Mask:
    """Included regions less the excluded ones, on an overview.

    Where nothing is included, everything is. A class drawn within an excluded region stays.

    Args:
        annotations: Regions in level-0 pixels.
        shape_px: (height, width) of the mask.
        downsample: Level-0 pixels per mask pixel.
        origin: Level-0 (x, y) of the mask's top-left corner.
        everywhere: Include everything that is not excluded, also beside the regions.

    Returns:
        (H, W) bool; a pixel belongs to a region when its centre does.

    Raises:
        ValueError: A downsample that is not positive.
    """
    if not downsample > 0:
        raise ValueError(f"downsample must be positive; got {downsample}.")
    known = [annotation for annotation in annotations if not annotation.area.is_empty]
    if everywhere or not any(annotation.include for annotation in known):
        mask = np.ones(shape_px, bool)
    else:
        mask = np.zeros(shape_px, bool)
        for annotation in known:
            if annotation.include:
                mask |= _raster(annotation.area, shape_px, downsample, origin)
    for annotation, area in zip(known, _alone(known), strict=True):
        if not annotation.include:
            mask &= ~_raster(_polygons(area), shape_px, downsample, origin)
    return mask


def tile_labels(
    annotations: Iterable[Annotation],
    coords: Coords,
    tile_px_level0: float,
    min_overlap: float = 0.5,
) -> list[str | None]:
    """The class that covers most of each tile, if it covers enough of it and no other as much.

    Excluded regions take their area away from every class. Where regions overlap, the inner one
    speaks, see :mod:`nested`.

    Args:
        annotations: Regions in level-0 pixels.
        coords: (N, 2) int64 level-0 (x, y) of the tiles' top-left corners.
        tile_px_level0: Side of a tile in level-0 pixels.
        min_overlap: Share of the tile that the class must cover, above 0 to 1.

    Returns:
        N labels; None where no class covers enough, or two cover the same.

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
    best, most = table.argmax(axis=0), table.max(axis=0)
    enough = (most >= min_overlap - 1e-9) & ((table > most - 1e-9).sum(axis=0) == 1)
    return [names[k] if ok else None for k, ok in zip(best, enough, strict=True)]


def _class_shares(
    annotations: Sequence[Annotation], coords: Coords, side: float
) -> dict[str, NDArray[np.float64]]:
    """Share of each tile in which each class speaks."""
    alone = _alone(annotations)
    corners = coords.astype(np.float64)
    tiles = shapely.box(corners[:, 0], corners[:, 1], corners[:, 0] + side, corners[:, 1] + side)
    shares = {}
    for name in {a.label for a in annotations if a.include and a.label is not None}:
        area = shapely.union_all(
            [
                part for a, part in zip(annotations, alone, strict=True)
                if a.include and a.label == name
            ]
        )  # fmt: skip
        shapely.prepare(area)
        touched = shapely.intersects(area, tiles)
        share = np.zeros(len(coords))
        share[touched] = shapely.area(shapely.intersection(area, tiles[touched])) / side**2
        shares[name] = share
    return shares


def _alone(annotations: Sequence[Annotation]) -> list[Any]:
    return areas_alone(
        [a.area for a in annotations],
        [a.label for a in annotations],
        [a.include for a in annotations],
    )


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
        and isinstance(one.get("geometry") or {}, dict)  # GeoJSON's null has no place
        and isinstance(one.get("properties") or {}, dict)
    )


def _annotation(
    path: Path, feature: Feature, origin: tuple[float, float], left_out: set[str]
) -> Annotation:
    try:
        drawn = MultiPolygon() if not feature.get("geometry") else shape(feature["geometry"])
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
    names = () if label is None else (label, *label.split(DERIVED))
    include = not any(name.casefold() in left_out for name in names)
    return Annotation(label=label, area=area, include=include, feature=feature)


def _label(feature: Feature) -> str | None:
    """QuPath keeps the class in ``classification``; some exports have a plain string there.

    Newer versions write the names of a derived class as a list.
    """
    found = (feature.get("properties") or {}).get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        if isinstance(names, list) and names and all(isinstance(n, str) and n for n in names):
            return DERIVED.join(names)
        found = found.get("name")
    return found if isinstance(found, str) and found else None


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
