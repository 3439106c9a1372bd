"""From a plan to finished tiles: stain fitted on a sample, then every wanted tile in order."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.slides import Slide
from wsi_pipeline.stain import StainTransform, backed, fit_stain
from wsi_pipeline.tiles.annotated import COLUMN
from wsi_pipeline.tiles.background import BACKGROUND_RULES, GLASS_MARGIN, Judged
from wsi_pipeline.tiles.blocks import (
    NOTHING,
    Block,
    Held,
    Indices,
    Unreadable,
    Workspace,
    map_blocks,
    read_blocks,
)
from wsi_pipeline.tiles.flags import NO_RULES, Look, SlideRules, any_mark, first_mark, learn_rules
from wsi_pipeline.tiles.plan import SlidePlan
from wsi_pipeline.tiles.reference import stain_reference
from wsi_pipeline.tiles.resample import pixel_source
from wsi_pipeline.tiles.settings import Denoise, TileSettings
from wsi_pipeline.tiles.store import Columns, Packed
from wsi_pipeline.timing import Stopwatch
from wsi_pipeline.tissue import CoarseTiles, coarse_tiles, detail, ink_masks
from wsi_pipeline.types import Coords, RgbImage, RgbTiles

Made = TypeVar("Made")
Pack = Callable[[RgbTiles], Packed]

SAMPLED_TILES: Final = 128
SAMPLED_PIXELS: Final = 100_000
HELD_BYTES: Final = 64 << 20  # of tiles read for the sample, which are not read again

UNREADABLE: Final = "unreadable"  # of tiles, and of a slide that has such tiles
TOO_MUCH_FLAGGED: Final = "too_much_flagged_to_drop"


@dataclass(kw_only=True)
class Tally:
    """Running counts of a slide's tiles by fate and flag, those lost, and the time by phase."""

    counts: Counter[str] = field(default_factory=Counter)
    unreadable: Unreadable = field(default_factory=Unreadable)
    watch: Stopwatch = field(default_factory=Stopwatch)


