"""The stain reference that ``--stain-reference`` names: read, or fitted to an image or a slide."""

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError, StainFitError
from wsi_pipeline.slides import Slide, open_slide
from wsi_pipeline.stain import PUBLISHED, Reference, fit_reference, read_reference, sample_pixels
from wsi_pipeline.tiles.blocks import read_blocks
from wsi_pipeline.tiles.plan import survey_slide
from wsi_pipeline.tiles.settings import StainSettings, TileSettings

SAMPLED_TILES: Final = 64


def stain_reference(settings: StainSettings) -> Reference:
    """Return what slides are mapped to.

    Raises:
        ConfigError: The file is missing, or no reference can be fitted to it.
        SlideError: It cannot be read.
    """
    path = settings.stain_reference
    if path is None:
        return PUBLISHED
    if not path.exists():
        raise ConfigError(f"--stain-reference {path}: there is no such file")
    return _reference(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _reference(path: Path, _modified_ns: int) -> Reference:
    try:
        if path.suffix.lower() == ".json":
            return read_reference(path)
        with open_slide(path) as slide:
            return fit_reference(_tissue_pixels(slide))
    except StainFitError as error:
        raise ConfigError(f"--stain-reference {path}: {error}") from error


def _tissue_pixels(slide: Slide) -> NDArray[np.uint8]:
    """Sample (P, 3) pixels of tissue; of all there is on a picture smaller than a tile."""
    plan = survey_slide(slide, TileSettings(unknown_mpp=True))
    wanted = np.random.default_rng(0).permutation(np.flatnonzero(plan.wanted))[:SAMPLED_TILES]
    if not len(wanted):
        return sample_pixels(plan.picture.rgb)
    blocks = list(read_blocks(slide, plan.grid, np.sort(wanted)))
    tiles = np.concatenate([block.tiles for block in blocks])
    indices = np.concatenate([block.indices for block in blocks])
    return sample_pixels(tiles, mask=plan.tissue_in(indices))
