"""A person at the screen, by the command and a browser; what was done stands on disk."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
from workbench.conftest import ID

from benchmarks.browser import Tab
from benchmarks.view import MANY_TILES as MANY_TILES_SCRIPT
from wsi_pipeline.cores import main as cores
from wsi_pipeline.microarray import read_cores
from wsi_pipeline.tiles import read_decisions

AXE = """axe.run(document, { resultTypes: ["violations"],
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] })
  .then(found => found.violations.flatMap(
    each => each.nodes.map(node => `${each.id}: ${node.html}`)))"""
ARRAY = "ABC_104_1_009_1"
FIND_NORMAL = """const words = document.getElementById("find"); words.value = "normal";
words.dispatchEvent(new Event("input"))"""
OVER = """(() => {{ const {{ pane }} = window.workbench;
const at = pane.viewer.viewport.imageToWindowCoordinates(new OpenSeadragon.Point({x}, {y}));
return [at.x, at.y]; }})()"""
# What 60,000 tiles in a colour, with their rims, cost the page and its canvas: in sight as a whole,
# and with one of a hundred in sight.
MANY_TILES = """(async () => {
  const { many, layer } = await manyTiles();
  const { pane } = workbench, before = document.querySelectorAll("*").length, draw = pane.draw;
  pane.draw = paper => { many.paint(paper, layer, 0.5); paper.stroke(many, many.all, "red", 0.5); };
  const told = { tiles: many.all.length, frames: [] }, board = CanvasRenderingContext2D.prototype;
  const own = { drawImage: board.drawImage, rect: board.rect }, layers = pane.canvas;
  for (const name of Object.keys(own)) board[name] = function (...given) {
    if (this.canvas === layers) told.frames.at(-1)[name] += 1;
    return own[name].apply(this, given);
  };
  for (const zoom of [1, 10]) {
    pane.viewer.viewport.zoomBy(zoom, null, true);
    told.frames.push({ drawImage: 0, rect: 0 });
    pane.redraw();
  }
  Object.assign(board, own);
  pane.draw = draw;
  pane.viewer.viewport.goHome(true);
  told.canvases = pane.element.querySelectorAll("canvas.overlay").length;
  told.added = document.querySelectorAll("*").length - before;
  return JSON.stringify(told); })()"""
TILE_SEEN = """JSON.stringify([document.querySelector("#tile img").getBoundingClientRect().bottom,
  innerHeight])"""
VIEW = """JSON.stringify((({ viewport }) => [viewport.getCenter(), viewport.getZoom(),
  viewport.getRotation(), viewport.flipped])(workbench.pane.viewer))"""
ALIKE = """(([one, other]) => other && one.world.getItemCount() && other.world.getItemCount()
  && one.viewport.getCenter(true).distanceTo(other.viewport.getCenter(true)) < 1e-6)(
  [...document.querySelectorAll("#viewer .pane")].map(each => OpenSeadragon.getViewer(each)))"""
NO_FLAGS = "document.querySelectorAll('#more-flags input').forEach(each => each.click())"
STILL = "window.workbench?.pane.ready"


@contextmanager
def served(run: Path, *more: str) -> Iterator[str]:
    """Start ``wsi view``; yield its address. It ends as it should."""
    command = [sys.executable, "-m", "wsi_pipeline.view", str(run), "--no-browser", *more]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=\S+", address)
        yield address
        logged = "".join(path.read_text() for path in (run / "logs").iterdir())
        assert address.partition("token=")[2] not in logged
    finally:
        server.send_signal(signal.SIGINT)
        told = server.communicate(timeout=20)[1]
    assert server.returncode == 130
    assert "Traceback" not in told


@pytest.fixture
def mine(run: Path, tmp_path: Path, data_dir: Path) -> Path:
    if shutil.which("chromium") is None and shutil.which("chromium-browser") is None:
        pytest.skip("chromium is not installed, so the workbench is not opened in a browser")
    copy, table = tmp_path / "run", tmp_path / "run" / "cores" / f"{ARRAY}.csv"
    shutil.copytree(run, copy)
    (tmp_path / "slides").mkdir()
    slide = shutil.copy(data_dir / "tma" / f"{ARRAY}.png", tmp_path / "slides")
    asked = [str(slide), f"--out={table}", f"--preview={table.with_suffix('.jpg')}"]
    assert cores(asked) == 0
    return copy


def _drag(tab: Tab, places: list[tuple[float, float]]) -> None:
    """Press the mouse at the first of some level-0 places, move over the others, let go."""
    seen = [tab.run(OVER.format(x=x, y=y)) for x, y in places]

    def mouse(kind: str, x: float, y: float) -> None:
        tab.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1,
                    clickCount=1)  # fmt: skip

    mouse("mouseMoved", *seen[0])
    mouse("mousePressed", *seen[0])
    for (x0, y0), (x1, y1) in pairwise(seen):
        for part in (0.25, 0.5, 0.75, 1):
            mouse("mouseMoved", x0 + part * (x1 - x0), y0 + part * (y1 - y0))
    mouse("mouseReleased", *seen[-1])


def _says(words: str) -> str:
    return f"document.getElementById('told').textContent.includes({words!r})"


def test_a_person_looks_decides_and_corrects(mine: Path, tmp_path: Path) -> None:
    table = mine / "cores" / f"{ARRAY}.csv"
    before = {c.mapped.core_id: c.region for c in read_cores(table)}
    name, region = next((n, r) for n, r in before.items() if r is not None and n)
    with served(mine, f"--slides={tmp_path / 'slides'}") as address, Tab(address) as tab:
        tab.wait("document.body && document.body.dataset.ready")
        tab.wait("document.querySelectorAll('#list tbody tr').length == 2")
        tab.run(FIND_NORMAL)
        assert tab.run("document.querySelectorAll('#list tbody tr').length") == 1
        tab.run(f"location.hash = '#/slide/{ID}'")
        tab.wait("document.querySelector('#viewer canvas.overlay')")
        tab.wait("document.querySelector('#colours select').options.length > 3")
        tab.wait(STILL)
        many = json.loads(tab.run(MANY_TILES_SCRIPT + MANY_TILES))
        assert (many["tiles"], many["canvases"], many["added"]) == (60_000, 1, 0)
        whole, near = many["frames"]
        assert whole == {"drawImage": 1, "rect": 0}, "one picture, however many tiles"
        assert near["drawImage"] == 1
        assert 0 < near["rect"] < 6_000, "rims are drawn of what is in sight alone"
        tab.press("n")
        tab.wait("document.querySelector('#tile dl')")
        tab.press("d")
        tab.wait(_says("decisions.csv"))
        tab.run("document.getElementById('show-rejected').click()")
        tab.wait("workbench.layers.extra.rejected")
        assert tab.run("document.querySelectorAll('#more-rejected input').length") >= 1
        tab.wait("document.querySelector('#tile img')?.naturalWidth > 0")
        bottom, height = json.loads(tab.run(TILE_SEEN))
        assert 0 < bottom <= height, "what a tile looks like is seen without scrolling"
        tab.run("document.querySelector('#viewer .openseadragon-canvas').focus()")
        place = tab.run(VIEW)
        for key in "fra":  # by which OpenSeadragon itself flips, turns and moves a slide
            tab.press(key)
        tab.run("new Promise(done => setTimeout(done, 100))")
        assert tab.run(VIEW) == place
        tab.press("s")
        tab.wait("document.querySelectorAll('#viewer canvas.overlay').length == 2")
        tab.wait(ALIKE)
        tab.press("s")
        tab.run("void workbench.pane.viewer.viewport.goHome(true)")
        tab.run("document.getElementById('mask-subtract').click()")
        tab.wait("workbench.layers.extra.tissue && workbench.pane.spot")
        x, y = json.loads(tab.run("JSON.stringify(workbench.layers.shown.places.slice(0, 2))"))
        _drag(tab, [(x, y), (x + 2000, y), (x + 2000, y + 2000), (x, y + 2000)])
        tab.wait(_says(f"masks/{ID}.geojson"))
        assert (mine / "masks" / f"{ID}.geojson").exists()
        tab.press("Escape")
        assert tab.run("workbench.pane.spot === null")
        tab.run(f"location.hash = '#/array/{ARRAY}'")
        tab.wait(f"window.workbench?.array && {STILL}")
        assert region is not None
        x, y = region.x + region.width / 2, region.y + region.height / 2
        _drag(tab, [(x, y), (x + 30, y + 10)])
        tab.wait(_says(f"cores/{ARRAY}.csv"))
        moved = next(c for c in read_cores(table) if c.mapped.core_id == name)
        assert moved.region is not None
        assert abs(moved.region.x - region.x - 30) <= 3
        assert abs(moved.region.y - region.y - 10) <= 3
        others = {c.mapped.core_id: c.region for c in read_cores(table)}
        assert {n for n in before if before[n] != others[n]} == {name}
        tab.run("location.reload()")
        tab.wait("document.body && document.body.dataset.ready")
        tab.wait("document.querySelectorAll('#core-list tbody tr').length > 10")
        tab.press("u")
        tab.wait(_says("as it was before"))
        assert {c.mapped.core_id: c.region for c in read_cores(table)} == before
        tab.run(f"location.hash = '#/slide/{ID}'")
        tab.wait("document.getElementById('name').textContent == 'liver'")
    rows = read_decisions(mine / "qc" / "decisions.csv").rows
    assert [(row.slide_id, row.choice) for row in rows] == [(ID, "drop")]


def test_two_people_decide_at_once_and_see_what_the_other_did(mine: Path, tmp_path: Path) -> None:
    """Each has a server and a browser; all decisions stand, and each page comes to show them."""
    slides = f"--slides={tmp_path / 'slides'}"
    with ExitStack() as stack:
        addresses = [stack.enter_context(served(mine, slides)) for _ in range(2)]
        tabs = [stack.enter_context(Tab(f"{each}#/slide/{ID}")) for each in addresses]
        for tab in tabs:
            tab.wait("window.workbench?.layers.shown && workbench.layers.shown.count > 8")
            tab.run(NO_FLAGS)  # then one steps through all tiles
        for _ in range(4):
            for tab, way in zip(tabs, "np", strict=True):  # from both ends; neither waits
                tab.press(way)
                tab.press("d")
        for tab in tabs:
            tab.wait("document.getElementById('counts').textContent.includes('8 dropped in all')")
        tabs[0].press("u")
        tabs[1].wait("workbench.layers.shown.dropped.size == 7")
        assert tabs[1].run(_says("somebody else"))
        places = json.loads(tabs[0].run("JSON.stringify(workbench.layers.shown.places)"))
    ends = (*range(3), *range(-4, 0))
    wanted = {tuple(places[2 * row :][:2]) for row in ends}
    rows = read_decisions(mine / "qc" / "decisions.csv").rows
    assert {(row.slide_id, row.place, row.choice) for row in rows} == {
        (ID, place, "drop") for place in wanted
    }


def test_it_can_be_used_with_keys_read_aloud_and_in_the_dark(mine: Path, tmp_path: Path) -> None:
    """Every view passes axe's rules (WCAG 2.1 AA, contrast too), focus goes where one goes."""
    axe = pytest.importorskip("axe_core_python", reason="axe-core looks at the page")
    rules = (resources.files(axe) / "axe.min.js").read_text("utf-8")
    with served(mine, f"--slides={tmp_path / 'slides'}") as address, Tab(address) as tab:
        tab.wait("document.body && document.body.dataset.ready")
        tab.run(rules)
        for scheme in ("light", "dark"):
            tab.command("Emulation.setEmulatedMedia",
                        features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
            for place, ready in (
                ("", "document.querySelector('#list table')"),
                (f"slide/{ID}", "document.getElementById('whole').textContent"),
                (f"array/{ARRAY}", "document.querySelector('#core-list table')"),
            ):
                tab.run(f"location.hash = '#/{place}'")
                tab.wait(ready)
                assert tab.run(AXE) == [], (scheme, place)
                focused = {"": "find", "slide": "name", "array": "array-name"}
                wanted = focused[place.partition("/")[0]]
                if place:
                    tab.wait(f"document.activeElement.id == {wanted!r}")
        tab.run("document.querySelector('#core-list button').focus()")
        tab.run("document.activeElement.click()")
        assert tab.run("document.querySelector('#core h2').textContent.length") > 0
        assert tab.run("document.getElementById('core').getAttribute('aria-live')") == "polite"
        tab.press("Escape")
        tab.wait("!document.getElementById('cohort').hidden")
