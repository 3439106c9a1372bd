"""The page in a browser: complete, self-contained, every image decodes."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.reporting import Limits, ReportData, collect, render_page, write_page
from wsi_pipeline.reporting.page import themed_svg

PROBE = """<script>
const found = [...document.images].map(i => `${i.naturalWidth}x${i.naturalHeight}`);
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
document.body.setAttribute("data-images", found.join(" "));
document.body.setAttribute("data-overflow", wide);
</script></body>"""


class Tags(HTMLParser):
    """Every tag's attributes, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(path, collect(trained, title="Liver study", limits=Limits(slides=12)))
    return path


def browse(page: Path, profile: Path, *flags: str) -> str:
    """Open the page in a fresh headless Chromium and return what it prints."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed, so the page is not opened in a browser")
    fixed = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--hide-scrollbars", f"--user-data-dir={profile}",
    ]  # fmt: skip
    done = subprocess.run(
        [browser, *fixed, *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout


def test_the_page_loads_nothing_and_runs_nothing(page: Path) -> None:
    tags = Tags(page.read_text("utf-8"))
    assert tags.open == []
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "link", "iframe", "object"}
    for tag, attributes in tags.found:
        for name in ("src", "href", "srcset", "data", "poster"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("data:image/", "#")), (tag, name, value[:80])
        if tag == "img":
            assert attributes["alt"]
    style = re.sub(r'"data:[^"]*"', "", page.read_text("utf-8"))
    assert "url(" not in style
    assert "@import" not in style
    anchors = {a["href"] for t, a in tags.found if t == "a"}
    ids = {f"#{a['id']}" for _, a in tags.found if "id" in a}
    assert anchors <= ids


def test_every_image_decodes_in_the_browser(page: Path, tmp_path: Path) -> None:
    text = page.read_text("utf-8")
    probe = tmp_path / "probe.html"
    # the page forbids scripts; the copy that is probed must allow this one
    without = re.sub(r"<meta http-equiv[^>]*>", "", text).replace(' decoding="async"', "")
    probe.write_text(without.replace("</body>", PROBE), encoding="utf-8")
    dom = browse(probe, tmp_path / "profile", "--window-size=390,800", "--dump-dom")
    sizes = re.search(r'data-images="([^"]*)"', dom)
    assert sizes is not None
    found = sizes[1].split()
    assert len(found) == text.count("<img ") > 20
    assert not [size for size in found if size.startswith("0x") or size.endswith("x0")]
    assert 'data-overflow="false"' in dom  # nothing pushes a phone's page sideways
    for words in ("Liver study", "Synthetic slides", "Random encoder weights", "hcc-0"):
        assert words in dom


def test_it_is_drawn_in_light_and_dark(page: Path, tmp_path: Path) -> None:
    means = []
    for scheme in (1, 0):  # light, dark
        shot = tmp_path / f"{scheme}.png"
        browse(
            page, tmp_path / f"profile{scheme}", f"--blink-settings=preferredColorScheme={scheme}",
            "--window-size=1200,1600", f"--screenshot={shot}",
        )  # fmt: skip
        pixels = np.asarray(Image.open(shot).convert("RGB"))
        assert pixels.std() > 10  # something stands on it
        means.append(pixels.mean())
    assert means[0] > 180
    assert means[1] < 90


def test_banners_stand_only_where_they_must() -> None:
    plain = render_page(ReportData(title="Real"))
    assert "Synthetic slides" not in plain
    assert "Random encoder weights" not in plain
    assert "None: every slide went through." in plain
    assert "Synthetic slides" in render_page(ReportData(title="x", synthetic=True))


def test_figures_follow_the_readers_scheme() -> None:
    themed = themed_svg(
        b'<?xml version="1.0"?><svg a="b"><g style="fill: #2b2740"/></svg>'
    ).decode()
    assert "fill: var(--i0)" in themed
    assert themed.index("<svg") < themed.index("<style>") < themed.index("<g")
    assert "--i0:#2b2740" in themed