@dataclass(frozen=True, kw_only=True)
class SlideFit:
    """What was learnt from a sample of the slide's tiles.

    Attributes:
        stain: Ready to be applied.
        background_level: Grey level that all channels of an empty pixel reach after normalisation.
        rules: What flags a tile of this slide.
        drop: Flags whose tiles are left out; empty if the sample says that too many would be.
        flags: Of the slide.
        held: Tiles read for it, by index in the grid; where few are wanted, all of those.
    """

    stain: StainTransform
    background_level: int
    rules: SlideRules
    drop: tuple[str, ...]
    flags: tuple[str, ...]
    held: Held


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Tiles that passed every rule.

    Attributes:
        tiles: (n, tile_px, tile_px, 3) uint8, normalised; overwritten once the next are asked for.
        coords: (n, 2) int64 level-0 (x, y).
        columns: Measures, (n,) float32 each; ``focus``, ``pen_fraction``, ``fold_fraction`` and
            ``blood_fraction`` of the tile as scanned; ``annotation_class``, int32, where regions
            were drawn.
        flagged: (n,) int8; kept, but with a flag: the position in ``FLAGS`` of the tile's first
            one, ``NO_FLAG`` where there is none.
        packed: The tiles as a store keeps them, if that was asked for.
    """

    tiles: RgbTiles
    coords: Coords
    columns: Columns
    flagged: NDArray[np.int8]
    packed: Packed = ()


def fit_slide(
    slide: Slide, plan: SlidePlan, settings: TileSettings, tally: Tally, threads: int = 1
) -> SlideFit:
    """Fit the stain, the focus floor and the slide's own fold and blood thresholds on a sample.

    The sample are tiles drawn at random from the wanted ones; ``threads`` read them.

    Raises:
        SlideReadError: The slide's pixels cannot be decoded.
        ConfigError: The stain method is unknown.
    """
    rng = np.random.default_rng(settings.seed)
    wanted = np.flatnonzero(plan.wanted)
    chosen = rng.choice(wanted, min(SAMPLED_TILES, len(wanted)), replace=False)
    most = HELD_BYTES // (3 * plan.grid.tile_px**2)
    needed = wanted if len(wanted) <= most else chosen
    tally.unreadable = _allowed(len(wanted), settings)
    source, grid = pixel_source(slide, plan.grid, settings.resample)
    sample = read_blocks(
        source, grid, needed, threads=threads, watch=tally.watch, unreadable=tally.unreadable
    )
    blocks = list(_timed(sample, tally))
    with tally.watch.phase("fit"):
        read = {int(i): tile for b in blocks for i, tile in zip(b.indices, b.tiles, strict=True)}
        indices = np.array([i for i in np.sort(chosen).tolist() if i in read], np.int64)
        tiles = _stacked([read[i] for i in indices.tolist()], plan.grid.tile_px)
        coarse = coarse_tiles(tiles, plan.grid.effective_mpp)
        clean = denoise_tiles(tiles, settings.denoise, settings.denoise_radius_px)
        free = plan.tissue_in(indices)
        _leave_ink_out(free, coarse)
        method = backed(settings.stain, settings.stain_backend)
        reference = stain_reference(settings)
        stain = fit_stain(method, _draw(clean, free, rng), reference)
        level = _background_level(plan, stain, settings)
        rule = BACKGROUND_RULES.choose(settings.background_rule)
        normalised = stain.apply(clean) if rule.on_normalised else None
        judged = _judged(coarse, normalised, plan, level)
        background = rule.share(judged, settings)
        full = np.flatnonzero(background <= settings.max_background_fraction)
        sample_look = _look(tiles, judged, full)
        fit = _learn_from(sample_look, stain, settings)
        held = dict(islice(read.items(), most))
        return _keep_enough(sample_look, replace(fit, background_level=level, held=held), settings)


def _allowed(wanted: int, settings: TileSettings) -> Unreadable:
    """Return where tiles are counted of which no more than so many may be unreadable."""
    most = int(settings.max_unreadable * wanted)
    if not settings.max_unreadable:
        return Unreadable()
    return Unreadable(
        most,
        f"More than {most} of its {wanted} tiles with tissue cannot be read "
        f"(--max-unreadable {settings.max_unreadable:g}).",
    )


def _learn_from(sample: Look, stain: StainTransform, settings: TileSettings) -> SlideFit:
    """Learn from the sampled tiles what is sharp, folded and bloody on this slide."""
    return SlideFit(
        stain=stain,
        background_level=0,
        rules=NO_RULES if settings.modality == "ct" else learn_rules(settings, sample),
        drop=settings.drop_flagged,
        flags=(),
        held=NOTHING,
    )


def _keep_enough(sample: Look, fit: SlideFit, settings: TileSettings) -> SlideFit:
    """Drop nothing if the sampled tiles say that it were too much."""
    if not len(sample.focus) or not fit.drop:
        return fit
    measures = fit.rules.measure(sample)
    lost = any_mark(fit.rules.marks(measures), fit.drop)
    if lost.mean() > settings.max_dropped_fraction:
        return replace(fit, drop=(), flags=(TOO_MUCH_FLAGGED,))
    return fit


def _look(tiles: RgbTiles, judged: Judged, places: Indices) -> Look:
    """Look at the tiles at (n,) places as they were scanned; the coarse ones are there."""
    focus, sharpness = detail(tiles, places)
    return Look(
        focus=focus, sharpness=sharpness, coarse=judged.scanned.at(places), glass=judged.glass
    )


def _judged(
    scanned: CoarseTiles, normalised: RgbTiles | None, plan: SlidePlan, level: int
) -> Judged:
    mpp = plan.grid.effective_mpp
    return Judged(scanned=scanned, normalised=normalised, mpp=mpp, glass=plan.glass, level=level)


def finish_tiles(  # noqa: PLR0913  what to finish, and how
    slide: Slide,
    plan: SlidePlan,
    fit: SlideFit,
    settings: TileSettings,
    tally: Tally,
    *,
    threads: int = 1,
    pack: Pack | None = None,
) -> Generator[Finished]:
    """Yield normalised tiles that pass the rules, in canonical order; count the others.

    Args:
        slide: Opened.
        plan: From :func:`survey_slide`.
        fit: From :func:`fit_slide`.
        settings: What is asked.
        tally: Told the fates of tiles, and where the time goes.
        threads: That read and finish tiles beside the caller.
        pack: Packs tiles in those threads, while they are in a cache.

    Raises:
        SlideReadError: The slide's pixels cannot be decoded.
    """

    def finish(block: Block, space: Workspace) -> tuple[Finished, Counter[str]]:
        finished, fates = _finish(block, plan, fit, settings, tally.watch, space)
        if pack is not None and len(finished.coords):
            with tally.watch.phase("encode"):
                finished = replace(finished, packed=pack(finished.tiles))
        return finished, fates

    source, grid = pixel_source(slide, plan.grid, settings.resample)
    done = map_blocks(
        source, grid, plan.wanted, finish, held=fit.held, threads=threads, watch=tally.watch,
        unreadable=tally.unreadable,
    )  # fmt: skip
    tally.counts["candidates"] += len(plan.grid)
    tally.counts["rejected_tissue"] += len(plan.grid) - int(plan.wanted.sum())
    for finished, fates in _timed(done, tally):
        tally.counts.update(fates)
        if len(finished.coords):
            yield finished
    tally.counts[f"rejected_{UNREADABLE}"] += len(tally.unreadable.reasons)


def _finish(
    block: Block,
    plan: SlidePlan,
    fit: SlideFit,
    settings: TileSettings,
    watch: Stopwatch,
    space: Workspace,
) -> tuple[Finished, Counter[str]]:
    """Normalise and judge tiles; also return how many met which fate."""
    rule = BACKGROUND_RULES.choose(settings.background_rule)

    def normalise(scanned: RgbTiles) -> RgbTiles:
        with watch.phase("normalise"):
            clean = denoise_tiles(scanned, settings.denoise, settings.denoise_radius_px)
            return fit.stain.apply(clean, space.array("normalised", *clean.shape))

    normalised = normalise(block.tiles) if rule.on_normalised else None
    with watch.phase("judge"):
        scanned = coarse_tiles(block.tiles, plan.grid.effective_mpp)
        judged = _judged(scanned, normalised, plan, fit.background_level)
        background = rule.share(judged, settings)
        full = np.flatnonzero(background <= settings.max_background_fraction)
        columns = fit.rules.measure(_look(block.tiles, judged, full))
        marks = fit.rules.marks(columns)
        kept, fates = _fates(marks, fit.drop)
    fates["rejected_background"] = len(background) - len(full)
    places = full[kept]
    indices = block.indices[places]
    chosen = space.taken("kept", block.tiles if normalised is None else normalised, places)
    finished = Finished(
        tiles=normalise(chosen) if normalised is None else chosen,
        coords=plan.grid.coords(indices),
        columns={
            "tissue_fraction": plan.tissue_fraction[indices],
            "background_fraction": background[places],
            **_class_column(plan, indices),
            **{name: values[kept] for name, values in columns.items()},
        },
        flagged=first_mark(marks)[kept],
    )
    return finished, fates


def _class_column(plan: SlidePlan, indices: Indices) -> dict[str, NDArray[np.int32]]:
    return {} if plan.classes is None else {COLUMN: plan.classes.index[indices]}


def _leave_ink_out(free: NDArray[np.bool_], coarse: CoarseTiles) -> None:
    """Take ink, which must not pass for a stain, out of (n, tile_px, tile_px) masks."""
    for mask, ink in zip(free, ink_masks(coarse), strict=True):
        if ink.any():
            side = mask.shape[::-1]
            wide = cv2.resize(ink.view(np.uint8), side, interpolation=cv2.INTER_NEAREST)
            mask &= wide == 0


def _draw(
    tiles: RgbTiles, tissue: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw (P, 3) pixels at random, from each tile by its tissue's share.

    Never with a stride: it would lock on to the blocks of the JPEG compression.
    """
    drawn = [np.empty((0, 3), np.uint8)]
    for tile, mask in zip(tiles, tissue, strict=True):
        found = np.count_nonzero(mask)
        if found:
            count = round(SAMPLED_PIXELS / len(tiles) * found / mask.size)
            places = rng.choice(found, count)  # among the mask's pixels
            if found < mask.size:
                places = np.flatnonzero(mask)[places]
            drawn.append(tile.reshape(-1, 3)[places])
    return np.concatenate(drawn)


