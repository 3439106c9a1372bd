"""The whole of one slide, streamed: tissue, grid, stain, tiles, store, thumbnail."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import NoTissueError
from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiles.plan import require_tissue, survey_slide
from wsi_pipeline.tiles.record import describe_slide, describe_tiles, slide_flags, write_thumbnail
from wsi_pipeline.tiles.settings import WHOLE_SLIDE, SlideRequest, TileSettings
from wsi_pipeline.tiles.store import TileWriter, create_tiles
from wsi_pipeline.tiles.straighten import straighten
from wsi_pipeline.tiles.stream import Finished, finish_tiles, fit_slide
from wsi_pipeline.tiles.tally import Tally
from wsi_pipeline.timing import Stopwatch
from wsi_pipeline.types import Coords

NO_COORDS: Final = np.empty((0, 2), np.int64)
NO_MARKS: Final = np.empty(0, np.bool_)


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
        path: The slide.
        store: Where the tiles go; ``.zarr`` or ``.h5``.
        settings: What is asked of every slide.
        request: What is asked of this one.
        thumbnail: Where the JPEG with the overlay goes; None writes none.
        provenance: Root attributes that the caller adds (slide digest, resolved config …).
        watch: Told where the time goes.
        threads: That read and finish tiles beside the one that writes.

    Raises:
        SlideError: The slide cannot be opened or read, has no usable resolution, or no tissue.
        StoreError: The format has no such codec.
        ConfigError: A method is unknown, or sizes contradict each other.
    """
    tally = Tally(watch=watch or Stopwatch())
    with tally.watch.phase("open"):
        opened = open_slide(
            path, settings.reader, threads, modality=settings.modality, icc=settings.icc
        )
        slide = straighten(opened, settings, request)
    with slide:
        with tally.watch.phase("plan"):
            plan = survey_slide(slide, settings, request)
        if thumbnail is not None and not plan.wanted.any():
            write_thumbnail(thumbnail, plan, NO_COORDS, NO_MARKS)
        require_tissue(slide.info.path, plan, settings)
        fit = fit_slide(slide, plan, settings, tally, threads)
        writer = create_tiles(
            store,
            tile_px=settings.tile_px,
            capacity=int(plan.wanted.sum()),
            codec=settings.codec,
        )
        with writer:
            with closing(finish_tiles(slide, plan, fit, settings, tally, threads)) as parts:
                coords, flagged = _append_all(writer, parts, tally)
            if thumbnail is not None:
                with tally.watch.phase("thumbnail"):
                    write_thumbnail(thumbnail, plan, coords, flagged)
            _require_kept(path, tally)
            with tally.watch.phase("write"):
                about = describe_slide(slide) | describe_tiles(plan, fit, settings, tally)
                writer.commit(about | dict(provenance or {}))
    return CutResult(
        counts=dict(tally.counts), flags=slide_flags(plan, fit, tally), watch=tally.watch
    )


def _append_all(
    writer: TileWriter, parts: Iterator[Finished], tally: Tally
) -> tuple[Coords, NDArray[np.bool_]]:
    """Write every finished tile; return where they are and which are flagged."""
    coords, flagged = [NO_COORDS], [NO_MARKS]
    for part in parts:
        with tally.watch.phase("write"):
            writer.append(part.tiles, part.coords, part.columns)
        coords.append(part.coords)
        flagged.append(part.flagged)
    tally.watch.move(writer.encode_s, "write", "encode")
    return np.concatenate(coords), np.concatenate(flagged)


def _require_kept(path: str | Path, tally: Tally) -> None:
    """Refuse a slide of which no tile is left.

    Raises:
        NoTissueError: With the rules that rejected them.
    """
    counts = tally.counts
    if counts["kept"]:
        return
    fates = ", ".join(
        f"{count} for {name.removeprefix('rejected_')}"
        for name, count in counts.items()
        if count and name.startswith("rejected_") and name != "rejected_tissue"
    )
    raise NoTissueError(
        f"{path}: of {counts['candidates'] - counts['rejected_tissue']} tiles with tissue none "
        f"passed ({fates}); look at the thumbnail, then loosen the rule that rejects them"
    )
