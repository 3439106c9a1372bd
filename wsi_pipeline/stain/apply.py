"""Map tiles from one slide's stains to the reference, fast."""

import cv2
import numpy as np

from wsi_pipeline.errors import StainFitError
from wsi_pipeline.stain.stains import OPTICAL_DENSITY, REFERENCE, Matrix, Stains, density_map
from wsi_pipeline.types import RgbTiles

# Two float32 scratch images of this many pixels (1.5 MB together) stay in a core's cache.
_CHUNK_PX = 65_536


class Scratch:
    """What pixels are worked on in; many small calls that share it are spared new memory."""

    def __init__(self) -> None:
        self.density = np.empty((_CHUNK_PX, 1, 3), np.float32)
        self.mapped = np.empty_like(self.density)


def normalise(
    tiles: RgbTiles,
    source: Stains | None,
    target: Stains = REFERENCE,
    out: RgbTiles | None = None,
    scratch: Scratch | None = None,
) -> RgbTiles:
    """Map tiles from one Macenko stain basis to another.

    For fixed stains that is one 3x3 matrix in optical density: look-up, matrix, exponential.

    Args:
        tiles: (N, H, W, 3) uint8 RGB; any number of leading axes will do.
        source: stains fitted on the slide; None leaves the tiles as they are.
        target: reference stains.
        out: where to write, same shape; may be ``tiles`` itself.
        scratch: used by one call at a time.

    Returns:
        ``out``, or a new array of the same shape. White stays white. With ``source`` None and no
        ``out`` the tiles themselves are returned, not a copy.

    Raises:
        StainFitError: ``tiles`` or ``out`` is not uint8 RGB, or their shapes differ.

    Source: Macenko et al., ISBI 2009.
    """
    if tiles.dtype != np.uint8 or tiles.ndim < 2 or tiles.shape[-1] != 3:
        raise StainFitError(f"Tiles must be (..., 3) uint8, not {tiles.shape} {tiles.dtype}.")
    if out is not None and (out.shape != tiles.shape or out.dtype != np.uint8):
        raise StainFitError(f"out must be {tiles.shape} uint8, not {out.shape} {out.dtype}.")
    if source is None:
        if out is None:
            return tiles
        np.copyto(out, tiles)
        return out
    contiguous = out is not None and out.flags.c_contiguous
    result = out if out is not None and contiguous else np.empty(tiles.shape, np.uint8)
    _map_pixels(np.ascontiguousarray(tiles), result, density_map(source, target), scratch)
    if out is not None and not contiguous:
        np.copyto(out, result)
        return out
    return result


def _map_pixels(
    pixels: RgbTiles, result: RgbTiles, density_to_density: Matrix, scratch: Scratch | None
) -> None:
    """Fill ``result`` in chunks that fit the cache; both arrays are contiguous."""
    column, mapped_column = pixels.reshape(-1, 1, 3), result.reshape(-1, 1, 3)  # OpenCV's images
    affine = np.empty((3, 4), np.float32)
    affine[:, :3] = -density_to_density
    affine[:, 3] = np.log(255.0)  # exp(ln 255 - density) is the grey level, without a further pass
    scratch = scratch or Scratch()
    density, mapped = scratch.density, scratch.mapped
    for start in range(0, len(column), _CHUNK_PX):
        part = column[start : start + _CHUNK_PX]
        rows = len(part)
        cv2.LUT(part, OPTICAL_DENSITY, dst=density[:rows])
        cv2.transform(density[:rows], affine, dst=mapped[:rows])
        cv2.exp(mapped[:rows], dst=mapped[:rows])
        # rounds to nearest and saturates; exp is positive, so the absolute value changes nothing
        cv2.convertScaleAbs(mapped[:rows], dst=mapped_column[start : start + rows])