def _background_level(plan: SlidePlan, stain: StainTransform, settings: TileSettings) -> int:
    if settings.background_level is not None:
        return settings.background_level
    glass = stain.apply(plan.glass.reshape(1, 1, 1, 3))
    return max(0, int(glass.min()) - GLASS_MARGIN)


def _fates(
    marks: Mapping[str, NDArray[np.bool_]], drop: Sequence[str]
) -> tuple[NDArray[np.bool_], Counter[str]]:
    """Return which tiles are kept, and counts; a tile counts under the first flag that drops it."""
    counts: Counter[str] = Counter()
    kept = ~any_mark(marks, ())
    for name in drop:
        counts[f"rejected_{name}"] += int((kept & marks[name]).sum())
        kept &= ~marks[name]
    counts["kept"] += int(kept.sum())
    for name, mark in marks.items():
        counts[f"flagged_{name}"] += int((kept & mark).sum())
    return kept, counts


def _timed(blocks: Iterator[Made], tally: Tally) -> Iterator[Made]:
    """Pass on what threads make and note how long the caller had to wait for it."""
    while True:
        with tally.watch.phase("wait"):
            block = next(blocks, None)
        if block is None:
            return
        yield block


def _stacked(tiles: Sequence[RgbImage], side: int) -> RgbTiles:
    return np.stack(tiles) if tiles else np.empty((0, side, side, 3), np.uint8)


def denoise_tiles(tiles: RgbTiles, method: Denoise, radius_px: int = 1) -> RgbTiles:
    """Filter each tile by itself, its border pixels repeated outwards.

    So a tile's pixels depend on nothing beyond it, and neighbours differ a little along their seam.

    Args:
        tiles: (N, H, W, 3) uint8.
        method: ``median`` takes out single bright and dark pixels and keeps edges; ``gaussian``
            (standard deviation half the radius) evens out grain and softens edges; ``none``
            returns ``tiles`` itself.
        radius_px: Of the window, which is 2 radius + 1 pixels wide.

    Returns:
        (N, H, W, 3) uint8.
    """
    if method == "none":
        return tiles
    side = 2 * radius_px + 1
    out = np.empty_like(tiles)
    for index, tile in enumerate(tiles):
        if method == "median":
            out[index] = cv2.medianBlur(np.ascontiguousarray(tile), side)
        else:
            out[index] = cv2.GaussianBlur(
                tile, (side, side), radius_px / 2, borderType=cv2.BORDER_REPLICATE
            )
    return out
