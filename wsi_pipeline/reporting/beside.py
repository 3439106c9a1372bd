"""Pictures in a folder beside their page, fetched as one scrolls; or inside it, as one file.

A picture is named by its content. The page that is there stays whole while its successor is made,
and what the new one does not show is removed once it stands.
"""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wsi_pipeline.reporting.data import Mime, Picture
from wsi_pipeline.reporting.style import ACCENT, INK, MUTED, RULE

Address = Callable[[Picture], str]
"""Where a page finds a picture."""

PICTURES: Final = "pictures"
ENDINGS: Final[dict[Mime, str]] = {
    "image/webp": ".webp",
    "image/png": ".png",
    "image/svg+xml": ".svg",
}
# Figures are drawn for white paper; these are the same inks for a dark page.
_DARK_INKS: Final = {INK: "#eceaf4", MUTED: "#a29cb8", RULE: "#3c3850", ACCENT: "#9d8ff2"}


class PicturesBeside:
    """The pictures of ``page``; calling it writes one and returns its relative address."""

    def __init__(self, page: Path) -> None:
        self._folder = page.parent / PICTURES
        self._shown: set[str] = set()

    def __call__(self, picture: Picture) -> str:
        data = _as_shown(picture)
        name = picture_name(data) + ENDINGS[picture.mime]
        path = self._folder / name
        if name not in self._shown and not _is_there(path, data):
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self._shown.add(name)
        return f"{PICTURES}/{name}"

    def prune(self) -> None:
        """Remove the pictures that only an earlier page showed."""
        for path in self._folder.glob("*"):
            if path.suffix in ENDINGS.values() and path.name not in self._shown:
                path.unlink()
        if not self._shown and self._folder.exists() and not any(self._folder.iterdir()):
            self._folder.rmdir()


def picture_name(data: bytes) -> str:
    """Return what a picture with these bytes is called."""
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def data_uri(picture: Picture) -> str:
    """The picture as a ``data:`` address."""
    data = base64.b64encode(_as_shown(picture)).decode("ascii")
    return f"data:{picture.mime};base64,{data}"


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


def _as_shown(picture: Picture) -> bytes:
    """Its bytes; those of an SVG follow the reader's light or dark setting."""
    return themed_svg(picture.data) if picture.mime == "image/svg+xml" else picture.data


def _is_there(path: Path, data: bytes) -> bool:
    """Whether the file is whole: no write was cut short, and nothing has changed since."""
    return path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data
