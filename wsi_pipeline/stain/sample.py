"""Draw pixels for a stain fit: uniformly, at random, in one pass.

Never with a stride: a stride that is a multiple of 8 always lands on the same place of a JPEG block
and shifts the fit by 1.4 to 2.3 grey levels.
"""

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StainFitError
from wsi_pipeline.types import RgbTiles


class PixelSampler:
    """A uniform sample, without replacement, of all pixels shown to it block by block.

    Every pixel gets a random key and the smallest ``count`` keys stay; only the pixels whose key
    falls below the present limit are ever drawn, so a long slide costs little. Same blocks in the
    same order and the same seed give the same sample.

    Args:
        count: how many pixels to keep; 100,000 determine the stains to 0.1 grey level.
        seed: of the random generator.
    """

    def __init__(self, count: int = 100_000, seed: int = 0) -> None:
        if count < 1:
            raise StainFitError(f"A pixel sample needs a positive count, not {count}.")
        self._count = count
        self._rng = np.random.default_rng(seed)
        self._keys = np.empty(0, np.float64)
        self._pixels = np.empty((0, 3), np.uint8)

    def add(self, block: RgbTiles, mask: NDArray[np.bool_] | None = None) -> None:
        """Show pixels to the sampler.

        Args:
            block: (..., 3) uint8 RGB: tiles, one image or a list of pixels.
            mask: bool, the shape of ``block`` without its last axis: which pixels are tissue.

        Raises:
            StainFitError: the shapes or the type do not fit.
        """
        if block.dtype != np.uint8 or block.shape[-1:] != (3,):
            raise StainFitError(f"Pixels must be (..., 3) uint8, not {block.shape} {block.dtype}.")
        if mask is not None and mask.shape != block.shape[:-1]:
            raise StainFitError(f"A mask of {mask.shape} does not fit pixels {block.shape}.")
        flat = block.reshape(-1, 3) if mask is None else block[mask]
        full = len(self._keys) == self._count
        limit = float(self._keys.max()) if full else 1.0
        # below the limit lie Binomial(P, limit) of P uniform keys, at positions drawn evenly
        drawn = int(self._rng.binomial(len(flat), limit))
        if drawn == 0:
            return
        chosen = self._rng.choice(len(flat), drawn, replace=False, shuffle=False)
        keys = np.concatenate([self._keys, self._rng.uniform(0.0, limit, drawn)])
        pixels = np.concatenate([self._pixels, flat[chosen]])
        if len(keys) > self._count:
            best = np.argpartition(keys, self._count)[: self._count]
            keys, pixels = keys[best], pixels[best]
        self._keys, self._pixels = keys, pixels

    def pixels(self) -> NDArray[np.uint8]:
        """(P, 3) uint8, P ≤ count; in no particular order."""
        return self._pixels.copy()


def sample_pixels(
    tiles: RgbTiles,
    count: int = 100_000,
    seed: int = 0,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Draw at most ``count`` pixels from tiles in memory; see :class:`PixelSampler`."""
    sampler = PixelSampler(count, seed)
    sampler.add(tiles, mask)
    return sampler.pixels()
