"""Marker ink by colour, on overviews and on tiles.

The rules are boxes in hue, saturation and value. They rest on one observation: stained tissue
(haematoxylin, eosin, PAS, DAB) lies between blue-violet, pink and brown, so green and cyan-blue are
ink, red is ink only when far more saturated than erythrocytes, and black only when it has no
colour left, or is a red violet darker than any nucleus: so black marker looks that lets some red
through. Ink over tissue mixes with it: expect to see its core, not its thin edges.

On tiles, at about 2 µm/px, black ink lies in grains: what is black in all channels is its core, and
dark grey within 4 µm of a core belongs to it.

Measured on tiles of 256 px at 0.5 µm/px: of 1,300 clean ones (skin, frozen head and neck, liver,
pancreas; H&E and PAS) 5 are more than 5 % ink, all of them skin, whose refractile keratin shines
cyan; 55 are more than 1 %, again nearly all skin. All seven fields with red or green
marker exceed 5 % in some block of 128 px, and no block of eight fields without marker does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from wsi_pipeline.tissue.coarse import CoarseTiles, Levels, look_up
from wsi_pipeline.types import Mask, RgbImage

_LEVELS = np.arange(256)

BLACK_CORE = (110, 24)  # below this level and chroma lies black ink, at about 2 µm/px
BLACK_EDGE = (150, 45)


@dataclass(frozen=True, kw_only=True)
class InkRule:
    """One ink colour.

    Attributes:
        hue: Degrees, from..to; may wrap through 0.
        saturation, value: HSV bounds in [0, 1].
        max_chroma: Largest difference between two channels, in [0, 1].
    """

    hue: tuple[float, float] = (0, 360)
    saturation: tuple[float, float] = (0, 1)
    value: tuple[float, float] = (0, 1)
    max_chroma: float = 1

    def admitted(self) -> NDArray[np.bool_]:
        """(4, 256): the levels of hue (360° = 256), saturation, value and chroma that may match."""
        first, last = (round(degrees / 360 * 255) for degrees in self.hue)
        hue = (first <= _LEVELS, last >= _LEVELS)
        return np.stack([
            hue[0] & hue[1] if first <= last else hue[0] | hue[1],
            _between(self.saturation),
            _between(self.value),
            _between((0, self.max_chroma)),
        ])  # fmt: skip


def _between(bounds: tuple[float, float]) -> NDArray[np.bool_]:
    """Which grey levels lie in a range of [0, 1]."""
    low, high = (round(255 * bound) for bound in bounds)
    return (low <= _LEVELS) & (high >= _LEVELS)


RULES: Mapping[str, tuple[InkRule, ...]] = MappingProxyType(
    {
        "red": (InkRule(hue=(344, 20), saturation=(0.62, 1), value=(0.43, 1)),),
        "green": (InkRule(hue=(90, 192), saturation=(0.22, 1), value=(0.10, 0.92)),),
        "blue": (
            InkRule(hue=(192, 232), saturation=(0.40, 1), value=(0.10, 1)),
            InkRule(hue=(232, 250), saturation=(0.50, 1), value=(0.10, 1)),
        ),
        "black": (InkRule(value=(0, 0.275), max_chroma=0.16),),
        "violet": (InkRule(hue=(320, 360), saturation=(0.45, 1), value=(0, 0.275)),),
    }
)

# A stroke's thin edge, believed only near its core.
_EDGES: Mapping[str, InkRule] = MappingProxyType(
    {
        "red": InkRule(hue=(338, 20), saturation=(0.20, 1)),
        "green": InkRule(hue=(90, 232), saturation=(0.10, 1)),
        "blue": InkRule(hue=(150, 245), saturation=(0.10, 1)),
        "black": InkRule(value=(0, 0.45), max_chroma=0.22),
        "violet": InkRule(hue=(300, 360), saturation=(0.30, 1), value=(0, 0.45)),
    }
)


def _tables(rules: Sequence[InkRule]) -> Levels:
    """(4, 256) uint8: bit k of an entry is set where the k-th rule admits that level."""
    bits = (1 << np.arange(len(rules)))[:, None, None]
    admitted = bits * np.stack([rule.admitted() for rule in rules])
    return np.asarray(admitted.sum(axis=0), np.uint8)


_RULES = [(name, rule) for name, rules in RULES.items() for rule in rules]
_RULE_TABLES = _tables([rule for _, rule in _RULES])
_COLOUR_BITS = {
    name: sum(1 << k for k, (of, _) in enumerate(_RULES) if of == name) for name in RULES
}
_EDGE_TABLES = {name: _tables([rule]) for name, rule in _EDGES.items()}


def ink_marks(rgb: RgbImage) -> Levels:
    """Which pixels are ink, and of which colours.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W) uint8, to be asked with :func:`of_colour`; 0 where there is no ink.
    """
    return _matched(_RULE_TABLES, _planes(rgb))


def of_colour(marks: Levels, name: str) -> Mask:
    """Which marks are ink of the colour ``name`` of ``RULES``; bool, their shape."""
    return np.asarray(marks & _COLOUR_BITS[name] != 0, dtype=np.bool_)


def find_ink(rgb: RgbImage, radius_px: int) -> Mask:
    """Pen strokes in an overview, with their pale edges.

    Args:
        rgb: (H, W, 3) uint8.
        radius_px: Half the width of the thinnest stroke; anything thinner is not ink.

    Returns:
        (H, W) bool.
    """
    planes = _planes(rgb)
    marks = _matched(_RULE_TABLES, planes)
    found = np.zeros(rgb.shape[:2], bool)
    for name in RULES:
        core = of_colour(marks, name).view(np.uint8)
        stroke = cv2.morphologyEx(core, cv2.MORPH_OPEN, disc(radius_px))
        if stroke.any():
            near = cv2.dilate(stroke, disc(radius_px)).astype(bool)
            far = cv2.dilate(stroke, disc(6 * radius_px)).astype(bool)
            found |= near | (far & (_matched(_EDGE_TABLES[name], planes) != 0))
    return found


def black_ink(planes: Sequence[Levels]) -> Levels:
    """Where tiles at about 2 µm/px bear black ink, grains and all.

    Args:
        planes: Red, green and blue, (N, h, w) uint8 each.

    Returns:
        (N, h, w) uint8, 1 where there is ink.
    """
    shape = planes[0].shape
    if 0 in shape:
        return np.zeros(shape, np.uint8)
    red, green, blue = (plane.reshape(-1, shape[2]) for plane in planes)
    highest = cv2.max(cv2.max(red, green), blue)
    darkest = _under(highest, BLACK_CORE[0])
    if not cv2.countNonZero(darkest):
        return np.zeros(shape, np.uint8)
    chroma = cv2.subtract(highest, cv2.min(cv2.min(red, green), blue))
    core = cv2.min(darkest, _under(chroma, BLACK_CORE[1])).reshape(shape)
    soft = cv2.min(_under(highest, BLACK_EDGE[0]), _under(chroma, BLACK_EDGE[1])).reshape(shape)
    found = np.asarray(core, np.uint8)
    for ink, edge in zip(found, soft, strict=True):
        if cv2.countNonZero(ink):
            cv2.bitwise_or(ink, cv2.min(cv2.dilate(ink, _NEAR), edge), dst=ink)
    return found


def _under(levels: MatLike, limit: int) -> MatLike:
    """1 where a level is below the limit, else 0."""
    return cv2.threshold(levels, limit - 1, 1, cv2.THRESH_BINARY_INV)[1]


def ink_masks(coarse: CoarseTiles) -> Mask:
    """Where tiles at about 2 µm/px bear ink of any colour, and 4 µm around it; (N, h, w) bool."""
    found = black_ink(coarse.planes)
    for index, tile in enumerate(coarse.rgb):
        found[index] |= ink_marks(tile) != 0
        if found[index].any():
            found[index] = cv2.dilate(found[index], _NEAR)
    return found.view(np.bool_)


def _matched(tables: Levels, planes: Sequence[Levels]) -> Levels:
    """(H, W) uint8: bit k of a pixel is set where all four planes are admitted by the k-th rule."""
    hue, *others = (look_up(plane, table) for plane, table in zip(planes, tables, strict=True))
    for other in others:
        hue &= other
    return hue


def _planes(rgb: RgbImage) -> list[Levels]:
    """Hue, saturation, value and chroma; (H, W) uint8 each."""
    hue, saturation, value = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV_FULL))
    chroma = cv2.multiply(saturation, value, scale=1 / 255)
    return [np.asarray(plane, np.uint8) for plane in (hue, saturation, value, chroma)]


def disc(radius_px: int) -> RgbImage:
    """A round structuring element, (2r + 1, 2r + 1) uint8."""
    size = 2 * max(radius_px, 0) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), dtype=np.uint8)


_NEAR = disc(2)  # 4 µm, at about 2 µm/px


def opened(masks: Levels, element: Levels) -> Levels:
    """Keep of (N, H, W) masks, in place, what the structuring element fits into."""
    for index in np.flatnonzero(masks.any(axis=(1, 2))):
        masks[index] = cv2.morphologyEx(masks[index], cv2.MORPH_OPEN, element)
    return masks
