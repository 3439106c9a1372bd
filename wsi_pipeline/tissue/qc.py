"""Quality of tiles, measured; what to do about it is decided elsewhere.

Each function takes (N, H, W, 3) uint8 and returns one number a tile. Tiles are visited one by one,
so that each stays in the processor's cache while OpenCV works on it. Folds and blood, which are
judged against the rest of their slide, have modules of their own.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.tissue.coarse import (
    UNKNOWN_MPP,
    CoarseTiles,
    as_picture,
    check_tiles,
    coarse_tiles,
    handfuls,
    shares,
)
from wsi_pipeline.tissue.ink import RULES, black_ink, ink_marks, of_colour
from wsi_pipeline.types import RgbImage, RgbTiles

BACKGROUND_LEVEL = 220
ROUNDING = 5.0  # squared grey levels: what rounding alone gives the Laplacian, and a little more


def focus(tiles: RgbTiles, places: NDArray[np.integer[Any]] | None = None) -> NDArray[np.float32]:
    """Sharpness: the variance of the Laplacian of luminance; higher is sharper.

    It also grows with the amount of detail, so compare tiles of one slide with each other and
    leave mostly empty tiles out.

    It does not tell a blurred tile from an even one; see :func:`sharpness`.

    Args:
        tiles: (N, H, W, 3) uint8.
        places: (n,) indices of those to look at, which need not be copied together; None for all.

    Returns:
        (N,) or (n,) float32, in squared grey levels.

    Raises:
        ValueError: ``tiles`` has another shape or type.

    Source: Pech-Pacheco et al., ICPR 2000.
    """
    return detail(tiles, places)[0]


def sharpness(
    tiles: RgbTiles, places: NDArray[np.integer[Any]] | None = None
) -> NDArray[np.float32]:
    """How much of the finest detail is there: ``focus`` of a tile over that of its half-size copy.

    What is evenly stained has little detail of any size and is no less sharp for it: dense collagen
    reaches 0.32 and more on a slide where ``focus`` alone takes it for blurred. A blur takes the
    finest detail first. On nine real slides sharp tiles lie above 0.45 of their slide's median and
    above 0.186; blurred by a Gaussian of 1 px to 3 px they lie below 0.18.

    Args:
        tiles: (N, H, W, 3) uint8.
        places: (n,) indices of those to look at; None for all.

    Returns:
        (N,) or (n,) float32; a tile without any detail has 0.

    Raises:
        ValueError: ``tiles`` has another shape or type.
    """
    return detail(tiles, places)[1]


def detail(
    tiles: RgbTiles, places: NDArray[np.integer[Any]] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return :func:`focus` and :func:`sharpness`, looking at each tile once."""
    check_tiles(tiles)
    look = _Detail((tiles.shape[2], tiles.shape[1]))
    chosen = range(len(tiles)) if places is None else places
    found = np.array([look(tiles[place]) for place in chosen], np.float32).reshape(-1, 2)
    return found[:, 0].copy(), found[:, 1].copy()


