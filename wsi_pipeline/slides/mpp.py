"""The physical size of a pixel: found in the metadata, or given by the user, never guessed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from wsi_pipeline.errors import MppError
from wsi_pipeline.slides.protocol import SlideInfo

PLAUSIBLE = (0.05, 10.0)  # µm/px a slide scanner can have; 10 µm/px is 2540 dpi
MAX_ANISOTROPY = 0.05  # relative difference of x and y
MAX_SLIDE_MM = 200.0  # twice the largest glass in use, the 100 mm whole-mount slide
MAX_SLIDE_MM2 = 20_000.0  # twice the largest again: the area, which the header of a bomb overdoes
MAX_CONTRADICTION = 0.05  # relative difference between two fields of one file
MAX_POWER_RATIO = 5.0  # mpp × objective power is near 10; a unit off by 10× is not
REMEDY = "give it in the mpp column of the cohort table, with --mpp-default or with --mpp-override"
_TAGS_OF_ANOTHER_IMAGE = ("leica", "philips", "ventana")  # their first directory is an overview
_TIFF_UNIT_UM = {"inch": 25400.0, "centimeter": 10000.0, "millimeter": 1000.0, "micrometer": 1.0}
_DICOM_SPACING = "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[{}]"

_OME_UNIT_UM: Final = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_OME: Final = re.compile(r"<(?:\w+:)?OME\b")
_OME_PIXELS: Final = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
_OME_ATTRIBUTE: Final = re.compile(r"(\w+)\s*=\s*[\"']([^\"']*)")
_MAX_CHARACTERS: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FoundMpp:
    """A resolution as the metadata has it, unchecked."""

    x: float
    y: float
    source: str


@dataclass(frozen=True, kw_only=True)
class ResolvedMpp:
    """A checked resolution: micrometres per level-0 pixel, and where it comes from."""

    mpp: float
    source: str


def resolve_mpp(info: SlideInfo, override: float | None = None) -> ResolvedMpp:
    """Decide a slide's resolution.

    Args:
        info: The slide's metadata.
        override: Micrometres per level-0 pixel; it wins over the metadata.

    Raises:
        MppError: It is missing, outside 0.05 to 10 µm/px, differs by more than 5 % between x
            and y or between two fields of the file, or contradicts the objective power or the
            size of a glass slide.
    """
    if override is not None:
        _check_range(info.path, override, "the value given for it")
        _check_extent(info, override, "the value given for it")
        return ResolvedMpp(mpp=override, source="override")
    if info.mpp_x is None or info.mpp_y is None or info.mpp_source is None:
        raise MppError(_missing(info))
    where = f"its {info.mpp_source}"
    _check_range(info.path, info.mpp_x, where)
    _check_range(info.path, info.mpp_y, where)
    if abs(info.mpp_x - info.mpp_y) > MAX_ANISOTROPY * min(info.mpp_x, info.mpp_y):
        raise MppError(
            f"{info.path}: {where} says {info.mpp_x:.4g} µm/px across but {info.mpp_y:.4g} down,"
            f" and pixels should be square; {REMEDY}."
        )
    mpp = (info.mpp_x + info.mpp_y) / 2
    _check_fields(info, mpp, where)
    _check_power(info, mpp, where)
    _check_extent(info, mpp, where)
    return ResolvedMpp(mpp=mpp, source=info.mpp_source)


def own_mpp(info: SlideInfo) -> float | None:
    """What the file itself says of its resolution, µm/px; None if nothing, or nothing usable."""
    try:
        return resolve_mpp(info).mpp
    except MppError:
        return None


def find_mpp(properties: Mapping[str, str]) -> FoundMpp | None:
    """Look through the fields where formats put the resolution, the most specific first.

    TIFF tags that amount to less than 2540 dpi describe a screen or a print (72, 96, 300 dpi
    are what editors write) and count as absent.
    """
    return next(_candidates(properties), None)


def _candidates(properties: Mapping[str, str]) -> Iterator[FoundMpp]:
    # For a generic TIFF OpenSlide derives its value from the tags, which are looked at last.
    if properties.get("openslide.vendor") != "generic-tiff":
        yield from _pair(properties, "openslide.mpp-x", "openslide.mpp-y")
    # Without MPP in its metadata TiffSlide, too, falls back on the tags.
    if "tiff.XResolution" not in properties:
        yield from _pair(properties, "tiffslide.mpp-x", "tiffslide.mpp-y")
    yield from _pair(properties, "aperio.MPP", "aperio.MPP")
    yield from _pair(properties, "ome.PhysicalSizeX", "ome.PhysicalSizeY")
    yield from _pair(properties, _DICOM_SPACING.format(1), _DICOM_SPACING.format(0), 1000.0)
    yield from _dicom_volume(properties)
    tags = tiff_tag_mpp(properties)
    if tags is not None and max(tags.x, tags.y) <= PLAUSIBLE[1]:
        yield tags


def _dicom_volume(properties: Mapping[str, str]) -> Iterator[FoundMpp]:
    """The imaged volume (mm) over the pixels that show it."""
    names = ("ImagedVolumeWidth", "ImagedVolumeHeight", "TotalPixelMatrixColumns",
             "TotalPixelMatrixRows")  # fmt: skip
    width, height, columns, rows = (number(properties.get(f"dicom.{name}")) for name in names)
    if width and height and columns and rows:
        yield FoundMpp(x=1000 * width / columns, y=1000 * height / rows, source=f"dicom.{names[0]}")


def tiff_tag_mpp(properties: Mapping[str, str]) -> FoundMpp | None:
    """µm/px by the TIFF resolution tags, whatever they mean; None without a unit."""
    unit = _TIFF_UNIT_UM.get(properties.get("tiff.ResolutionUnit", "").lower())
    x = number(properties.get("tiff.XResolution"))
    y = number(properties.get("tiff.YResolution"))
    if unit is None or x is None or y is None:
        return None
    source = f"tiff.XResolution ({x:g} px per {properties['tiff.ResolutionUnit'].lower()})"
    return FoundMpp(x=unit / x, y=unit / y, source=source)


def number(text: str | None) -> float | None:
    """A finite positive number written in a metadata field, else None."""
    try:
        value = float((text or "").strip().replace(",", "."))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


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
    element = _OME_PIXELS.search((description or "")[:_MAX_CHARACTERS])
    pixels = dict(_OME_ATTRIBUTE.findall(element.group())) if element else {}
    found: dict[str, str] = {}
    for axis in "XY":
        unit = _OME_UNIT_UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        try:
            size = float(pixels.get(f"PhysicalSize{axis}", ""))
        except ValueError:
            continue
        if unit is not None:
            found[f"ome.PhysicalSize{axis}"] = str(size * unit)
    return found


def _pair(
    properties: Mapping[str, str], name_x: str, name_y: str, factor: float = 1.0
) -> Iterator[FoundMpp]:
    x, y = number(properties.get(name_x)), number(properties.get(name_y))
    if x is not None and y is not None:
        yield FoundMpp(x=x * factor, y=y * factor, source=name_x)


def _check_range(path: str, mpp: float, where: str) -> None:
    if not PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1]:
        raise MppError(
            f"{path}: {where} says {mpp:.4g} µm/px, which no slide scanner has"
            f" (0.05 to 10 are possible); {REMEDY}."
        )


def _check_fields(info: SlideInfo, mpp: float, where: str) -> None:
    """Refuse a file of which two fields say different things."""
    ours = info.properties.get("openslide.vendor") not in _TAGS_OF_ANOTHER_IMAGE
    for other in _candidates(info.properties):
        if other.source.startswith("tiff.") and not ours:
            continue
        for value in (other.x, other.y):
            if abs(value - mpp) > MAX_CONTRADICTION * mpp:
                raise MppError(
                    f"{info.path}: {where} says {mpp:.4g} µm/px, but its {other.source} says"
                    f" {value:.4g}; find out which is right, and {REMEDY}."
                )


def _check_power(info: SlideInfo, mpp: float, where: str) -> None:
    if info.objective_power is None:
        return
    ratio = mpp * info.objective_power / 10
    if not 1 / MAX_POWER_RATIO <= ratio <= MAX_POWER_RATIO:
        raise MppError(
            f"{info.path}: {where} says {mpp:.4g} µm/px, but its objective of"
            f" {info.objective_power:g}x suggests about {10 / info.objective_power:.2g}, so the"
            f" unit is probably wrong; {REMEDY}."
        )


def _check_extent(info: SlideInfo, mpp: float, where: str) -> None:
    across, down = info.bounds.width * mpp / 1000, info.bounds.height * mpp / 1000
    if max(across, down) > MAX_SLIDE_MM or across * down > MAX_SLIDE_MM2:
        raise MppError(
            f"{info.path}: {where} says {mpp:.4g} µm/px, which makes the scan {across:.0f} mm wide"
            f" and {down:.0f} mm long, more than any glass slide; {REMEDY}."
        )


def _missing(info: SlideInfo) -> str:
    hint = ""
    tags = tiff_tag_mpp(info.properties)
    if tags is not None:
        hint = f" (its TIFF tags say {25400 / tags.x:.0f} dpi, which is a print size)"
    advice = REMEDY
    if info.objective_power is not None:
        suggestion = f"{10 / info.objective_power:.2g}"
        advice += (
            f" (its objective of {info.objective_power:g}x suggests about {suggestion} µm/px:"
            " check it with the scanner's owner)"
        )
    return f"{info.path}: the file does not say its resolution{hint}; {advice}."
