"""How long a browser waits for a tile of a slide, and for the first sight of it.

python -m benchmarks.view [SLIDE ...] [--tiles 300] [--seconds 8] [--made 100000] [--patch SLIDE]
                          [--peers FOLDER] [--sights 3]

The workbench, OpenSlide's DeepZoomGenerator behind the same framework with JPEG of the same
quality, and TIAToolbox's TileServer, in an environment of its own below ``--peers``, each asked in
its own process by the test client of its framework. Each tile is asked for once, in an order that
jumps over all levels, which no cache helps, until the seconds are over. ``--made`` also measures
scans of that side that repeat real tissue: with small levels; with a coarsest level of a quarter,
all of which has to be averaged for a coarse tile; with one level. Nobody but the workbench is asked
for tiles that take more than 8192 × 8192 px of the slide's nearest level: they have no bound.

``--sights`` opens each slide so often by ``wsi view`` and a fresh Chromium at the slide's page,
and draws 60,000 tiles in a colour over it while one zooms.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from benchmarks.browser import Tab
from benchmarks.environments import PEERS, RUNNERS, prepare
from benchmarks.slides import Scan, read_patch, write_scan
from wsi_pipeline.workbench import QUALITY, SIDE, OpenSlides, SlideFile, levels_of, tile_response

PATH = "/{level:int}/{column:int}_{row:int}.jpg"
MOST_PX = 8192  # a side, of the nearest level, that a peer is made to read for a tile
FIRST = 8  # level whose picture is one tile
MADE = (("levels 1, 4, 16, 64", (1, 4, 16, 64)), ("levels 1 and 4", (1, 4)), ("level 1", (1,)))
MANY_TILES = """var manyTiles = async () => {
  const { Tiles } = await import("/static/overlay.js"), { slide } = workbench;
  const wide = 300, count = 60000, side = slide.width / wide;
  const corners = Array.from({ length: 2 * count }, (_, i) =>
    side * (i % 2 ? Math.floor(i / 2 / wide) : Math.floor(i / 2) % wide));
  const many = new Tiles({ corners, edges: [[side, 0], [0, side]], flags: [], left_out: [] });
  const values = corners.map(Math.sin).slice(0, count).map(Math.abs);
  return { many, layer: { low: 0, high: 1, values } }; };
