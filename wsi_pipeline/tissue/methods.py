"""Ways of proposing tissue pixels on an overview, selectable by name.

A method is a function of an `Appearance`; to add one, write it and name it in ``TISSUE_METHODS``.
A user's own is named ``module:function``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.registry import Registry
from wsi_pipeline.tissue.pieces import Pieces
from wsi_pipeline.types import Mask, RgbImage

# An Otsu cut outside these bounds does not part tissue from glass: there is only one of the two.
SATURATION_BOUNDS = (0.05, 0.15)
DENSITY_BOUNDS = (0.03, 0.14)
GREY_DENSITY_BOUNDS = (0.02, 0.14)
FIXED_CUTS = {"saturation": 0.07, "density": 0.05}

PALE_CUTS = (0.04, 0.025)  # saturation and density, from which a piece is looked at
WEAK_RATIO = 0.5  # pale tissue reaches half the cuts, and touches tissue that reaches them
SEED_SHARE = 0.1  # a piece in which fewer pixels reach the cuts is a bubble or a smear
LITTLE_GLASS = 0.1  # of an overview, below which its glass may be tinted
TINTED_OVER_COLOURLESS = 4.0  # at most 2.8 where glass is neutral
EVEN_LEVELS = 4  # grey levels about the commonest
EVEN_SHARE = 0.3  # of glass within them: 0.33 and more; of what overexposure leaves of tissue 0.25
COLOUR_SHARE = 0.2  # stains absorb by colour; coverslip edges, dust and unscanned areas are grey

# By grey level, for an overview of large glass has millions of pixels.
_SHARES = (np.arange(256) / 255).astype(np.float32)
_NEARLY_COLOURLESS = (np.arange(256) * 0.08).astype(np.uint8)  # the most that channels may differ
_TINTED = (np.arange(256) * 0.18).astype(np.uint8)
_COLOURED = (COLOUR_SHARE * (255 - np.arange(256, dtype=np.float32))).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """What an overview looks like, measured once for every method.

    Attributes:
        saturation: (H, W) float32 in [0, 1], HSV, once glass has been made neutral.
        density: (H, W) float32, mean optical density of the channels against glass, at most 1.
        balanced: (H, W, 3) uint8, the overview once glass has been made white.
        stain_like: (H, W) bool, neither grey nor green at whatever density.
        ink: (H, W) bool, marker ink.
        glass: (3,) float64, the colour of empty glass; (255, 255, 255) where none was seen.
        has_glass: Whether it was.
    """

    saturation: NDArray[np.float32]
    density: NDArray[np.float32]
    balanced: RgbImage
    stain_like: Mask
    ink: Mask
    glass: NDArray[np.float64]
    has_glass: bool


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A method's answer.

    Attributes:
        mask: (H, W) bool.
        thresholds: The cuts it applied.
        doubtful: (H, W) bool, pixels whose pieces are tissue if they pass against the glass around
            them, see :mod:`wsi_pipeline.tissue.pieces`; None for none.
    """

    mask: Mask
    thresholds: Mapping[str, float]
    doubtful: Mask | None = None


TissueMethod = Callable[[Appearance], Proposal]


def appearance(rgb: RgbImage, ink: Mask) -> Appearance:
    """Measure an overview, lightly smoothed against JPEG noise.

    Args:
        rgb: (H, W, 3) uint8.
        ink: (H, W) bool.
    """
    glass, has_glass = background_colour(rgb)
    smooth = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 1.0), dtype=np.uint8)
    levels = np.arange(256)[:, None] / np.maximum(glass, 1)
    balanced = cv2.LUT(smooth, np.round(np.minimum(levels, 1) * 255).astype(np.uint8)[None])
    densities = np.asarray(-np.log10(np.clip(levels, 0.1, 1)).astype(np.float32) / 3, np.float32)
    saturation = cv2.extractChannel(cv2.cvtColor(balanced, cv2.COLOR_RGB2HSV_FULL), 1)
    return Appearance(
        saturation=np.asarray(cv2.LUT(saturation, _SHARES), np.float32),
        density=_sum_of_channels(smooth, densities),
        balanced=np.asarray(balanced, np.uint8),
        stain_like=_stain_like(np.asarray(balanced, dtype=np.uint8)),
        ink=ink,
        glass=glass,
        has_glass=has_glass,
    )


