"""From a plan to finished tiles: stain fitted on a sample, then every wanted tile in order."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.slides import Slide
from wsi_pipeline.stain import StainTransform, fit_stain
from wsi_pipeline.tiles.blocks import Block, Indices, read_blocks
from wsi_pipeline.tiles.plan import SlidePlan
from wsi_pipeline.tiles.settings import CutSettings
from wsi_pipeline.tissue import background_fractions, focus, pen_fractions
from wsi_pipeline.types import Coords, RgbTiles

SAMPLED_TILES: Final = 128
SAMPLED_PIXELS: Final = 100_000
HELD_BYTES: Final = 128 << 20  # a slide whose wanted tiles take less is read once and held

GLASS_MARGIN: Final = 10  # grey levels by which dust, noise and vignetting darken empty glass

TOO_MUCH_FLAGGED: Final = "too_much_flagged_to_drop"


@dataclass(frozen=True, kw_only=True)
class SlideFit:
    """What was learnt from a sample of the slide's tiles.

    Attributes:
        stain: Ready to be applied.
        background_level: Grey level that all channels of an empty pixel reach after normalisation.
        focus_floor: Tiles below are flagged as blurred.
        drop: Flags whose tiles are left out; empty if the sample says that too many would be.
        flags: Of the slide.
        held: All wanted tiles, where they are few; else None.
    """

    stain: StainTransform
    background_level: int
    focus_floor: float
    drop: tuple[str, ...]
    flags: tuple[str, ...]
    held: Sequence[Block] | None


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Tiles that passed every rule.

    Attributes:
        tiles: (n, tile_px, tile_px, 3) uint8, normalised.
        coords: (n, 2) int64 level-0 (x, y).
        columns: Measures, (n,) float32 each; ``focus`` and ``pen_fraction`` of the tile as scanned.
        flagged: (n,) bool; kept, but blurred or marked with pen.
    """

    tiles: RgbTiles
    coords: Coords
    columns: Mapping[str, NDArray[np.float32]]
    flagged: NDArray[np.bool_]


@dataclass(kw_only=True)
class Tally:
    """Running counts of tiles by fate and flag, and seconds by phase."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def spend(self, phase: str, seconds: float) -> None:
        """Add to a phase's time."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def clock(self, phase: str) -> "_Clock":
        """Return a context that adds the time of its block to ``phase``."""
        return _Clock(self, phase)


class _Clock:
    def __init__(self, tally: Tally, phase: str) -> None:
        self._tally = tally
        self._phase = phase

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._tally.spend(self._phase, time.perf_counter() - self._start)


def fit_slide(slide: Slide, plan: SlidePlan, settings: CutSettings, tally: Tally) -> SlideFit:
    """Fit the stain and the focus floor on tiles drawn at random from the wanted ones.

    Raises:
        SlideReadError: The slide's pixels cannot be decoded.
        ConfigError: The stain method is unknown.
    """
    rng = np.random.default_rng(settings.seed)
    wanted = np.flatnonzero(plan.wanted)
    chosen = rng.choice(wanted, min(SAMPLED_TILES, len(wanted)), replace=False)
    few = len(wanted) * 3 * settings.tile_px**2 <= HELD_BYTES
    blocks = list(_timed(read_blocks(slide, plan.grid, wanted if few else chosen), tally))
    with tally.clock("fit"):
        indices, tiles = _gather(blocks, chosen)
        stain = fit_stain(settings.stain, _draw(tiles, plan.tissue_in(indices), rng))
        fit = SlideFit(
            stain=stain,
            background_level=_background_level(plan, stain, settings),
            focus_floor=settings.min_focus,
            drop=settings.drop,
            flags=(),
            held=blocks if few else None,
        )
        return _judge_sample(tiles, plan, fit, settings)


def _judge_sample(
    tiles: RgbTiles, plan: SlidePlan, fit: SlideFit, settings: CutSettings
) -> SlideFit:
    """Set the focus floor by the sampled tiles, and drop nothing if they say it were too much."""
    background = _background(fit.stain.apply(tiles), plan, fit, settings)
    full = tiles[background <= settings.max_background_fraction]
    if not len(full):
        return fit
    sharpness = focus(full)
    floor = max(settings.min_focus, settings.min_relative_focus * float(np.median(sharpness)))
    lost = _any(_marks(sharpness, pen_fractions(full), floor, settings), settings.drop)
    if lost.mean() > settings.max_dropped_fraction:
        return replace(fit, focus_floor=floor, drop=(), flags=(TOO_MUCH_FLAGGED,))
    return replace(fit, focus_floor=floor)


def finish_tiles(
    slide: Slide, plan: SlidePlan, fit: SlideFit, settings: CutSettings, tally: Tally
) -> Iterator[Finished]:
    """Yield normalised tiles that pass the rules, in canonical order; count the others.

    Raises:
        SlideReadError: The slide's pixels cannot be decoded.
    """
    blocks: Iterable[Block] | None = fit.held
    if blocks is None:
        blocks = _timed(read_blocks(slide, plan.grid, plan.wanted), tally)
    tally.counts["candidates"] += len(plan.grid)
    tally.counts["rejected_tissue"] += len(plan.grid) - int(plan.wanted.sum())
    for block in blocks:
        finished = _finish(block, plan, fit, settings, tally)
        if len(finished.coords):
            yield finished


