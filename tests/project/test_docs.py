"""The site is built without a link that leads nowhere, has every verb, and loads nothing else."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from wsi_pipeline import __all__
from wsi_pipeline.verbs import VERBS

ROOT = Path(__file__).parents[2]
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Resources(HTMLParser):
    """What a page loads when it is opened."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("prev", "next", "canonical", "alternate"):
            return
        if found := given.get(LOADED.get(tag, "")):
            self.found.append(found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="the extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        for address in Resources(page).found:
            assert not urlsplit(address).scheme or address.startswith("data:"), (page, address)
            assert not address.startswith("//")
            if page.name != "404.html" and not address.startswith("data:"):
                assert (page.parent / unquote(urlsplit(address).path)).exists(), (page, address)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:", sheet.read_text("utf-8")), sheet


def test_every_verb_flag_and_name_has_its_place(site: Path) -> None:
    for name, verb in VERBS.items():
        page = (site / "verbs" / f"{name}.html").read_text("utf-8")
        text = re.sub(r"<[^>]+>", "", page)
        assert verb.about.split(",")[0][:30] in text.replace("&amp;", "&")
    tile = (site / "verbs" / "tile.html").read_text("utf-8")
    for shown in ("--max-background-fraction", "--stain", "µm/px", "{zarr,hdf5}", "(0.125)"):
        assert shown in tile
    assert "%%" not in tile
    signatures = (site / "signatures.html").read_text("utf-8")
    for name in set(__all__) - {"Encoder", "TileStore", "WsiError"}:  # shown by what returns them
        assert f".{name}" in signatures, name


def test_what_lies_outside_docs_is_a_page_too(site: Path) -> None:
    home = (site / "index.html").read_text("utf-8")
    assert 'href="tutorial.html"' in home
    assert 'href="manifests.html"' in home
    assert 'src="benchmarks/results/tile-stain.svg"' in (site / "performance.html").read_text()
    assert 'href="../manifests.html#core-map"' in (site / "how-to/microarray.html").read_text()