def background_colour(rgb: RgbImage) -> tuple[NDArray[np.float64], bool]:
    """Colour of empty glass.

    The commonest bright, nearly colourless value. Pure white is passed over where the rest has a
    commonest value, because scanners paint what they did not scan with it; overexposed glass is
    white, and what is left then are pale shades of tissue. Where hardly anything is colourless,
    one tint that is far commoner is glass, unless green is its lowest channel, as of pale stain.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (3,) float64, and whether at least 1 % of the image looked like glass (else plain white).
    """
    channels = cv2.split(rgb)
    highest, lowest = _extremes(channels)
    bright, difference = lowest >= 150, highest - lowest
    glass = bright & (difference <= np.asarray(cv2.LUT(highest, _NEARLY_COLOURLESS)))
    share = _share(glass)
    if share < LITTLE_GLASS:
        tinted = bright & (difference <= np.asarray(cv2.LUT(highest, _TINTED)))
        if _share(tinted) >= max(0.01, TINTED_OVER_COLOURLESS * share):
            colour, evenness = _commonest(rgb, channels, tinted)
            if evenness >= EVEN_SHARE and colour[1] > colour.min():
                return colour, True
    if share < 0.01:
        return np.full(3, 255.0), False
    scanned = glass & (lowest < 254)
    if _share(scanned) >= 0.01:
        colour, evenness = _commonest(rgb, channels, scanned)
        if evenness >= EVEN_SHARE:
            return colour, True
    return _commonest(rgb, channels, glass)[0], True


def _commonest(
    rgb: RgbImage, channels: Sequence[MatLike], mask: Mask
) -> tuple[NDArray[np.float64], float]:
    """The commonest level of each channel in the mask; and the share of it that lies nearby."""
    where = mask.view(np.uint8)
    counts = [cv2.calcHist([channel], [0], where, [256], [0, 256]) for channel in channels]
    colour = np.array([np.argmax(c) for c in counts], dtype=np.float64)
    near = cv2.inRange(rgb, colour - EVEN_LEVELS, colour + EVEN_LEVELS)
    together = cv2.countNonZero(cv2.bitwise_and(near, near, mask=where))
    return colour, together / cv2.countNonZero(where)


def _share(mask: Mask) -> float:
    return cv2.countNonZero(mask.view(np.uint8)) / mask.size


def _sum_of_channels(rgb: RgbImage, table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of what the (256, 3) table says of each channel, (H, W); a plane at a time."""
    red, green, blue = (
        cv2.LUT(plane, np.ascontiguousarray(column))
        for plane, column in zip(cv2.split(rgb), table.T, strict=True)
    )
    cv2.add(red, green, dst=red)
    return np.asarray(cv2.add(red, blue, dst=red), np.float32)


def _extremes(channels: Sequence[MatLike]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The highest and the lowest of three channels, (H, W) each."""
    red, green, blue = channels
    highest = np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)
    return highest, np.asarray(cv2.min(cv2.min(red, green), blue), np.uint8)


def otsu_threshold(values: NDArray[np.float32]) -> float:
    """Otsu's cut of values in [0, 1], in steps of 1/255; 0 where there are no values.

    Source: Otsu, IEEE Trans. SMC 9, 1979.
    """
    if not values.size:
        return 0.0
    levels = cv2.convertScaleAbs(values, alpha=255)
    cut, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return float(cut) / 255


