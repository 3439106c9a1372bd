"""ASAP's annotation XML, read without ever expanding an entity."""

import re
from pathlib import Path
from typing import Any, Final
from xml.parsers import expat

import shapely
from shapely.geometry import Polygon, mapping

from wsi_pipeline.errors import SlideError

CAMELYON_TUMOUR = ("_0", "_1")  # groups of the CAMELYON16 challenge
CAMELYON_HOLE = "_2"
AREAS = ("polygon", "rectangle", "spline")
MAX_DEPTH = 16
COLOUR: Final = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
GREEN: Final = (100, 254, 46)  # ASAP's own, where a region says none


def read_asap(path: Path, text: bytes) -> list[dict[str, Any]]:
    """Turn ASAP's annotations into GeoJSON features; the group becomes the class.

    In files of the CAMELYON16 challenge, whose groups are ``_0``, ``_1`` and ``_2``, those of
    ``_2`` are no regions: what is not tumour within the others, and cut out of them.

    Args:
        path: Named in errors.
        text: The file's content.

    Raises:
        SlideError: Not XML, not ASAP's, or it defines entities.
    """
    reader = _Reader(path)
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.doctype
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, UnicodeError, ValueError) as error:
        raise SlideError(f"{path}: not ASAP's XML ({str(error)[:80]}).") from None
    if not reader.is_asap:
        raise SlideError(f"{path}: XML, but not ASAP's: there is no ASAP_Annotations in it.")
    return _without_holes(reader.features)


def _without_holes(features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cut the holes of a file of CAMELYON16 out of its regions; others stay as they are."""
    groups = [each["properties"].get("classification", {}).get("name") for each in features]
    known = {group for group in groups if group is not None}
    if CAMELYON_HOLE not in known or not known <= {*CAMELYON_TUMOUR, CAMELYON_HOLE}:
        return features
    drawn = [
        shapely.make_valid(Polygon(each["geometry"]["coordinates"][0]))
        if each["geometry"]["type"] == "Polygon"
        else None
        for each in features
    ]
    pairs = zip(groups, drawn, strict=True)
    holes = shapely.union_all([area for group, area in pairs if group == CAMELYON_HOLE and area])
    return [
        each
        if area is None or not area.intersects(holes)
        else each | {"geometry": mapping(area.difference(holes))}
        for each, group, area in zip(features, groups, drawn, strict=True)
        if group != CAMELYON_HOLE
    ]


class _Reader:
    """Collects annotations while the parser walks over the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.features: list[dict[str, Any]] = []
        self.is_asap = False
        self.depth = 0
        self.annotation: dict[str, str] = {}
        self.corners: list[tuple[int, list[float]]] = []

    def doctype(self, *_: object) -> None:
        raise SlideError(f"{self.path}: it has a DOCTYPE, which ASAP never writes; refused.")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise SlideError(f"{self.path}: nested deeper than ASAP's files are; refused.")
        if self.depth == 1:
            self.is_asap = name == "ASAP_Annotations"
        elif name == "Annotation":
            self.annotation, self.corners = attributes, []
        elif name == "Coordinate":
            self.corners.append(self._corner(attributes))

    def end(self, name: str) -> None:
        self.depth -= 1
        if name == "Annotation":
            self.features.append(self._feature())

    def _corner(self, attributes: dict[str, str]) -> tuple[int, list[float]]:
        try:
            order = int(float(attributes.get("Order", len(self.corners))))
            return order, [_number(attributes["X"]), _number(attributes["Y"])]
        except (KeyError, ValueError, OverflowError):
            raise SlideError(
                f"{self.path}: a Coordinate of {self.annotation.get('Name', '?')!r} "
                "is no X, Y pair."
            ) from None

    def _feature(self) -> dict[str, Any]:
        points = [xy for _, xy in sorted(self.corners, key=lambda corner: corner[0])]
        kind = self.annotation.get("Type", "").casefold()
        if kind in AREAS and len(points) >= 3:
            closed = points if points[0] == points[-1] else [*points, points[0]]
            geometry: dict[str, Any] = {"type": "Polygon", "coordinates": [closed]}
        else:
            geometry = {"type": "MultiPoint", "coordinates": points}
        properties: dict[str, Any] = {"objectType": "annotation"}
        if name := self.annotation.get("Name"):
            properties["name"] = name
        group = self.annotation.get("PartOfGroup", "None")
        if group not in ("", "None"):
            colour = COLOUR.fullmatch(self.annotation.get("Color", ""))
            told = [int(part, 16) for part in colour.groups()] if colour else list(GREEN)
            properties["classification"] = {"name": group, "color": told}
        return {"type": "Feature", "geometry": geometry, "properties": properties}


def _number(text: str) -> float:
    return float(text.replace(",", "."))  # ASAP writes the machine's decimal sign