def _finish(
    block: Block, plan: SlidePlan, fit: SlideFit, settings: CutSettings, tally: Tally
) -> Finished:
    with tally.clock("normalise"):
        tiles = fit.stain.apply(block.tiles)
    with tally.clock("judge"):
        background = _background(tiles, plan, fit, settings)
        full = np.flatnonzero(background <= settings.max_background_fraction)
        sharpness, pen = focus(block.tiles[full]), pen_fractions(block.tiles[full])
        marks = _marks(sharpness, pen, fit.focus_floor, settings)
        kept = _count_fates(marks, fit.drop, tally.counts)
    tally.counts["rejected_background"] += len(background) - len(full)
    places = full[kept]
    indices = block.indices[places]
    return Finished(
        tiles=tiles[places],
        coords=plan.grid.coords(indices),
        columns={
            "tissue_fraction": plan.tissue_fraction[indices],
            "background_fraction": background[places],
            "focus": sharpness[kept],
            "pen_fraction": pen[kept],
        },
        flagged=_any(marks, tuple(marks))[kept],
    )


def _draw(
    tiles: RgbTiles, tissue: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw (P, 3) pixels at random, from each tile by its tissue's share.

    Never with a stride: it would lock on to the blocks of the JPEG compression.
    """
    drawn = [np.empty((0, 3), np.uint8)]
    for tile, mask in zip(tiles, tissue, strict=True):
        places = np.flatnonzero(mask)
        if len(places):
            count = round(SAMPLED_PIXELS / len(tiles) * len(places) / mask.size)
            drawn.append(tile.reshape(-1, 3)[rng.choice(places, count)])
    return np.concatenate(drawn)


def _background_level(plan: SlidePlan, stain: StainTransform, settings: CutSettings) -> int:
    if settings.background_level is not None:
        return settings.background_level
    glass = stain.apply(plan.glass.reshape(1, 1, 1, 3))
    return max(0, int(glass.min()) - GLASS_MARGIN)


def _background(
    tiles: RgbTiles, plan: SlidePlan, fit: SlideFit, settings: CutSettings
) -> NDArray[np.float32]:
    """Return (n,) the share of each normalised tile that is as bright as glass."""
    averaged = _averaged(tiles, plan, settings.background_um)
    return background_fractions(averaged, fit.background_level)


def _averaged(tiles: RgbTiles, plan: SlidePlan, side_um: float) -> RgbTiles:
    """Average pixels over squares of about ``side_um``; as at 0.5 µm/px where that is unknown."""
    side = plan.grid.tile_px
    cells = round(side * (plan.grid.effective_mpp or 0.5) / side_um) if side_um else side
    if cells >= side:
        return tiles
    size = (max(1, cells), max(1, cells))
    small = [cv2.resize(tile, size, interpolation=cv2.INTER_AREA) for tile in tiles]
    return np.asarray(small, np.uint8).reshape(len(tiles), *size, 3)


def _marks(
    sharpness: NDArray[np.float32], pen: NDArray[np.float32], floor: float, settings: CutSettings
) -> dict[str, NDArray[np.bool_]]:
    """Return which tiles carry which flag."""
    return {"pen": pen > settings.max_pen_fraction, "blurred": sharpness < floor}


def _any(marks: Mapping[str, NDArray[np.bool_]], names: Sequence[str]) -> NDArray[np.bool_]:
    """Return which tiles carry at least one of the flags ``names``."""
    mask = np.zeros(len(marks["pen"]), np.bool_)
    for name in names:
        mask |= marks[name]
    return mask


def _count_fates(
    marks: Mapping[str, NDArray[np.bool_]], drop: Sequence[str], counts: Counter[str]
) -> NDArray[np.bool_]:
    """Return which tiles are kept; a tile counts under the first flag that drops it."""
    kept = np.ones(len(marks["pen"]), np.bool_)
    for name in drop:
        counts[f"rejected_{name}"] += int((kept & marks[name]).sum())
        kept &= ~marks[name]
    counts["kept"] += int(kept.sum())
    for name, mark in marks.items():
        counts[f"flagged_{name}"] += int((kept & mark).sum())
    return kept


def _timed(blocks: Iterator[Block], tally: Tally) -> Iterator[Block]:
    """Pass blocks on and note what they took, and how long the caller had to wait for them."""
    while True:
        with tally.clock("wait"):
            block = next(blocks, None)
        if block is None:
            return
        tally.spend("read", block.read_s)
        tally.spend("resample", block.resample_s)
        yield block


def _gather(blocks: Iterable[Block], chosen: Indices) -> tuple[Indices, RgbTiles]:
    """Return the ``chosen`` of the blocks' tiles, and their indices."""
    inside = [(block, np.isin(block.indices, chosen)) for block in blocks]
    return (
        np.concatenate([block.indices[mask] for block, mask in inside]),
        np.concatenate([block.tiles[mask] for block, mask in inside]),
    )
