"""The one road from a slide to finished tiles, and the stage's end of it: store and thumbnail.

``open_cut`` opens, straightens and plans; ``finished_tiles`` fits the stain, cuts, normalises and
judges. The tile stage writes what comes, extraction feeds it to an encoder.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.errors import NoTissueError
from wsi_pipeline.slides import Slide, SlideReader, SlideState, open_slide, slide_digest
from wsi_pipeline.tiles.finish import (
    Finished,
    Pack,
    SlideFit,
    Tally,
    finish_tiles,
    fit_slide,
)
from wsi_pipeline.tiles.formats import create_tiles
from wsi_pipeline.tiles.plan import SlidePlan, require_tissue, survey_slide
from wsi_pipeline.tiles.record import (
    PlacedTiles,
    describe_slide,
    describe_tiles,
    slide_flags,
    write_thumbnail,
)
from wsi_pipeline.tiles.resample import resampled_by
from wsi_pipeline.tiles.settings import WHOLE_SLIDE, SlideRequest, TileSettings
from wsi_pipeline.tiles.straighten import straighten
from wsi_pipeline.timing import Stopwatch
from wsi_pipeline.types import Coords


@dataclass(kw_only=True)
class SlideCut:
    """A slide that is open and planned, and what has become of its tiles so far.

    Attributes:
        slide: Straightened, if that was asked for.
        plan: Its tissue and tile places.
        settings: What is asked of every slide.
        threads: That read and finish tiles beside the caller.
        tally: Tiles by fate, and where the time went.
        source: What the slide's file has to be still in the end; None where it is not known.
        parts: Tiles finished so far.
        fit: What was learnt from a sample of its tiles; None before the first is finished.
    """

    slide: Slide
    plan: SlidePlan
    settings: TileSettings
    threads: int
    tally: Tally
    source: SlideState | None = None
    parts: list[PlacedTiles] = field(default_factory=list)
    fit: SlideFit | None = None

    @property
    def coords(self) -> Coords:
        """(N, 2) int64, level-0 (x, y) of the tiles finished so far."""
        return np.concatenate([np.empty((0, 2), np.int64), *(part.coords for part in self.parts)])

    def finished_tiles(self, pack: Pack | None = None) -> Generator[Finished]:
        """Yield normalised tiles that pass the rules, in canonical order.

        Args:
            pack: Packs them beside the caller, who then finds them so.

        Raises:
            NoTissueError: There is no tissue; or, in the end, no tile has passed.
            SlideReadError: The slide's pixels cannot be decoded, or its file has changed meanwhile.
        """
        try:
            yield from self._finished(pack)
        except NoTissueError:
            self._require_same()
            raise
        self._require_same()

    def _finished(self, pack: Pack | None) -> Generator[Finished]:
        slide, plan, settings = self.slide, self.plan, self.settings
        require_tissue(slide.info.path, plan, settings)
        self.fit = fit_slide(slide, plan, settings, self.tally, self.threads)
        finished = finish_tiles(
            slide, plan, self.fit, settings, self.tally, threads=self.threads, pack=pack
        )
        with closing(finished):
            for part in finished:
                self.parts.append(PlacedTiles.of(part))
                yield part
        self._require_kept()

    def describe(self) -> dict[str, Any]:
        """Return what a tile store of the finished tiles says about itself."""
        assert self.fit is not None, "no tile was finished"
        tiles = describe_tiles(self.plan, self.fit, self.settings, self.tally)
        resampled = resampled_by(self.slide, self.plan.grid, self.settings.resample)
        return describe_slide(self.slide) | {"resampled": resampled} | tiles

    def flags(self) -> tuple[str, ...]:
        """Return what a person should know of the slide."""
        assert self.fit is not None, "no tile was finished"
        return slide_flags(self.plan, self.fit, self.tally)

    def draw(self, path: Path) -> None:
        """Write the thumbnail, with the tiles finished so far."""
        with self.tally.watch.phase("thumbnail"):
            write_thumbnail(path, self.plan, self.parts)

    def _require_same(self) -> None:
        if self.source is not None:
            self.source.require_same()

    def _require_kept(self) -> None:
        counts = self.tally.counts
        if counts["kept"]:
            return
        fates = ", ".join(
            f"{count} for {name.removeprefix('rejected_')}"
            for name, count in counts.items()
            if count and name.startswith("rejected_") and name != "rejected_tissue"
        )
        raise NoTissueError(
            f"{self.slide.info.path}: of {counts['candidates'] - counts['rejected_tissue']} tiles "
            f"with tissue none passed ({fates}); look at the tile stage's thumbnail, then loosen "
            "the rule that rejects them"
        )


@contextmanager
def open_cut(
    path: str | Path,
    settings: TileSettings,
    request: SlideRequest = WHOLE_SLIDE,
    *,
    watch: Stopwatch | None = None,
    threads: int = 1,
) -> Iterator[SlideCut]:
    """Open a slide and plan its tiles; it is closed on leaving.

    Args:
        path: The slide.
        settings: What is asked of every slide.
        request: What is asked of this one.
        watch: Told where the time goes.
        threads: That read and finish tiles beside the caller.

    Raises:
        SlideError: It cannot be opened or read, or has no usable resolution.
        ConfigError: A method is unknown, or sizes contradict each other.
    """
    tally = Tally(watch=watch or Stopwatch())
    with tally.watch.phase("open"):
        opened = open_slide(
            path, settings.reader, threads, modality=settings.modality, icc=settings.icc
        )
        if isinstance(opened, SlideReader):
            opened.beat = tally.watch.pulse.beat
        slide = straighten(opened, settings, request)
    with slide:
        if request.source is None and Path(path).exists():
            request = replace(request, source=SlideState(path, slide_digest(path)))
        yield plan_cut(slide, settings, request, tally=tally, threads=threads)


def plan_cut(
    slide: Slide,
    settings: TileSettings,
    request: SlideRequest = WHOLE_SLIDE,
    *,
    tally: Tally | None = None,
    threads: int = 1,
) -> SlideCut:
    """Plan the tiles of a slide that is open, and stays so; else as :func:`open_cut`."""
    tally = Tally(watch=Stopwatch()) if tally is None else tally
    with tally.watch.phase("plan"):
        plan = survey_slide(slide, settings, request)
    return SlideCut(
        slide=slide, plan=plan, settings=settings, threads=threads, tally=tally,
        source=request.source,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CutResult:
    """What became of one slide.

    Attributes:
        counts: Tiles by fate: ``candidates``, ``kept``, ``rejected_tissue``,
            ``rejected_background``, ``flagged_pen``, ``flagged_blurred`` …
        flags: Of the slide.
        watch: Where the time went.
    """

    counts: Mapping[str, int]
    flags: tuple[str, ...]
    watch: Stopwatch


def cut_slide(  # noqa: PLR0913  what, how and what is told beside it
    path: str | Path,
    store: Path,
    settings: TileSettings,
    request: SlideRequest = WHOLE_SLIDE,
    *,
    thumbnail: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    watch: Stopwatch | None = None,
    threads: int = 1,
) -> CutResult:
    """Cut a slide into normalised tiles and keep those that pass the rules.

    The store is whole or absent; the caller is its only writer.

    Args:
        path, settings, request, watch, threads: As in :func:`open_cut`.
        store: Where the tiles go; its suffix names the format.
        thumbnail: Where the JPEG with the overlay goes, also of a slide without tissue; None
            writes none.
        provenance: Root attributes that the caller adds (slide digest, resolved config …).

    Raises:
        SlideError: The slide cannot be opened or read, has no usable resolution, or no tissue.
        StoreError: The suffix is unknown.
        ConfigError: A method or codec is unknown, or sizes contradict each other.
    """
    with open_cut(path, settings, request, watch=watch, threads=threads) as cut:
        try:
            _write(cut, store, thumbnail, provenance or {})
        except NoTissueError:
            if thumbnail is not None:
                cut.draw(thumbnail)
            raise
        return CutResult(counts=dict(cut.tally.counts), flags=cut.flags(), watch=cut.tally.watch)


def _write(
    cut: SlideCut, store: Path, thumbnail: Path | None, provenance: Mapping[str, Any]
) -> None:
    """Write the finished tiles into a store; the thumbnail is there before it is."""
    watch, capacity = cut.tally.watch, int(cut.plan.wanted.sum())
    with (
        create_tiles(
            store, tile_px=cut.settings.tile_px, capacity=max(1, capacity),
            codec=cut.settings.codec,
        ) as writer,
        closing(cut.finished_tiles(writer.pack)) as finished,
    ):  # fmt: skip
        for part in finished:
            with watch.phase("write"):
                writer.append_packed(part.packed, part.coords, part.columns)
        if thumbnail is not None:
            cut.draw(thumbnail)
        with watch.phase("write"):
            writer.commit(cut.describe() | dict(provenance))