def _otsu(view: Appearance) -> Proposal:
    """Otsu on saturation and on density, with hysteresis; pale pieces are left in doubt."""
    # Neither ink nor grey matter (unscanned rectangles) may pull the cuts away from the tissue.
    judged = ~view.ink & (view.stain_like | (view.density <= DENSITY_BOUNDS[1]))
    colour_otsu = otsu_threshold(view.saturation[judged])
    density_otsu = otsu_threshold(view.density[judged])
    colour = float(np.clip(colour_otsu, *SATURATION_BOUNDS))
    density = float(np.clip(density_otsu, *DENSITY_BOUNDS))
    if not view.has_glass:  # Otsu's method would split the tissue in two
        colour, density = SATURATION_BOUNDS[0], DENSITY_BOUNDS[0]
    seeds = (view.saturation > colour) & (view.density > density)
    weak = (view.saturation > WEAK_RATIO * colour) & (view.density > WEAK_RATIO * density)
    thresholds = {
        "saturation": colour,
        "saturation_otsu": colour_otsu,
        "density": density,
        "density_otsu": density_otsu,
    }
    pale = (view.saturation > PALE_CUTS[0]) & (view.density > PALE_CUTS[1])
    return Proposal(
        mask=_hysteresis(seeds, weak & view.stain_like),
        thresholds=thresholds,
        doubtful=pale & view.stain_like if view.has_glass else None,
    )


def _hsv(view: Appearance) -> Proposal:
    """Fixed cuts, for slides on which Otsu's method is misled."""
    mask = (view.saturation > FIXED_CUTS["saturation"]) & view.stain_like
    return Proposal(mask=mask & (view.density > FIXED_CUTS["density"]), thresholds=FIXED_CUTS)


def _density(view: Appearance) -> Proposal:
    """Otsu on density alone, for tissue without colour as in pale immunohistochemistry."""
    cut = otsu_threshold(view.density[~view.ink])
    used = float(np.clip(cut, *GREY_DENSITY_BOUNDS))
    return Proposal(mask=view.density > used, thresholds={"density": used, "density_otsu": cut})


def _everything(view: Appearance) -> Proposal:
    return Proposal(mask=np.ones(view.density.shape, bool), thresholds={})


def _own(name: str, function: object) -> TissueMethod:
    """Wrap a user's function of an `Appearance` that returns a `Proposal` or an (H, W) bool mask.

    Raises:
        ConfigError: It cannot be called, or returns something else.
    """
    if not callable(function):
        raise ConfigError(f"Tissue method {name!r} is no function of an Appearance.")

    def propose(view: Appearance) -> Proposal:
        found = function(view)
        if isinstance(found, Proposal):
            return found
        mask = np.asarray(found)
        if mask.shape != view.density.shape or mask.dtype != np.bool_:
            raise ConfigError(
                f"Tissue method {name!r} must return a Proposal or an {view.density.shape} bool "
                f"mask, not {mask.shape} {mask.dtype}."
            )
        return Proposal(mask=mask, thresholds={})

    return propose


TISSUE_METHODS: Final = Registry[TissueMethod](
    "tissue method",
    {"otsu": _otsu, "hsv": _hsv, "density": _density, "none": _everything},
    wrap=_own,
)


def _stain_like(balanced: RgbImage) -> Mask:
    channels = cv2.split(balanced)
    highest, lowest = _extremes(channels)
    enough = np.asarray(cv2.LUT(lowest, _COLOURED))
    not_green = np.asarray(channels[1]) != highest
    return np.asarray((highest - lowest > enough) & not_green, dtype=bool)


def _hysteresis(seeds: Mask, weak: Mask) -> Mask:
    """Pieces of ``weak`` of which at least ``SEED_SHARE`` are seeds."""
    pieces = Pieces(weak, connectivity=8)
    seeded = pieces.areas_of(seeds)
    return pieces.keep(seeded >= np.maximum(SEED_SHARE * pieces.areas, 1))
