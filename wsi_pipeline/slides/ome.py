"""The little of OME-XML that is needed: the physical size of a pixel."""

import re
from typing import Final

_UNIT_UM: Final = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_OME: Final = re.compile(r"<(?:\w+:)?OME\b")
_PIXELS: Final = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
_ATTRIBUTE: Final = re.compile(r"(\w+)\s*=\s*[\"']([^\"']*)")
_MAX_CHARACTERS: Final = 1 << 20


def is_ome(description: str | None) -> bool:
    """Whether an ImageDescription is OME-XML."""
    return _OME.search((description or "")[:4096]) is not None


def pixel_size(description: str | None) -> dict[str, str]:
    """PhysicalSizeX and Y of the first image of an OME-TIFF, in micrometres.

    The XML is searched, not parsed: nothing in it is expanded or fetched.

    Returns:
        ``ome.PhysicalSizeX`` and ``ome.PhysicalSizeY``, those that are there.
    """
    if not is_ome(description):
        return {}
    element = _PIXELS.search((description or "")[:_MAX_CHARACTERS])
    pixels = dict(_ATTRIBUTE.findall(element.group())) if element else {}
    found: dict[str, str] = {}
    for axis in "XY":
        unit = _UNIT_UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        try:
            size = float(pixels.get(f"PhysicalSize{axis}", ""))
        except ValueError:
            continue
        if unit is not None:
            found[f"ome.PhysicalSize{axis}"] = str(size * unit)
    return found
