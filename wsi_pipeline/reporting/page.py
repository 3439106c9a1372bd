"""One self-contained HTML page: no script, no network, images and styles inside."""

import base64
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wsi_pipeline.atomic import write_text
from wsi_pipeline.reporting.data import Picture, ReportData
from wsi_pipeline.reporting.heatmap import colour_stops
from wsi_pipeline.reporting.style import ACCENT, INK, MUTED, RULE
from wsi_pipeline.reporting.view import funnel_rows, key_figures, model_view

# Figures are drawn for white paper; these are the same inks for a dark page.
_DARK_INKS = {INK: "#eceaf4", MUTED: "#a29cb8", RULE: "#3c3850", ACCENT: "#9d8ff2"}


def render_page(data: ReportData) -> str:
    """Return the page as HTML text; the same data give the same text."""
    environment = Environment(
        loader=PackageLoader("wsi_pipeline.reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["uri"] = data_uri
    style = resources.files("wsi_pipeline.reporting") / "templates" / "report.css"
    return environment.get_template("report.html.j2").render(
        data=data,
        css=Markup(style.read_text("utf-8")),  # noqa: S704  our own file
        keys=key_figures(data),
        slide_funnel=funnel_rows(data.funnel.slides),
        tile_funnel=funnel_rows(data.funnel.tiles),
        models=[model_view(report) for report in data.models],
        stops=colour_stops(),
        heatmaps=[slide for slide in data.slides if slide.heatmaps],
    )


def write_page(path: Path, data: ReportData) -> None:
    """Write the page; ``path`` is whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_page(data))


def data_uri(picture: Picture) -> str:
    """The picture as a ``data:`` address; an SVG follows the reader's light or dark setting."""
    svg = picture.mime == "image/svg+xml"
    data = themed_svg(picture.data) if svg else picture.data
    return f"data:{picture.mime};base64,{base64.b64encode(data).decode('ascii')}"


def themed_svg(svg: bytes) -> bytes:
    """Replace the inks of a figure by variables that turn light on a dark page."""
    text = svg.decode("utf-8")
    light, dark = [], []
    for number, (ink, pale) in enumerate(_DARK_INKS.items()):
        text = text.replace(ink, f"var(--i{number})")
        light.append(f"--i{number}:{ink}")
        dark.append(f"--i{number}:{pale}")
    rules = (
        f"<style>:root{{{';'.join(light)}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{';'.join(dark)}}}}}</style>"
    )
    start = text.index("<svg")
    end = text.index(">", start) + 1
    return (text[start:end] + rules + text[end:]).encode("utf-8")
