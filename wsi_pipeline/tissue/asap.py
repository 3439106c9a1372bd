"""ASAP's annotation XML, read without ever expanding an entity."""

from pathlib import Path
from typing import Any
from xml.parsers import expat

from wsi_pipeline.errors import SlideError

AREAS = ("polygon", "rectangle", "spline")
MAX_DEPTH = 16


def read_asap(path: Path, text: bytes) -> list[dict[str, Any]]:
    """Turn ASAP's annotations into GeoJSON features; the group becomes the class.

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
    return reader.features


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
            properties["classification"] = {"name": group}
        return {"type": "Feature", "geometry": geometry, "properties": properties}


def _number(text: str) -> float:
    return float(text.replace(",", "."))  # ASAP writes the machine's decimal sign
