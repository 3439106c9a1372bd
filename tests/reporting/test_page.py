"""The page in a browser: complete, self-contained, every image decodes."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.pipeline.report import run as report
from wsi_pipeline.reporting import Limits, ReportData, collect, render_page, write_page
from wsi_pipeline.reporting.beside import themed_svg
from wsi_pipeline.reporting.data import Measure, SetsRow
from wsi_pipeline.verbs.runs import ReportConfig

PROBE = """<script>window.addEventListener("load", () => {
const found = [...document.images].map(i => `${i.naturalWidth}x${i.naturalHeight}`);
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
document.body.setAttribute("data-images", found.join(" "));
document.body.setAttribute("data-overflow", wide);
});</script></body>"""


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
    write_page(path, collect(trained, title="Liver study", limits=Limits(slides=12)),
               single_file=True)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with its pictures beside it, moved away from where it was written."""
    made = tmp_path_factory.mktemp("beside") / "report"
    list(report(ReportConfig(run=trained, out=made / "index.html")))
    return made.rename(made.with_name("moved")) / "index.html"


@pytest.fixture(scope="module")
def whole(trained: Path) -> ReportData:
    return collect(trained)


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


def test_pictures_lie_beside_the_page_and_are_fetched_as_one_scrolls(
    folder: Path, trained: Path, tmp_path: Path
) -> None:
    text = folder.read_text("utf-8")
    tags = Tags(text)
    beside = [a for t, a in tags.found if t == "img"]
    slides = len(list((trained / "tiles").glob("*")))
    assert len(beside) > slides
    assert {a["loading"] for a in beside} == {"lazy"}
    assert all(re.fullmatch(r"pictures/[0-9a-f]{24}\.(webp|svg)", a["src"] or "") for a in beside)
    assert {folder.parent / a["src"] for a in beside} == {*folder.parent.glob("pictures/*")}
    reached = {a["href"] for t, a in tags.found if t == "a" and a["href"].startswith("#slide-")}
    assert reached == {f"#slide-{number}" for number in range(1, slides + 1)}
    assert reached == {f"#{a['id']}" for t, a in tags.found if t == "figure" and a.get("id")}
    probe = folder.with_name("probe.html")  # its own policy lets pictures in from the folder
    probe.write_text(
        text.replace("style-src", "script-src 'unsafe-inline'; style-src")
        .replace(' loading="lazy"', "")
        .replace("</body>", PROBE),
        encoding="utf-8",
    )
    dom = browse(probe, tmp_path / "profile", "--window-size=1024,800", "--dump-dom")
    sizes = re.search(r'data-images="([^"]*)"', dom)
    assert sizes is not None
    assert len(sizes[1].split()) == text.count("<img ")
    assert not [size for size in sizes[1].split() if size.startswith("0x")]
    assert 'data-overflow="false"' in dom


def test_a_new_page_takes_its_old_pictures_away(whole: ReportData, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    data = replace(whole, models=(), slides=whole.slides[:3])
    write_page(page, data)
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()}
    write_page(page, data)
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()}
    assert again == first  # what is there is not written again
    damaged = tmp_path / "pictures" / min(first)
    whole_bytes = damaged.read_bytes()
    damaged.write_bytes(whole_bytes[:-1] + bytes([whole_bytes[-1] ^ 1]))
    write_page(page, data)
    assert damaged.read_bytes() == whole_bytes
    (tmp_path / "pictures" / "mine.txt").write_text("a person's own")
    write_page(page, data, single_file=True)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["mine.txt"]


def test_slides_without_pictures_stand_in_the_index(trained: Path) -> None:
    data = replace(collect(trained, limits=Limits(slides=2)), models=())
    text = render_page(data)
    assert text.count('<figure class="card slide"') == 2
    assert all(f">{slide.slide_id}</" in text for slide in data.slides)
    assert f"<b>{len(data.slides)}</b><span>slides with tiles" in text
    assert "index has all" in text


def test_sets_stand_beside_what_was_asked_of_them(whole: ReportData) -> None:
    data = replace(whole, slides=whole.slides[:1])
    assert {row.level for row in data.models[0].sets} == {"slide", "patient"}
    model = replace(data.models[0], evaluations=(), curves=(), drift=None)
    few = replace(model, sets=tuple(replace(row, calibrated=False) for row in model.sets))
    said = render_page(replace(data, models=(few,)))
    assert "validation patients are too few to calibrate them" in said
    row = SetsRow(level="patient", split="external", asked=0.9,
                  covered=Measure(value=0.875, low=0.61, high=0.98), patients=16, size=1.4,
                  single=0.5, empty=0.125, calibrated_on=20, calibrated=True)  # fmt: skip
    said = render_page(replace(data, models=(replace(model, sets=(row,)),)))
    for words in ("<td>90%</td>", "0.875 [0.610, 0.980]", "<td>12%</td>", "<td>20 patients</td>"):
        assert words in said
    (card,) = data.slides
    sure = replace(card.predictions[0], classes=())
    said = render_page(replace(data, slides=(replace(card, predictions=(sure,)),)))
    assert "set: none of these" in said


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
