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
        self._fine = _Laplacian(side)
        self._half = _Laplacian((max(1, side[0] // 2), max(1, side[1] // 2)))

    def __call__(self, tile: RgbImage) -> tuple[float, float]:
        cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY, dst=self._fine.grey)
        half = self._half.grey
        cv2.resize(self._fine.grey, half.shape[::-1], dst=half, interpolation=cv2.INTER_AREA)
        fine, coarse = self._fine.variance(), self._half.variance()
        return fine, max(0.0, fine - ROUNDING) / coarse if coarse > 0 else 0.0


class _Laplacian:
    """The Laplacian of pictures of one size: what ``cv2.Laplacian`` gives, for half the time.

    It is computed along all rows at once, as if they were one: each is followed by two pixels that
    belong to no picture, and the picture is mirrored at its sides without the pixel on them.

    Attributes:
        grey: (height, width) uint8; fill it, then ask.
    """

    def __init__(self, side: tuple[int, int]) -> None:
        width, height = side
        apart, size = width + 2, height * (width + 2)  # of rows; of all of them
        framed = np.zeros((height + 3, apart), np.uint8)
        self.grey = framed[1 : height + 1, 1 : width + 1]
        self._framed = framed[: height + 2]
        self._bytes = framed.reshape(-1)
        self._levels = levels = np.zeros(framed.size, np.int16)
        self._corners = np.zeros(size + apart, np.int16)  # sums of a pixel and its next but one row
        self._edges = np.zeros(size, np.int16)
        self._diagonal = levels[: size + apart], levels[apart + 1 :][: size + apart]
        self._around = self._corners[1:][:size], self._corners[apart:][:size]
        self._middle = levels[apart + 1 :][:size]
        self._fourfold = self._corners[:size]
        self._inside = self._edges.reshape(height, apart)[:, :width]
        self._mirrored = (min(2, height), max(height - 1, 1)), (min(2, width), max(width - 1, 1))

    def variance(self) -> float:
        (above, below), (left, right) = self._mirrored
        framed = self._framed
        framed[0], framed[-1] = framed[above], framed[below]
        framed[:, 0], framed[:, -1] = framed[:, left], framed[:, right]
        np.copyto(self._levels, self._bytes)
        np.add(*self._diagonal, out=self._corners)
        np.add(*self._around, out=self._edges)
        np.multiply(self._middle, 4, out=self._fourfold)
        np.subtract(self._edges, self._fourfold, out=self._edges)
        inside = self._inside
        mean = cv2.sumElems(inside)[0] / inside.size
        return cv2.norm(inside, cv2.NORM_L2SQR) / inside.size - mean**2


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
    return np.concatenate([_shares_of_few(few) for few in coarse.handfuls])


def _shares_of_few(few: CoarseTiles) -> NDArray[np.float32]:
    tiles = few.rgb
    found = np.zeros((len(tiles), len(RULES)), np.float32)
    if not len(tiles):
        return found
    # As one picture, whose pixels are judged one by one: a call for each tile would cost more.
    marks = ink_marks(as_picture(tiles)).reshape(tiles.shape[:3])
    black = black_ink(few.planes)
    for column, name in enumerate(RULES):
        if name == "black":
            found[:, column] = shares(black)
        elif marks.any():
            own = of_colour(marks, name) & (black == 0)
            found[:, column] = shares(own.view(np.uint8))
    return found
