"""One palette and one typographic scale for every figure.

Classes take the colours of ``CLASS_COLOURS`` in order; they were chosen to stay apart for the
colour-blind (Okabe and Ito, 2008, darkened for white paper). ``INK``, ``MUTED``, ``RULE`` and
``ACCENT`` are exact hexadecimal values because the page swaps them for its own in the dark.
"""

import io
from collections.abc import Callable
from typing import Final, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from wsi_pipeline.reporting.data import Picture

INK: Final = "#2b2740"
MUTED: Final = "#78738c"
RULE: Final = "#dcd8e6"
ACCENT: Final = "#5b4bb7"
CELL: Final = "#5a4ab6"  # behind white figures: keeps its darkness in the dark
CLASS_COLOURS: Final = (
    "#5b4bb7", "#d1495b", "#2a9d8f", "#e09f3e", "#3d84c6", "#8c5a3c", "#7a9e3b", "#b05fae",
)  # fmt: skip
DPI: Final = 144

_SETTINGS: Final = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.parse_math": False,  # class names may hold a dollar sign
    "svg.fonttype": "none",  # text stays text: light, selectable, in the reader's own font
    "svg.hashsalt": "wsi_pipeline",  # same data, same bytes
}

Format = Literal["svg", "png"]


def render(
    draw: Callable[[Figure], None], size_in: tuple[float, float], alt: str, format_: Format = "svg"
) -> Picture:
    """Make a picture of what ``draw`` puts on a transparent figure; no global state is left.

    Args:
        draw: Fills the figure.
        size_in: (width, height) in inches.
        alt: Words for those who do not see it.
        format_: ``svg``, or ``png`` at 144 dpi.
    """
    content = io.BytesIO()
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=size_in, layout="constrained")
        figure.patch.set_alpha(0.0)
        draw(figure)
        if format_ == "svg":
            FigureCanvasSVG(figure)
            figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
        else:
            FigureCanvasAgg(figure)
            figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    data = content.getvalue()
    scale = 96 if format_ == "svg" else DPI
    return Picture(
        data=data.replace(b"'DejaVu Sans'", b"system-ui, 'DejaVu Sans'"),
        mime="image/svg+xml" if format_ == "svg" else "image/png",
        alt=alt,
        width=int(size_in[0] * scale),
        height=int(size_in[1] * scale),
    )


def colour_of(index: int) -> str:
    """The colour of the class with this index; beyond the palette it starts over."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def dress(axes: Axes, grid: Literal["x", "y", "both"] | None = "y") -> None:
    """Hairlines instead of a box."""
    axes.patch.set_alpha(0.0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(length=0, pad=4)
    if grid:
        axes.grid(axis=grid, color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
