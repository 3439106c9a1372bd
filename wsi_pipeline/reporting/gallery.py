"""The page on which a person looks at flagged tiles and decides about them.

One file without network access. A page cannot write to the disk, so a small script keeps what was
clicked and offers the table for download; without the script the page still shows everything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from wsi_pipeline.atomic import write_text
from wsi_pipeline.reporting.data import Picture
from wsi_pipeline.reporting.page import data_uri
from wsi_pipeline.reporting.pictures import jpeg, read_rgb
from wsi_pipeline.run_folder import RunFolder
from wsi_pipeline.tiles import (
    DECISION_COLUMNS,
    FLAGS,
    Decision,
    TileStore,
    store_marks,
    tile_reasons,
)

THUMBNAIL_PX: Final = 900
TILE_PX: Final = 144


@dataclass(frozen=True, kw_only=True)
class GalleryTile:
    """One flagged tile.

    Attributes:
        row: Its row in the table of decisions; None if it has none.
        reason: Why it is flagged.
        picture: The tile as stored.
    """

    row: int | None
    reason: str
    picture: Picture


@dataclass(frozen=True, kw_only=True)
class GalleryGroup:
    """The tiles of a slide with one flag; one with several stands under the first.

    Attributes:
        flag: Its name.
        words: Its name for people.
        count: How many tiles there are.
        rows: All their rows in the table of decisions, shown or not.
        tiles: Those shown, worst first.
    """

    flag: str
    words: str
    count: int
    rows: tuple[int, ...]
    tiles: tuple[GalleryTile, ...]


@dataclass(frozen=True, kw_only=True)
class GallerySlide:
    """One slide on the page; ``row`` is that of the slide as a whole."""

    slide_id: str
    row: int | None
    tiles: int
    flags: tuple[str, ...]
    counts: tuple[tuple[str, int], ...]
    overlay: Picture | None
    groups: tuple[GalleryGroup, ...]


def gallery_slide(
    run: Path, slide_id: str, store: TileStore, rows: Sequence[Decision], most: int
) -> GallerySlide:
    """Collect what the page shows of a slide.

    Args:
        run: The run folder, for the thumbnail.
        slide_id: The slide.
        store: Its tiles.
        rows: The whole table of decisions.
        most: Tiles shown for one flag, at most.
    """
    own = {row.place: number for number, row in enumerate(rows) if row.slide_id == slide_id}
    overlay = read_rgb(RunFolder(run).thumbnail(slide_id))
    alt = f"Slide {slide_id}: tissue outline, tiles kept, and flagged ones filled"
    counts = store.attributes.get("counts", {})
    return GallerySlide(
        slide_id=slide_id,
        row=own.get(None),
        tiles=len(store),
        flags=tuple(store.attributes.get("flags", ())),
        counts=tuple((name.replace("_", " "), n) for name, n in counts.items() if n),
        overlay=None if overlay is None else jpeg(overlay, alt, THUMBNAIL_PX),
        groups=tuple(_groups(slide_id, store, own, most)),
    )


def render_gallery(title: str, slides: Iterable[GallerySlide], rows: Sequence[Decision]) -> str:
    """Return the page as HTML text; the same data give the same text."""
    environment = Environment(
        loader=PackageLoader("wsi_pipeline.reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["uri"] = data_uri
    folder = resources.files("wsi_pipeline.reporting") / "templates"
    style = "".join((folder / name).read_text("utf-8") for name in ("report.css", "gallery.css"))
    script = (folder / "gallery.js").read_text("utf-8")
    return environment.get_template("gallery.html.j2").render(
        title=title,
        slides=list(slides),
        rows=rows,
        table={"columns": DECISION_COLUMNS, "rows": [_cells(row) for row in rows]},
        css=Markup(style),  # noqa: S704  our own file
        script=Markup(script),  # noqa: S704  likewise
    )


def write_gallery(
    path: Path, title: str, slides: Iterable[GallerySlide], rows: Sequence[Decision]
) -> None:
    """Write the page; ``path`` is whole or as it was before."""
    write_text(path, render_gallery(title, slides, rows))


def _groups(
    slide_id: str, store: TileStore, own: Mapping[Any, int], most: int
) -> Iterable[GalleryGroup]:
    marks = store_marks(store)
    told = np.zeros(len(store), np.bool_)
    for flag in FLAGS:
        found = np.flatnonzero(marks[flag] & ~told)
        told[found] = True
        if not len(found):
            continue
        places = [tuple(place) for place in store.coords[found].tolist()]
        worst = found[_worst_first(store, flag, found)][:most]
        pictures = store.tiles[worst]
        yield GalleryGroup(
            flag=flag,
            words=FLAGS[flag].label,
            count=len(found),
            rows=tuple(own[place] for place in places if place in own),
            tiles=tuple(
                GalleryTile(
                    row=own.get(tuple(store.coords[index].tolist())),
                    reason="; ".join(tile_reasons(store, marks, index).values()),
                    picture=jpeg(
                        pixels,
                        f"Tile of {slide_id} at {', '.join(map(str, store.coords[index]))}",
                        TILE_PX,
                    ),
                )
                for index, pixels in zip(worst.tolist(), pictures, strict=True)
            ),
        )


def _worst_first(store: TileStore, name: str, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order of ``indices`` by how far they are beyond the limit."""
    flag = FLAGS[name]
    values = store.columns[flag.column_of(store.columns) or flag.column][indices]
    return np.argsort(values if flag.below else -values, kind="stable")


def _cells(row: Decision) -> list[str]:
    x, y = row.place or ("", "")
    return [row.slide_id, str(x), str(y), row.choice, row.reason]
