"""How much of a tile is empty, by the rule that ``--background-rule`` names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.registry import Registry
from wsi_pipeline.tissue import CoarseTiles, background_fractions, empty_fractions, reduce_tiles
from wsi_pipeline.types import RgbTiles

GLASS_MARGIN: Final = 10  # grey levels by which dust, noise and vignetting darken empty glass
UNKNOWN_MPP: Final = 0.5

Values = NDArray[np.float32]


class Knobs(Protocol):
    """The settings that rules on normalised tiles depend on."""

    @property
    def background_um(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Judged:
    """N tiles before a rule.

    Attributes:
        scanned: Tiles as scanned, at about 2 µm/px.
        normalised: (N, H, W, 3) uint8; None for a rule that does not ask for them.
        mpp: Resolution of ``normalised``, µm/px; None where unknown.
        glass: (3,) uint8, colour of the slide's empty glass as scanned.
        level: Grey level that all channels of an empty normalised pixel reach.
    """

    scanned: CoarseTiles
    normalised: RgbTiles | None
    mpp: float | None
    glass: NDArray[np.uint8]
    level: int


@dataclass(frozen=True, kw_only=True)
class BackgroundRule:
    """One rule: its (N,) shares, and whether it needs normalised tiles."""

    on_normalised: bool
    share: Callable[[Judged, Knobs], Values]


def _scanned(tiles: Judged, _knobs: Knobs) -> Values:
    return empty_fractions(tiles.scanned, tiles.glass)


def _normalised(tiles: Judged, knobs: Knobs) -> Values:
    """Bright squares of about ``background_um``."""
    assert tiles.normalised is not None
    return background_fractions(
        _averaged(tiles.normalised, tiles.mpp, knobs.background_um), tiles.level
    )


def _normalised_pixel(tiles: Judged, _knobs: Knobs) -> Values:
    """Bright pixels, as the study counted them."""
    assert tiles.normalised is not None
    return background_fractions(tiles.normalised, tiles.level)


def _averaged(tiles: RgbTiles, mpp: float | None, side_um: float) -> RgbTiles:
    """Average pixels over squares; as at 0.5 µm/px where that is unknown."""
    side = tiles.shape[1]
    cells = round(side * (mpp or UNKNOWN_MPP) / side_um) if side_um else side
    return tiles if cells >= side else reduce_tiles(tiles, (max(1, cells), max(1, cells)))


BACKGROUND_RULES: Final = Registry(
    "background rule",
    {
        "scanned": BackgroundRule(on_normalised=False, share=_scanned),
        "normalised": BackgroundRule(on_normalised=True, share=_normalised),
        "normalised-pixel": BackgroundRule(on_normalised=True, share=_normalised_pixel),
    },
)
"""``scanned``: where light passes as through glass, whatever the stain method. ``normalised``:
bright after normalisation, over squares, as earlier stores had it. ``normalised-pixel``: the same
for single pixels, as the study counted."""
