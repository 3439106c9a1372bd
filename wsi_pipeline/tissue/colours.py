"""Colours of the classes that people give to regions: a file's own, QuPath's, and ours."""

import colorsys
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

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
QUPATHS: Final[Mapping[str, Colour]] = {
    "tumor": (200, 0, 0),
    "stroma": (150, 200, 150),
    "immune cells": (160, 90, 160),
    "necrosis": (50, 50, 50),
    "ignore*": (180, 180, 180),
}
"""Of QuPath's own classes."""


class Classed(Protocol):
    """What has a class and a GeoJSON feature: an annotation."""

    @property
    def label(self) -> str | None: ...

    @property
    def feature(self) -> Mapping[str, Any]: ...


def own_colour(label: str) -> Colour:
    """Return QuPath's colour of its own classes; of others one that depends on the name alone."""
    told = QUPATHS.get(label.casefold())
    if told is not None:
        return told
    hue = zlib.crc32(label.encode()) % 360 / 360
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.5, 0.7))
    return red, green, blue


def class_colours(annotations: Iterable[Classed]) -> dict[str, Colour]:
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


def _told_colour(feature: Mapping[str, Any]) -> Colour | None:
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