class _Detail:
    """The variance of a tile's Laplacian, and that over its half-size copy's."""

    def __init__(self, side: tuple[int, int]) -> None:
        """Get ready for tiles of this (width, height), in memory that is used again."""
        self._half = (max(1, side[0] // 2), max(1, side[1] // 2))
        self._grey = [np.empty(size[::-1], np.uint8) for size in (side, self._half)]
        self._edges = [np.empty(size[::-1], np.int16) for size in (side, self._half)]

    def __call__(self, tile: RgbImage) -> tuple[float, float]:
        grey, half = self._grey
        cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY, dst=grey)
        cv2.resize(grey, self._half, dst=half, interpolation=cv2.INTER_AREA)
        fine, coarse = (
            _variance_of_laplacian(*pair) for pair in zip(self._grey, self._edges, strict=True)
        )
        return fine, max(0.0, fine - ROUNDING) / coarse if coarse > 0 else 0.0


def _variance_of_laplacian(grey: NDArray[np.uint8], edges: NDArray[np.int16]) -> float:
    cv2.Laplacian(grey, cv2.CV_16S, dst=edges, ksize=1)
    mean = cv2.sumElems(edges)[0] / edges.size
    return cv2.norm(edges, cv2.NORM_L2SQR) / edges.size - mean**2


def background_fractions(tiles: RgbTiles, threshold: int = BACKGROUND_LEVEL) -> NDArray[np.float32]:
    """Share of empty pixels: those whose red, green and blue all reach ``threshold``.

    Meant for stain-normalised tiles, in which glass is near white whatever the scanner; there the
    same threshold means the same on every slide.

    Args:
        tiles: (N, H, W, 3) uint8.
        threshold: Grey level, 0 to 255.

    Returns:
        (N,) float32 in [0, 1].

    Raises:
        ValueError: ``tiles`` has another shape or type, or the threshold is outside 0 to 255.
    """
    check_tiles(tiles)
    if not 0 <= threshold <= 255:
        raise ValueError(f"The background threshold must lie in 0 to 255; got {threshold}.")
    low, high = np.full(3, threshold, np.float64), np.full(3, 255, np.float64)
    if not len(tiles):
        return np.zeros(0, np.float32)

    def bright(few: RgbTiles) -> NDArray[np.uint8]:
        mask = np.asarray(cv2.inRange(as_picture(few), low, high), np.uint8)
        return mask.reshape(few.shape[:3])

    return np.concatenate([shares(bright(few)) for few in handfuls(tiles)])


def ink_fractions(
    tiles: RgbTiles, mpp: float | None = UNKNOWN_MPP
) -> dict[str, NDArray[np.float32]]:
    """Share of each tile under marker ink, by colour (see ``pen_fractions``).

    Args:
        tiles: (N, H, W, 3) uint8.
        mpp: Resolution of the tiles, µm/px; None is taken for 0.5.

    Returns:
        ``red``, ``green``, ``blue``, ``black`` and ``violet`` (black that lets red through), each
        (N,) float32 in [0, 1].

    Raises:
        ValueError: ``tiles`` has another shape or type.
    """
    shares = _ink_shares(coarse_tiles(tiles, mpp))
    return {name: shares[:, column].copy() for column, name in enumerate(RULES)}


def pen_fractions(tiles: RgbTiles, mpp: float | None = UNKNOWN_MPP) -> NDArray[np.float32]:
    """Share of each tile under marker ink of any colour.

    Of 440 tiles of nine real slides without ink, labelled by eye, none exceeds 0.04 (the black
    rims of dried places on a PAS slide reach 0.038, dark keratin 0.03); all five tiles with black
    surgical ink on 5 % and more do (0.05 to 0.18).

    Args:
        tiles: (N, H, W, 3) uint8.
        mpp: Resolution of the tiles, µm/px; None is taken for 0.5.

    Returns:
        (N,) float32 in [0, 1].

    Raises:
        ValueError: ``tiles`` has another shape or type.
    """
    return coarse_pen_fractions(coarse_tiles(tiles, mpp))


def coarse_pen_fractions(coarse: CoarseTiles) -> NDArray[np.float32]:
    """``pen_fractions`` of tiles that are reduced already; (N,) float32 in [0, 1]."""
    return np.asarray(np.minimum(_ink_shares(coarse).sum(axis=1), 1), dtype=np.float32)


def _ink_shares(coarse: CoarseTiles) -> NDArray[np.float32]:
    """(N, colours) float32, columns in the order of ``RULES``."""
    return np.concatenate([_shares_of_few(few.rgb) for few in coarse.handfuls()])


def _shares_of_few(tiles: RgbTiles) -> NDArray[np.float32]:
    found = np.zeros((len(tiles), len(RULES)), np.float32)
    if not len(tiles):
        return found
    # As one picture, whose pixels are judged one by one: a call for each tile would cost more.
    marks = ink_marks(as_picture(tiles)).reshape(tiles.shape[:3])
    black = black_ink(tiles)
    for column, name in enumerate(RULES):
        if name == "black":
            found[:, column] = shares(black)
        elif marks.any():
            own = of_colour(marks, name) & (black == 0)
            found[:, column] = shares(own.view(np.uint8))
    return found