"""
FRAMES = """(async () => {
  const { many, layer } = await manyTiles(), { pane } = workbench, spent = [];
  pane.draw = paper => { many.paint(paper, layer, 0.5); paper.stroke(many, many.all, "red", 0.5); };
  const next = () => new Promise(requestAnimationFrame);
  await next();
  for (let i = 0; i < 24; i++) {
    const begun = performance.now();
    pane.viewer.viewport.zoomBy(1.15, null, true);
    await next(); await next();
    spent.push((performance.now() - begun) / 2);
  }
  spent.sort((a, b) => a - b);
  return [spent[12], spent[23]]; })()"""
SEEN = "(name => performance.getEntriesByName(name)[0]?.startTime)"

Place = tuple[int, int, int]  # level, column, row


@dataclass(frozen=True)
class Asked:
    """A slide and the tiles that are asked for: by all, and of a bounded read."""

    path: Path
    size: tuple[int, int]
    places: list[Place]
    bounded: list[Place]
    seconds: float


Wait = Callable[[Asked], list[float] | str]  # milliseconds, or why there are none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--tiles", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--made", type=int, default=0)
    parser.add_argument("--patch", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--sights", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # nothing is known from an earlier visit
        made = _made(Path(folder), given.made, given.patch) if given.made else []
        slides = [*given.slides, *made]
        _measure([_asked(path, given.tiles, given.seconds) for path in slides], given.peers)
        if given.sights:
            _look(slides, Path(folder), given.sights)


def _made(folder: Path, side: int, source: Path | None) -> list[Path]:
    """Write scans of a side with and without small levels."""
    patch, side = read_patch(source), side // 64 * 64
    return [
        write_scan(folder / f"made, {name}.svs", Scan(side=side, downsamples=levels), patch)
        for name, levels in MADE
    ]  # fmt: skip


def _asked(path: Path, tiles: int, seconds: float) -> Asked:
    with openslide.OpenSlide(path) as slide:
        size, downsamples = slide.dimensions, slide.level_downsamples
    rng, top = np.random.default_rng(0), levels_of(size)
    places: list[Place] = []
    for _ in range(tiles):
        level = int(rng.integers(max(FIRST, top - 7), top + 1))
        scale = SIDE * 2 ** (top - level)
        column, row = (int(rng.integers(-(-side // scale))) for side in size)
        places.append((level, column, row))

    def read(level: int) -> float:
        scale = 2 ** (top - level)
        nearest = max(each for each in downsamples if each <= scale * 1.01)
        return float(SIDE * scale / nearest)

    return Asked(path, size, places, [at for at in places if read(at[0]) <= MOST_PX], seconds)


def _measure(slides: list[Asked], peers: Path | None) -> None:
    contestants: dict[str, Wait] = {"workbench": _ours, "DeepZoomGenerator": _theirs}
    if peers is not None:
        contestants["TIAToolbox TileServer"] = _tile_server(peers)
    print("| Slide | px | server | tiles | median, ms | 95 %, ms | longest, ms | first, ms |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for asked in slides:
        for name, wait in contestants.items():
            waited = wait(asked)
            start = f"| {asked.path.name} | {asked.size[0]} × {asked.size[1]} | {name} "
            if isinstance(waited, str):
                print(f"{start}| not measured: {waited} | | | | |", flush=True)
                continue
            median, late, last = np.percentile(waited, [50, 95, 100])
            print(f"{start}| {len(waited)} | {median:.1f} | {late:.1f} | {last:.0f} | "
                  f"{waited[0]:.0f} |", flush=True)  # fmt: skip


def _wait(app: Starlette, places: list[Place], seconds: float) -> list[float]:
    """Ask for each tile; return the milliseconds."""
    waited: list[float] = []
    end = time.perf_counter() + seconds
    with TestClient(app) as client:
        for level, column, row in places:
            if time.perf_counter() > end:
                break
            begun = time.perf_counter()
            answer = client.get(f"/{level}/{column}_{row}.jpg")
            waited.append(1000 * (time.perf_counter() - begun))
            assert answer.status_code == 200, answer.text
    return waited


def _ours(asked: Asked) -> list[float]:
    slides, file = OpenSlides(), SlideFile(str(asked.path))

    def answer(request: Request) -> Response:
        return tile_response(slides, file, **request.path_params)

    waited = _wait(_app(answer), asked.places, asked.seconds)
    slides.close()
    return waited


def _theirs(asked: Asked) -> list[float]:
    generator = DeepZoomGenerator(openslide.OpenSlide(asked.path), SIDE, 0)

    def answer(request: Request) -> Response:
        at, out = request.path_params, io.BytesIO()
        tile = generator.get_tile(at["level"], (at["column"], at["row"]))
        tile.save(out, "JPEG", quality=QUALITY)
        return Response(out.getvalue(), media_type="image/jpeg")

    return _wait(_app(answer), asked.bounded, asked.seconds)


def _tile_server(folder: Path) -> Wait:
    """Return what asks TIAToolbox, whose levels are counted from the one of one tile."""
    (peer,) = (peer for peer in PEERS if peer.name == "tiatoolbox")
    python = prepare(peer, folder.resolve())
    if isinstance(python, str):
        return lambda _: python
    started = subprocess.Popen(  # it ends with its input, when the benchmark does
        [str(python), str(RUNNERS / "view_tiatoolbox.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip

    def wait(asked: Asked) -> list[float] | str:
        places = [(level - FIRST, *at) for level, *at in asked.bounded]
        wanted = {"slide": str(asked.path), "places": places, "seconds": asked.seconds}
        assert started.stdin is not None
        assert started.stdout is not None
        print(json.dumps(wanted), file=started.stdin, flush=True)
        line = started.stdout.readline()
        if not line:
            return f"the server ended with {started.wait()}"
        found: list[float] = json.loads(line)
        return found

    return wait


def _look(slides: list[Path], folder: Path, times: int) -> None:
    print(
        "\n| Slide | `wsi view` until its address, s | a tile is seen, s | all are sharp, s "
        "| a frame of 60,000 tiles, ms | the longest, ms |\n|---|---:|---:|---:|---:|---:|"
    )
    for number, path in enumerate(slides):
        run = folder / f"run {number}"
        run.mkdir()
        (run / "cohort.csv").write_text(
            "slide_id,path,patient_id,label,cohort,mpp,split\n"
            f'slide,"{path.name}",P1,normal,a,0.25,\n'
        )
        found = zip(*(_sight(run, path.parent) for _ in range(times)), strict=True)
        told = [statistics.median(each) for each in found]
        values = " | ".join(
            [f"{each:.2f}" for each in told[:3]] + [f"{each:.0f}" for each in told[3:]]
        )
        print(f"| {path.name} | {values} |", flush=True)


def _sight(run: Path, slides: Path) -> tuple[float, ...]:
    """Return seconds of the command until it says its address, then of the page; ms a frame."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "wsi_pipeline.view", str(run), f"--slides={slides}"]
    command.append("--no-browser")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        started = time.perf_counter() - begun
        with Tab(f"{address}#/slide/slide") as tab:
            tab.wait(f"{SEEN}('slide sharp')")
            seen, sharp = (tab.run(f"{SEEN}('slide {name}')") for name in ("seen", "sharp"))
            frames = tab.run(MANY_TILES + FRAMES)
        return started, seen / 1000, sharp / 1000, *frames
    finally:
        server.terminate()
        server.wait(20)


def _app(answer: Callable[[Request], Response]) -> Starlette:
    return Starlette(routes=[Route(PATH, answer)])


if __name__ == "__main__":
    main()
