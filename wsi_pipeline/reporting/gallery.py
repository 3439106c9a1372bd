"""The page on which a person looks at flagged tiles and decides about them.

No network access; pictures lie beside the page and are fetched as one scrolls. A page cannot write
to the disk, so a small script keeps what was clicked and offers the table for download; without the
script the page still shows everything.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from wsi_pipeline.atomic import write_text
from wsi_pipeline.reporting.beside import Address, PicturesBeside, data_uri
from wsi_pipeline.reporting.data import Picture
from wsi_pipeline.reporting.page import templates
from wsi_pipeline.reporting.pictures import read_rgb, webp
from wsi_pipeline.reporting.scanned import Scanned, read_scanned
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import (
    DECISION_COLUMNS,
    FLAGS,
    Decision,
    TileStore,
    store_marks,
    tile_reasons,
    worst_first,
)

Rows = NDArray[np.int64]
Marks = Mapping[str, NDArray[np.bool_]]

THUMBNAIL_PX: Final = 900
TILE_PX: Final = 144


@dataclass(frozen=True, kw_only=True)
class GalleryTile:
    """One flagged tile.

    Attributes:
        row: Its row in the table of decisions; None if it has none.
        reason: Why it is flagged.
        picture: The tile as stored.
        before: As scanned; None where the slide is not at hand.
    """

    row: int | None
    reason: str
    picture: Picture
    before: Picture | None


@dataclass(frozen=True, kw_only=True)
class GalleryGroup:
    """The tiles of a slide with one flag; one with several stands under the first.

    Attributes:
        flag: Its name.
        words: Its name for people.
        colour: Of its tiles on the overview, as CSS says it.
        count: How many tiles there are.
        rows: All their rows in the table of decisions, shown or not.
        tiles: Those shown, worst first.
    """

    flag: str
    words: str
    colour: str
    count: int
    rows: tuple[int, ...]
    tiles: tuple[GalleryTile, ...]


@dataclass(frozen=True, kw_only=True)
class GallerySlide:
    """One slide on the page.

    Attributes:
        row: Of the slide as a whole in the table of decisions.
        classes: Colour on the overview, as CSS says it, by the class of regions drawn on it.
        not_scanned: Why no tile is shown as scanned; None if they are, or none is flagged.
    """

    slide_id: str
    row: int | None
    tiles: int
    flags: tuple[str, ...]
    counts: tuple[tuple[str, int], ...]
    overlay: Picture | None
    classes: Mapping[str, str]
    not_scanned: str | None
    groups: tuple[GalleryGroup, ...]


def gallery_slide(
    run: Path,
    slide_id: str,
    store: TileStore,
    rows: Sequence[Decision],
    most: int,
    slide: str | Path | None,
) -> GallerySlide:
    """Collect what the page shows of a slide.

    Args:
        run: The run folder, for the thumbnail.
        slide_id: The slide.
        store: Its tiles.
        rows: The whole table of decisions.
        most: Tiles shown for one flag, at most.
        slide: Its file, for tiles as scanned; None if unknown.
    """
    own = {row.place: number for number, row in enumerate(rows) if row.slide_id == slide_id}
    overlay = read_rgb(RunFolder(run).thumbnail(slide_id))
    alt = f"Slide {slide_id}: tissue outline, tiles kept, and flagged ones filled"
    counts = store.attributes.get("counts", {})
    chosen = _shown_tiles(store, store_marks(store), most)
    wanted = [np.empty(0, np.int64), *(worst for _, worst in chosen.values())]
    scanned = read_scanned(slide, store, np.concatenate(wanted))
    colours = store.attributes.get("annotation_colours") or {}
    return GallerySlide(
        slide_id=slide_id,
        row=own.get(None),
        tiles=len(store),
        flags=tuple(store.attributes.get("flags", ())),
        counts=tuple((name.replace("_", " "), n) for name, n in counts.items() if n),
        overlay=None if overlay is None else webp(overlay, alt, THUMBNAIL_PX),
        classes={name: css_colour(rgb) for name, rgb in colours.items()},
        not_scanned=scanned.missing if chosen else None,
        groups=tuple(
            _group(flag, found, _tiles(slide_id, store, worst, scanned, own), store, own)
            for flag, (found, worst) in chosen.items()
        ),
    )


def css_colour(rgb: Sequence[int]) -> str:
    """Return ``rgb(1 2 3)``."""
    return f"rgb({' '.join(str(int(level)) for level in rgb)})"


def render_gallery(
    title: str,
    slides: Iterable[GallerySlide],
    rows: Sequence[Decision],
    address: Address = data_uri,
) -> str:
    """Return the page as HTML text; the same data give the same text."""
    folder = resources.files("wsi_pipeline.reporting") / "templates"
    style = "".join((folder / name).read_text("utf-8") for name in ("report.css", "gallery.css"))
    script = (folder / "gallery.js").read_text("utf-8")
    return (
        templates(address)
        .get_template("gallery.html.j2")
        .render(
            title=title,
            slides=list(slides),
            rows=rows,
            table={"columns": DECISION_COLUMNS, "rows": [_cells(row) for row in rows]},
            css=Markup(style),  # noqa: S704 # nosec B704 # our own file
            script=Markup(script),  # noqa: S704 # nosec B704 # likewise
        )
    )


def write_gallery(
    path: Path, title: str, slides: Iterable[GallerySlide], rows: Sequence[Decision]
) -> None:
    """Write the page, its pictures beside it; ``path`` is whole or as it was before."""
    beside = PicturesBeside(path)
    write_text(path, render_gallery(title, slides, rows, beside))
    beside.prune()


def _shown_tiles(store: TileStore, marks: Marks, most: int) -> dict[str, tuple[Rows, Rows]]:
    """Return each flag's rows of the store, and those shown: ``most`` of them, worst first."""
    told = np.zeros(len(store), np.bool_)
    chosen = {}
    for flag in FLAGS:
        found = np.flatnonzero(marks[flag] & ~told)
        told[found] = True
        if len(found):
            chosen[flag] = (found, found[worst_first(store, flag, found)][:most])
    return chosen


def _group(
    flag: str, found: Rows, tiles: Iterable[GalleryTile], store: TileStore, own: Mapping[Any, int]
) -> GalleryGroup:
    places = [tuple(place) for place in store.coords[found].tolist()]
    return GalleryGroup(
        flag=flag,
        words=FLAGS[flag].label,
        colour=css_colour(FLAGS[flag].colour),
        count=len(found),
        rows=tuple(own[place] for place in places if place in own),
        tiles=tuple(tiles),
    )


def _tiles(
    slide_id: str, store: TileStore, worst: Rows, scanned: Scanned, own: Mapping[Any, int]
) -> Iterator[GalleryTile]:
    marks = store_marks(store)
    for row, pixels in zip(worst.tolist(), store.tiles[worst], strict=True):
        place = store.coords[row].tolist()
        name = f"Tile of {slide_id} at {place[0]}, {place[1]}"
        before = scanned.tiles.get(row)
        yield GalleryTile(
            row=own.get(tuple(place)),
            reason="; ".join(tile_reasons(store, marks, row).values()),
            picture=webp(pixels, f"{name}, normalised", TILE_PX),
            before=None if before is None else webp(before, f"{name}, as scanned", TILE_PX),
        )


def _cells(row: Decision) -> list[str]:
    x, y = row.place or ("", "")
    return [row.slide_id, str(x), str(y), row.choice, row.reason]
