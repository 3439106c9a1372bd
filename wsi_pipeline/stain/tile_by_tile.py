"""Macenko normalisation with stains fitted on each tile, as most other tools do it.

The slide's own fit is the better default: a tile of lymphocytes or of connective tissue has only
one of the two stains, and a fit on it invents the other. Here such a tile takes the slide's stains.
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.stain.apply import Scratch, normalise
from wsi_pipeline.stain.macenko import StainFit, fit_macenko
from wsi_pipeline.stain.stains import REFERENCE, Stains
from wsi_pipeline.types import RgbTiles

FITTED_PX: Final = 8_192  # of a tile; docs/performance.md has what all 65,536 would change
LEAST_TISSUE_PX: Final = 500  # of those, below which the slide's stains are taken


class TileByTileTransform:
    """Each tile's stains mapped to the reference; identity where the slide is no H&E.

    Attributes:
        slide: The fit on the slide, for tiles that bear none of their own.
        target: Stains to map to.
    """

    method = "macenko-tile"

    def __init__(self, slide: StainFit, target: Stains = REFERENCE) -> None:
        self.slide = slide
        self.target = target

    @property
    def flags(self) -> tuple[str, ...]:
        return self.slide.flags

    def apply(self, tiles: RgbTiles, out: RgbTiles | None = None) -> RgbTiles:
        if self.slide.stains is None:
            return normalise(tiles, None, out=out)
        mapped = np.empty_like(tiles) if out is None else out
        scratch = Scratch()
        places = _places(tiles.shape[1] * tiles.shape[2])
        for tile, result in zip(tiles, mapped, strict=True):
            pixels = np.take(tile.reshape(-1, 3), places, axis=0)
            fit = fit_macenko(pixels, min_pixels=LEAST_TISSUE_PX)
            normalise(tile, fit.stains or self.slide.stains, self.target, result, scratch)
        return mapped

    def to_attributes(self) -> dict[str, Any]:
        stains = self.slide.stains
        return {
            "method": self.method,
            "flags": list(self.flags),
            "diagnostics": dict(self.slide.diagnostics),
            "source": None if stains is None else stains.to_attributes(),
            "target": self.target.to_attributes(),
        }


@lru_cache(maxsize=8)
def _places(pixels: int) -> NDArray[np.int64]:
    """Return which pixels of every tile are looked at: at random, never with a stride."""
    if pixels <= FITTED_PX:
        return np.arange(pixels)
    return np.sort(np.random.default_rng(0).choice(pixels, FITTED_PX, replace=False))
