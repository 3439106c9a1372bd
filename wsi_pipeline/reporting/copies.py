"""Pictures that the audit takes for copies of one another, side by side, for a person to judge."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from wsi_pipeline.atomic import write_text

SIDE_PX: Final = 128
QUALITY: Final = 70
SHOWN: Final = 500  # groups; all stand in groups.csv
MEMBERS: Final = 12  # of a group
STYLE: Final = (
    ".group{display:flex;flex-wrap:wrap;gap:.9rem;padding:1rem 1.4rem;margin-bottom:1.1rem}"
    ".group h2{font-size:1rem;width:100%}.group figure{margin:0;width:8rem}"
    ".group img{max-width:8rem;max-height:8rem;display:block}"
    ".group figcaption{font-size:.75rem;overflow-wrap:anywhere}"
)


def write_groups_page(
    path: Path, groups: Sequence[Sequence[str]], pictures: Mapping[str, Path]
) -> None:
    """Write a page of the groups; ``pictures`` holds each slide's, where it has one."""
    css = resources.files("wsi_pipeline.reporting") / "templates" / "report.css"
    count = f"{len(groups)} group{'s' * (len(groups) != 1)}"
    verb = "belong" if len(groups) != 1 else "belongs"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Copies</title>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<style>{css.read_text('utf-8')}{STYLE}</style></head><body><div class='wrap'>",
        "<header class='top'><p class='eyebrow'>Audit</p>",
        f"<h1>{count} that {verb} together</h1><div class='stained'></div>",
        (
            "<p class='lede'>The same file, or copies of one picture. Strike what is no copy out "
            "of <code>groups.csv</code>, and give the rest to <code>--groups</code>.</p></header>"
        ),
    ]
    for number, members in enumerate(groups[:SHOWN], 1):
        figures = [_figure(name, pictures.get(name)) for name in members[:MEMBERS]]
        more = f" ({MEMBERS} shown)" if len(members) > MEMBERS else ""
        parts.append(
            f"<section class='card group'><h2>g{number:04d}: {len(members)}{more}</h2>"
            f"{''.join(figures)}</section>"
        )
    if len(groups) > SHOWN:
        parts.append(f"<p>{len(groups) - SHOWN} more groups stand in groups.csv.</p>")
    write_text(path, "\n".join(parts) + "</div></body></html>\n")


def _figure(name: str, path: Path | None) -> str:
    caption = f"<figcaption>{escape(name)}</figcaption>"
    picture = None
    if path is not None:
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        return f"<figure>{caption}</figure>"
    scale = min(1.0, SIDE_PX / max(picture.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    packed = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    data = base64.b64encode(packed.tobytes()).decode()
    return (
        f'<figure><img alt="{escape(name)}" src="data:image/jpeg;base64,{data}">{caption}</figure>'
    )
