"""One small picture of a slide, made from the coarsest suitable level in bounded memory."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slides.protocol import Pixels, Reducible, Slide
from wsi_pipeline.types import Region, RgbImage

MOST_UNREADABLE = 0.05  # share of an overview that may be filled in
PIECE_PX = 64  # side of the pieces in which a block is read that cannot be read whole
FINER_PX = 8192  # side of what is read of a finer level in the place of a piece, at most
INPAINT_PX = 3  # how far around a pixel is looked to fill it in
BLOCK_PX = 2048  # side of the blocks read at a time; 17 MB as RGBA
AT_ONCE = 2  # blocks in work: one is averaged while another is read
UNSCALED_MAX_PX = 2048  # longest side of an overview when the resolution is unknown
SCALED_BY = (8, 4)  # that native tiles are decoded smaller by; at 2 hardly anything is saved
SCALED_FROM_PX = 32 << 20  # of a level; fewer are read in no time, and averaged to the bit


@dataclass(frozen=True, kw_only=True, eq=False)
class LowImage:
    """An overview of a slide or of a region of it.

    Attributes:
        rgb: (h, w, 3) uint8.
        downsample: Level-0 pixels per overview pixel, exact.
        origin: Level-0 (x, y) of the overview's top-left corner.
    """

    rgb: RgbImage
    downsample: float
    origin: tuple[float, float]


def read_low(
    slide: Slide,
    mpp: float | None,
    target_um_per_px: float = 8.0,
    region: Region | None = None,
) -> LowImage:
    """Read an overview of about the resolution asked for.

    What cannot be decoded is read from a finer level; the little that no level gives is filled in
    from around it, so that tissue is looked for there, too.

    The coarsest level that is still at least as fine is reduced by a whole number with area
    averaging, so the picture's scale is exact and does not depend on how it was read. Where much
    is read, that number is a multiple of four or eight, and the reader has a way, native tiles are
    decoded at that fraction of their size: the mean of a JPEG's 8 × 8 block is the first of its
    coefficients. Memory is bounded by the overview and two blocks, even when the slide has level 0
    only.

    Args:
        slide: An open slide.
        mpp: Level-0 micrometres per pixel; None when unknown, then the overview has at most
            2048 px on its longest side.
        target_um_per_px: Resolution wanted, micrometres per pixel.
        region: Level-0 rectangle; the scanned part of the slide by default.

    Raises:
        SlideReadError: More than a twentieth of the pixels cannot be decoded.
    """
    region = region or slide.info.bounds
    if mpp is None:
        target = max(1.0, max(region.width, region.height) / UNSCALED_MAX_PX)
    else:
        target = max(1.0, target_um_per_px / mpp)
    level, factor = choose_level(slide.info.level_downsamples, target)
    downsample = slide.info.level_downsamples[level]
    x, y = round(region.x / downsample), round(region.y / downsample)
    width = max(1, round(region.width / downsample))
    height = max(1, round(region.height / downsample))
    level_width, level_height = slide.info.level_dimensions[level]
    # Rounding must not add a white column that the slide does not have.
    if region.x + region.width <= slide.info.level_dimensions[0][0]:
        width = max(1, min(width, level_width - x))
    if region.y + region.height <= slide.info.level_dimensions[0][1]:
        height = max(1, min(height, level_height - y))
    return LowImage(
        rgb=_read_reduced(slide, level, Region(x=x, y=y, width=width, height=height), factor),
        downsample=downsample * factor,
        origin=(x * downsample, y * downsample),
    )


def choose_level(level_downsamples: tuple[float, ...], target: float) -> tuple[int, int]:
    """The coarsest level not coarser than ``target`` (2 % tolerance), and what is left to reduce.

    Returns:
        (level, whole factor ≥ 1) with ``level_downsamples[level] * factor`` near ``target``.
    """
    fits = [level for level, ds in enumerate(level_downsamples) if ds <= target * 1.02]
    level = max(fits, key=lambda k: level_downsamples[k], default=0)
    return level, max(1, round(target / level_downsamples[level]))


def shrink_to(slide: Slide, max_px: int) -> RgbImage:
    """The scanned part with its longest side at most ``max_px``, (h, w, 3) uint8."""
    bounds = slide.info.bounds
    longest = max(bounds.width, bounds.height)
    # mpp 1 makes the target a plain downsample; floor the factor so that only shrinking is left.
    low = read_low(slide, 1.0, max(1.0, longest / max_px / 2))
    scale = max_px / max(low.rgb.shape[:2])
    if scale >= 1:
        return low.rgb
    size = tuple(max(1, min(max_px, round(side * scale))) for side in low.rgb.shape[1::-1])
    shrunk: RgbImage = cv2.resize(low.rgb, size, interpolation=cv2.INTER_AREA)
    return shrunk


def _read_reduced(slide: Slide, level: int, area: Region, factor: int) -> RgbImage:
    """Read an area, px of the level, of which ``factor`` × ``factor`` pixels become one."""
    width, height = area.width, area.height
    scaled = _Scaled.of(slide, level, factor) if width * height > SCALED_FROM_PX else None
    low = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    hole = np.zeros(low.shape[:2], np.uint8)

    def fill(rows: slice, columns: slice) -> SlideReadError | None:
        """Fill a block; return why it could not be read whole."""
        at = (area.x + columns.start * factor, area.y + rows.start * factor)
        size = (
            min(columns.stop * factor, width) - columns.start * factor,
            min(rows.stop * factor, height) - rows.start * factor,
        )
        try:
            if scaled is not None and scaled.has(at, size):
                low[rows, columns] = scaled.read(at, size)
            else:
                low[rows, columns] = reduce_area(slide.read(level, *at, *size), factor)
        except SlideReadError as error:
            _read_in_pieces(
                slide, level, (*at, *size), factor, low[rows, columns], hole[rows, columns]
            )
            return error
        return None

    spans = (_spans(length, factor, scaled is not None) for length in (height, width))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="overview") as pool:
        outcomes = list(pool.map(lambda block: fill(*block), product(*spans)))
    failed = next(filter(None, outcomes), None)
    if failed is None or not hole.any():
        return low
    if hole.mean() > MOST_UNREADABLE:
        raise failed
    return np.asarray(cv2.inpaint(low, hole, INPAINT_PX, cv2.INPAINT_TELEA), np.uint8)


def _spans(length: int, factor: int, apart: bool) -> Iterator[slice]:
    """Cut a side of the overview into blocks; ``apart``: a last pixel that is not full is one."""
    side, whole, count = max(1, BLOCK_PX // factor), length // factor, -(-length // factor)
    full = whole if apart else count
    edges = dict.fromkeys((*range(0, full, side), full, count))
    return (slice(*span) for span in pairwise(edges))


@dataclass(frozen=True, kw_only=True)
class _Scaled:
    """A level that is decoded ``by`` times smaller, and averaged over ``rest`` from there.

    Attributes:
        size: (width, height) of the level itself.
    """

    pixels: Pixels
    size: tuple[int, int]
    by: int
    rest: int

    @classmethod
    def of(cls, slide: Slide, level: int, factor: int) -> Self | None:
        """Return the smallest that goes into the factor; None where there is no such way."""
        by = next((each for each in SCALED_BY if factor % each == 0), None)
        pixels = slide.reduced(level, by) if by and isinstance(slide, Reducible) else None
        if by is None or pixels is None:
            return None
        size = slide.info.level_dimensions[level]
        return cls(pixels=pixels, size=size, by=by, rest=factor // by)

    def has(self, at: tuple[int, int], size: tuple[int, int]) -> bool:
        """Whether a rectangle lies inside the level and begins and ends between smaller pixels."""
        inside = all(0 <= a <= most - n for a, n, most in zip(at, size, self.size, strict=True))
        return inside and not any(each % self.by for each in (*at, *size))

    def read(self, at: tuple[int, int], size: tuple[int, int]) -> RgbImage:
        """Read such a rectangle, reduced by the whole factor."""
        rgb = np.empty((size[1] // self.by, size[0] // self.by, 3), np.uint8)
        self.pixels.read_into(0, at[0] // self.by, at[1] // self.by, rgb)
        return reduce_area(rgb, self.rest)


def _read_in_pieces(
    slide: Slide,
    level: int,
    rectangle: tuple[int, int, int, int],
    factor: int,
    low: RgbImage,
    hole: NDArray[np.uint8],
) -> None:
    """Fill ``low`` piece by piece, each from the first level that gives it; mark what none does."""
    x, y, width, height = rectangle
    side = max(1, PIECE_PX // factor)
    for top in range(0, low.shape[0], side):
        for left in range(0, low.shape[1], side):
            piece = _read_piece(
                slide,
                level,
                (x + left * factor, y + top * factor),
                (min(side * factor, width - left * factor),
                 min(side * factor, height - top * factor)),
            )  # fmt: skip
            place = slice(top, top + side), slice(left, left + side)
            if piece is None:
                low[place], hole[place] = 0, 1
            else:
                low[place] = reduce_area(piece, factor)


def _read_piece(
    slide: Slide, level: int, corner: tuple[int, int], size: tuple[int, int]
) -> RgbImage | None:
    """Read pixels of a level from it or a finer one; None where none of them gives them."""
    downsamples = slide.info.level_downsamples
    for finer in range(level, -1, -1):
        ratio = downsamples[level] / downsamples[finer]
        if max(size) * ratio > FINER_PX:
            return None
        try:
            pixels = slide.read(
                finer, *(round(at * ratio) for at in corner), *(round(n * ratio) for n in size)
            )
        except SlideReadError:
            continue
        if finer == level:
            return pixels
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return None


def reduce_area(rgb: RgbImage, factor: int) -> RgbImage:
    """Average ``factor`` × ``factor`` pixels into one.

    A last row or column that is not full averages the pixels it has: (h, w, 3) becomes
    (ceil(h / factor), ceil(w / factor), 3).
    """
    if factor == 1:
        return rgb
    height, width = rgb.shape[:2]
    low = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for top, bottom in _full_and_rest(height, factor):
        for left, right in _full_and_rest(width, factor):
            size = (-(-(right - left) // factor), -(-(bottom - top) // factor))
            row, column = top // factor, left // factor
            low[row : row + size[1], column : column + size[0]] = cv2.resize(
                rgb[top:bottom, left:right], size, interpolation=cv2.INTER_AREA
            )
    return low


def _full_and_rest(length: int, factor: int) -> list[tuple[int, int]]:
    full = length - length % factor
    return [span for span in ((0, full), (full, length)) if span[1] > span[0]]
