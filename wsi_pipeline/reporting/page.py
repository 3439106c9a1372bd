"""The report as HTML: no script, no network; its pictures lie beside it, or inside."""

from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from wsi_pipeline.atomic import write_text
from wsi_pipeline.reporting.beside import Address, PicturesBeside, data_uri
from wsi_pipeline.reporting.data import ReportData
from wsi_pipeline.reporting.figure_data import write_figure_data
from wsi_pipeline.reporting.heatmap import colour_stops
from wsi_pipeline.reporting.texts import Texts, make_texts, write_texts
from wsi_pipeline.reporting.view import (
    funnel_rows,
    key_figures,
    model_view,
    readers_views,
    slide_index,
)


def render_page(
    data: ReportData,
    address: Address = data_uri,
    texts: Texts | None = None,
    beside: tuple[str, ...] = (),
) -> str:
    """Return the page as HTML text; the same data give the same text.

    Args:
        data: What it shows.
        address: Where its pictures are; inside the page unless said.
        texts: Methods, model cards and checklists; made of ``data`` unless given.
        beside: Files beside the page to link.
    """
    style = resources.files("wsi_pipeline.reporting") / "templates" / "report.css"
    return (
        templates(address)
        .get_template("report.html.j2")
        .render(
            data=data,
            css=Markup(style.read_text("utf-8")),  # noqa: S704 # nosec B704 # our own file
            keys=key_figures(data),
            slide_funnel=funnel_rows(data.funnel.slides),
            tile_funnel=funnel_rows(data.funnel.tiles),
            models=[model_view(report) for report in data.models],
            index=slide_index(data),
            readers=readers_views(data),
            shown=[slide for slide in data.slides if slide.shown],
            stops=colour_stops(),
            one_file=address is data_uri,
            texts=make_texts(data) if texts is None else texts,
            beside=beside,
        )
    )


def write_page(path: Path, data: ReportData, *, single_file: bool = False) -> None:
    """Write the page, the numbers behind its figures, methods, model cards and checklists.

    ``path`` is whole or as it was before.

    Args:
        path: The page. Its pictures go to ``pictures/`` beside it, and the folder can be moved.
        data: What it shows.
        single_file: Put the pictures into the page.
    """
    pictures, texts = PicturesBeside(path), make_texts(data)
    written = [*write_figure_data(path.parent, data), *write_texts(path.parent, texts)]
    beside = tuple(each.relative_to(path.parent).as_posix() for each in written)
    address = data_uri if single_file else pictures
    write_text(path, render_page(data, address, texts, () if single_file else beside))
    pictures.prune()


def templates(address: Address) -> Environment:
    """Return the room's templates, whose pictures are at ``address``."""
    environment = Environment(
        loader=PackageLoader("wsi_pipeline.reporting"),
        autoescape=select_autoescape(("html.j2",)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["uri"] = address
    return environment
